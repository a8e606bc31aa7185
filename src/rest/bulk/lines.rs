//! Rows as JSON lines.

use std::{borrow::Cow, io};

use bytes::{Buf, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_util::codec::Decoder;

use super::{RowError, receive::take_row};
use crate::{
    engine::{BulkEnd, BulkEvent, BulkRow, ImageInput, Input, RowBytes},
    error::{Code, Error},
    rest::{
        body::{cleaned_text, parse_slice},
        embeddings::{EncodingFormat, answer::Vector},
        long_text::{LongText, sharing},
        respond::Usage,
    },
};

/// Maximum number of bytes of an id. It is copied unchanged to the result.
const MAX_ID_BYTES: usize = 256;
/// Longer lines are parsed on a separate thread.
const INLINE_PARSE_BYTES: usize = 256 << 10;

/// A row's id exactly as it was sent. `None` if there was none.
pub(super) type Id = Option<Box<RawValue>>;

/// Splits a body into lines. A line that is too long is skipped and not kept in memory.
#[derive(Debug)]
pub(super) struct Lines {
    max: usize,
    /// Number of bytes at the start of the buffer that are known to have no line break.
    scanned: usize,
    /// Whether the rest of a line that is too long is being skipped.
    skipping: bool,
}

/// A line, or a mark in place of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Whole(Bytes),
    /// The line is too long.
    TooLong {
        max: usize,
    },
}

impl Lines {
    pub(super) fn new(max: usize) -> Self {
        Self { max, scanned: 0, skipping: false }
    }

    /// The next line without its line break. `None` if no line is complete yet.
    fn next(&mut self, buffer: &mut BytesMut) -> Option<Line> {
        loop {
            let found = memchr::memchr(b'\n', &buffer[self.scanned..]);
            let Some(at) = found.map(|at| at + self.scanned) else {
                self.scanned = buffer.len();
                if self.scanned <= self.max && !self.skipping {
                    return None;
                }
                buffer.clear();
                self.scanned = 0;
                // Report it once, at its beginning: the client may be waiting for the result.
                let first = !std::mem::replace(&mut self.skipping, true);
                return first.then_some(Line::TooLong { max: self.max });
            };
            self.scanned = 0;
            let skipped = std::mem::take(&mut self.skipping);
            if !skipped && at > self.max {
                buffer.advance(at + 1);
                return Some(Line::TooLong { max: self.max });
            }
            // Blank lines are ignored.
            if skipped || buffer[..at].trim_ascii().is_empty() {
                buffer.advance(at + 1);
                continue;
            }
            let line = take_row(buffer, at);
            buffer.advance(1);
            return Some(Line::Whole(line));
        }
    }
}

impl Decoder for Lines {
    type Item = Line;
    type Error = io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Line>> {
        Ok(self.next(buffer))
    }

    fn decode_eof(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Line>> {
        if let Some(line) = self.next(buffer) {
            return Ok(Some(line));
        }
        // The last line needs no line break.
        self.scanned = 0;
        let blank = self.skipping || buffer.trim_ascii().is_empty();
        let rest = take_row(buffer, buffer.len());
        Ok((!blank).then_some(Line::Whole(rest)))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row<'l> {
    #[serde(borrow)]
    id: Option<&'l RawValue>,
    #[serde(borrow)]
    text: Option<Cow<'l, str>>,
    image: Option<LongText>,
}

/// The id of a line that is JSON, but not a valid row.
#[derive(Deserialize)]
struct IdOnly<'l> {
    #[serde(borrow)]
    id: Option<&'l RawValue>,
}

/// Reads a line. An invalid line becomes a row that fails.
///
/// # Errors
/// The body ended early.
pub(super) async fn read(
    (line, bytes): (io::Result<Line>, Option<RowBytes>),
) -> Result<BulkRow<Id>, Error> {
    let line = match line {
        Ok(Line::Whole(line)) => line,
        Ok(Line::TooLong { max }) => {
            let message = format!("the line has more than {max} bytes");
            let error = Error::new(Code::PayloadTooLarge, message);
            return Ok(BulkRow { id: None, input: Input::Unreadable(error), bytes: None });
        }
        Err(_) => return Err(super::broken_off()),
    };
    if line.len() <= INLINE_PARSE_BYTES {
        return Ok(parse(&line, bytes));
    }
    tokio::task::spawn_blocking(move || parse(&line, bytes)).await.map_err(Error::internal)
}

pub(super) fn parse(line: &Bytes, bytes: Option<RowBytes>) -> BulkRow<Id> {
    let line = &cleaned_text(line.clone());
    let row = sharing(line, || parse_slice::<Row<'_>>(line));
    let (raw_id, input) = match row {
        Ok(row) => (row.id, input(row.text, row.image)),
        Err(error) => {
            let id = serde_json::from_slice::<IdOnly<'_>>(line).ok().and_then(|row| row.id);
            (id, Err(error))
        }
    };
    let (id, input) = match raw_id.map(checked_id).transpose() {
        Ok(id) => (id.flatten(), input),
        Err(error) => (None, Err(error)),
    };
    BulkRow { id, input: input.unwrap_or_else(Input::Unreadable), bytes }
}

fn input(text: Option<Cow<'_, str>>, image: Option<LongText>) -> Result<Input, Error> {
    match (text, image) {
        (Some(text), None) => Ok(Input::Text(text.into_owned())),
        (None, Some(image)) => {
            let image = ImageInput::parse(image.0);
            image.map(Input::Image).map_err(|error| error.with_field("image"))
        }
        _ => Err(Error::new(Code::InvalidRequest, "a row has either `text` or `image`")),
    }
}

fn checked_id(id: &RawValue) -> Result<Id, Error> {
    let text = id.get();
    let is_scalar =
        text.starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit());
    if text == "null" {
        Ok(None)
    } else if is_scalar && text.len() <= MAX_ID_BYTES {
        Ok(Some(id.to_owned()))
    } else {
        let message = format!("must be a string or a number of at most {MAX_ID_BYTES} bytes");
        Err(Error::invalid("id", message))
    }
}

#[derive(Serialize)]
struct Answer<'e> {
    index: u64,
    id: &'e Id,
    #[serde(flatten)]
    outcome: Outcome<'e>,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<bool>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome<'e> {
    Embedding(Vector),
    Error(RowError<'e>),
}

#[derive(Serialize)]
struct End<'e> {
    done: bool,
    rows: u64,
    failed: u64,
    usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<RowError<'e>>,
}

impl<'e> From<&'e BulkEnd> for End<'e> {
    fn from(end: &'e BulkEnd) -> Self {
        Self {
            done: end.cut.is_none(),
            rows: end.rows,
            failed: end.failed,
            usage: end.usage.into(),
            error: end.cut.as_ref().map(RowError::from),
        }
    }
}

