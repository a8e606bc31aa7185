//! Reads JSON within limits and reports what is wrong with it.

use std::ops::Range;

use axum::extract::Request;
use bytes::{Buf, Bytes, BytesMut};
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{
    FromPayload,
    depth::{self, Bounds, Excess, Found},
    fault::{self, quoted},
    null, unreadable,
};
use crate::{
    config::Limit,
    error::{Code, Error},
    rest::{
        AppState,
        layers::{BodyError, BodyShare},
        long_text::sharing,
    },
};

/// Larger bodies are parsed on a separate thread: a megabyte of numbers takes milliseconds, and would block an
/// async worker for this time.
const INLINE_PARSE_BYTES: usize = 256 << 10;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The limits for a body, and the memory budget for the parsed values.
pub(in crate::rest) struct Intake {
    bounds: Bounds,
    share: Option<BodyShare>,
}

impl Intake {
    /// The intake of a request. Its body counts towards the budget.
    pub(in crate::rest) fn of(state: &AppState, request: &Request) -> Self {
        Self { bounds: Bounds::of(state.limits()), share: BodyShare::of(request) }
    }

    /// For a body that does not come from a request.
    #[cfg(any(test, fuzzing))]
    pub(in crate::rest) fn uncounted(limits: &crate::config::Limits) -> Self {
        Self { bounds: Bounds::of(limits), share: None }
    }
}

/// Reads JSON within the limits.
///
/// # Errors
/// [`Code::PayloadTooLarge`] and [`Code::Overloaded`] if the budget is too small, [`Code::JsonTooDeep`],
/// [`Code::TooManyItems`], and [`Code::InvalidRequest`], which names the invalid field.
pub(in crate::rest) async fn json<T: DeserializeOwned + Send + 'static>(
    bytes: Bytes,
    intake: Intake,
) -> Result<T, Error> {
    parsed(bytes, intake, parse).await
}

/// Reads a request with the parser of its type.
///
/// # Errors
/// Those of [`json`].
pub(super) async fn request<T: FromPayload>(bytes: Bytes, intake: Intake) -> Result<T, Error> {
    parsed(bytes, intake, T::from_json).await
}

async fn parsed<T: Send + 'static>(
    bytes: Bytes,
    intake: Intake,
    parse: fn(&Bytes) -> Result<T, Error>,
) -> Result<T, Error> {
    let inline = bytes.len() <= INLINE_PARSE_BYTES;
    let parse = move || {
        let bytes = unmarked(bytes);
        // Before any parser: some parsers recurse, and a parser that skips an unknown field does not count its
        // depth.
        let found = depth::measure(&bytes, intake.bounds).map_err(too_much)?;
        let share = intake.share;
        // The parsed values can be a hundred times as large as the body.
        share
            .as_ref()
            .map_or(Ok(()), |share| share.add(found.parsed_bytes()))
            .map_err(BodyError::to_error)?;
        let parsed = parse(&cleaned(bytes, &found));
        // Parsing continues after the client has disconnected.
        drop(share);
        parsed
    };
    if inline {
        return parse();
    }
    // The budget of body bytes limits the number of these threads.
    tokio::task::spawn_blocking(parse).await.map_err(Error::internal)?
}

/// A line or a part of a form, without a byte order mark and without members that are null.
pub(in crate::rest) fn cleaned_text(bytes: Bytes) -> Bytes {
    let bytes = unmarked(bytes);
    let found = depth::measure(&bytes, Bounds::NONE).unwrap_or_default();
    cleaned(bytes, &found)
}

/// Removes a byte order mark.
fn unmarked(mut bytes: Bytes) -> Bytes {
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.advance(BYTE_ORDER_MARK.len());
    }
    bytes
}

/// Replaces strings that no field accepts with question marks, and members that are null with spaces. The
/// strings are still refused with the same error. But an error message that quotes a string of tens of
/// megabytes takes seconds to escape, and the escaped text can be several times as long.
fn cleaned(bytes: Bytes, found: &Found) -> Bytes {
    if found.is_clean() {
        return bytes;
    }
    let mut bytes = BytesMut::from(bytes);
    let fill = |inside: &Range<usize>| bytes[inside.clone()].fill(b'?');
    found.useless.iter().for_each(fill);
    null::blank(&mut bytes, &found.nulls);
    bytes.freeze()
}

fn too_much(excess: Excess) -> Error {
    match excess {
        Excess::Depth(limit) => {
            let limit = Limit::count(limit, "limits.max_json_depth");
            let message = format!("the JSON is nested deeper than the limit of {limit}");
            Error::new(Code::JsonTooDeep, message)
        }
        Excess::Parts(limit) => Error::new(
            Code::TooManyItems,
            format!(
                "the JSON has more than {limit} strings, arrays and objects; split the request"
            ),
        ),
    }
}

/// Parses JSON. An error names the path of the invalid value.
///
/// # Errors
/// [`Code::InvalidRequest`], which names the invalid field.
pub(in crate::rest) fn parse<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Error> {
    sharing(bytes, || parse_slice(bytes))
}

/// The same for a request whose items can fail one by one: only the item with an unreadable string fails.
///
/// # Errors
/// Those of [`parse`].
pub(in crate::rest) fn parse_by_items<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Error> {
    let error = match parse(bytes) {
        Err(error) if unreadable::is_cause(&error) => error,
        parsed => return parsed,
    };
    unreadable::parse_marked(bytes, |marked| parse(marked).ok()).ok_or(error)
}

/// Parses JSON whose buffer is not shared with the parsed strings.
///
/// # Errors
/// Those of [`parse`].
pub(in crate::rest) fn parse_slice<'b, T: serde::Deserialize<'b>>(
    bytes: &'b [u8],
) -> Result<T, Error> {
    // serde would also read a struct from an array.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(match serde_json::from_slice::<IgnoredAny>(bytes) {
            Ok(_) => Error::new(Code::InvalidRequest, "must be a JSON object"),
            Err(error) => syntax_error(bytes, &error),
        });
    }
    // Tracking the path costs time for every value, so the path is tracked only in a second pass over an
    // invalid body.
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let error = match serde_path_to_error::deserialize::<_, T>(&mut parser) {
        Ok(value) => {
            return parser.end().map(|()| value).map_err(|error| syntax_error(bytes, &error));
        }
        Err(error) => error,
    };
    let path = error.path().to_string();
    let error = error.into_inner();
    if error.is_data() {
        return Err(fault::of(&path, &error.to_string()));
    }
    // Valid JSON may hold a value that does not fit the type: a string instead of a number, or a number with a
    // thousand digits.
    match serde_json::from_slice::<IgnoredAny>(bytes) {
        Ok(_) => Err(fault::of_value(&path, &error.to_string())),
        Err(error) => Err(syntax_error(bytes, &error)),
    }
}

fn syntax_error(bytes: &[u8], error: &serde_json::Error) -> Error {
    let message = match bytes {
        [] => "the body is empty".to_owned(),
        [0xfe, 0xff, ..] | [0xff, 0xfe, ..] => {
            "the body is UTF-16: JSON is sent as UTF-8".to_owned()
        }
        _ => format!("the body is not JSON: {}", quoted(&error.to_string())),
    };
    Error::new(Code::InvalidRequest, message)
}