/// The content of the last line as JSON.
pub(super) fn end(end: &BulkEnd) -> Vec<u8> {
    // Writing numbers and strings to memory cannot fail.
    serde_json::to_vec(&End::from(end)).unwrap_or_default()
}

/// Writes each event as a line.
pub(super) fn write(events: Vec<BulkEvent<Id>>, format: EncodingFormat) -> Bytes {
    let mut text = Vec::new();
    for event in events {
        match event {
            BulkEvent::Row { id, index, outcome, truncated } => {
                let outcome = match &outcome {
                    Ok(row) => Outcome::Embedding(Vector::new(row.clone(), format)),
                    Err(error) => Outcome::Error(error.into()),
                };
                let truncated = truncated.then_some(true);
                let answer = Answer { index, id: &id, outcome, truncated };
                serde_json::to_writer(&mut text, &answer).unwrap_or_default();
            }
            BulkEvent::End(ended) => text.extend(end(&ended)),
        }
        text.push(b'\n');
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a body in chunks and returns the lines.
    fn lines(pieces: &[&str], max: usize) -> Vec<Line> {
        let mut lines = Lines::new(max);
        let mut buffer = BytesMut::new();
        let mut found = Vec::new();
        for piece in pieces {
            buffer.extend_from_slice(piece.as_bytes());
            while let Some(line) = lines.decode(&mut buffer).expect("never fails") {
                found.push(line);
            }
            assert!(buffer.len() <= max + piece.len());
        }
        while let Some(line) = lines.decode_eof(&mut buffer).expect("never fails") {
            found.push(line);
        }
        found
    }

    fn whole(text: &'static str) -> Line {
        Line::Whole(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn lines_are_found_however_the_body_is_cut() {
        let expected = [whole("{\"a\": 1}"), whole("b"), whole("last")];
        assert_eq!(lines(&["{\"a\": 1}\nb\n\n  \r\nlast"], 64), expected);
        let single: Vec<String> = "{\"a\": 1}\nb\nlast".chars().map(String::from).collect();
        let single: Vec<&str> = single.iter().map(String::as_str).collect();
        assert_eq!(lines(&single, 64), expected);
    }

    #[test]
    fn a_line_too_long_is_one_fault_and_never_held() {
        let long = Line::TooLong { max: 4 };
        assert_eq!(lines(&["12345\nab\n"], 4), [Line::TooLong { max: 4 }, whole("ab")]);
        assert_eq!(lines(&["123", "456", "789", "\nab\n"], 4), [long, whole("ab")]);
        assert_eq!(lines(&["123456"], 4), [Line::TooLong { max: 4 }]);
    }

    #[test]
    fn a_line_that_is_no_row_keeps_its_id() {
        for (line, id, fault) in [
            (r#"{"id": "a", "text": "x", "image": "y"}"#, Some("\"a\""), "either"),
            (r#"{"id": 7}"#, Some("7"), "either"),
            (r#"{"id": -1.5, "txt": "x"}"#, Some("-1.5"), "did you mean `text`"),
            (r#"{"id": "b", "text": 5}"#, Some("\"b\""), "must be a string"),
            (r#"{"id": "e", "text": "\ud83d"}"#, Some("\"e\""), "surrogate"),
            (r#"{"id": {"a": 1}, "text": "x"}"#, None, "must be a string"),
            (r#"{"id": "c", "text": "#, None, "not JSON"),
            ("[]", None, "must be a JSON object"),
            (r#"{"id": "d", "image": "https://example.com/a.png"}"#, Some("\"d\""), ""),
        ] {
            let row = parse(&Bytes::from(line), None);
            assert_eq!(row.id.as_deref().map(RawValue::get), id, "{line}");
            if let Input::Unreadable(error) = row.input {
                assert!(error.message().contains(fault), "{error}");
            } else {
                assert_eq!(fault, "", "{line}");
            }
        }
        let row = parse(&Bytes::from_static(br#"{"text": "a \u00e9", "image": null}"#), None);
        assert!(row.id.is_none() && matches!(row.input, Input::Text(text) if text == "a é"));
    }
}
