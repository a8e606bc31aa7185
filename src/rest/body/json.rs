//! JSON within bounds, and what is wrong with it.

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

/// Bodies past this are parsed on a thread of their own: a megabyte of numbers takes milliseconds, in
/// which an async worker would serve nobody else.
const INLINE_PARSE_BYTES: usize = 256 << 10;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What a body is measured by, and the budget that what is read from it is taken from.
pub(in crate::rest) struct Intake {
    bounds: Bounds,
    share: Option<BodyShare>,
}

impl Intake {
    /// That of a request, whose bodies are counted.
    pub(in crate::rest) fn of(state: &AppState, request: &Request) -> Self {
        Self { bounds: Bounds::of(state.limits()), share: BodyShare::of(request) }
    }

    /// For a body that came with no request.
    #[cfg(any(test, debug_assertions))]
    pub(in crate::rest) fn uncounted(limits: &crate::config::Limits) -> Self {
        Self { bounds: Bounds::of(limits), share: None }
    }
}

/// Reads JSON within bounds.
///
/// # Errors
/// [`Code::PayloadTooLarge`] and [`Code::Overloaded`] where the budget is too small; [`Code::JsonTooDeep`]; [`Code::TooManyItems`]; [`Code::InvalidRequest`] at the field at fault.
pub(in crate::rest) async fn json<T: DeserializeOwned + Send + 'static>(
    bytes: Bytes,
    intake: Intake,
) -> Result<T, Error> {
    parsed(bytes, intake, parse).await
}

/// Reads a request as its type wants it read.
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
        // Before any parser: some of them recurse, and one that skips an unknown field does not count.
        let found = depth::measure(&bytes, intake.bounds).map_err(too_much)?;
        let share = intake.share;
        // What is parsed may be a hundred times as large as the body.
        share
            .as_ref()
            .map_or(Ok(()), |share| share.add(found.parsed_bytes()))
            .map_err(BodyError::to_error)?;
        let parsed = parse(&cleaned(bytes, &found));
        // A parse goes on when its client has left.
        drop(share);
        parsed
    };
    if inline {
        return parse();
    }
    // Bounded by the budget of body bytes, so these threads are few.
    tokio::task::spawn_blocking(parse).await.map_err(Error::internal)?
}

/// A line or a part of a form without its byte order mark and without members that are null.
pub(in crate::rest) fn cleaned_text(bytes: Bytes) -> Bytes {
    let bytes = unmarked(bytes);
    let found = depth::measure(&bytes, Bounds::NONE).unwrap_or_default();
    cleaned(bytes, &found)
}

/// Without a byte order mark.
fn unmarked(mut bytes: Bytes) -> Bytes {
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.advance(BYTE_ORDER_MARK.len());
    }
    bytes
}

/// Question marks in the place of strings that no field takes, blanks in that of members that are null. Such strings
/// are refused where and as they would be, but a message that quotes them is found at once: to tell which characters
/// to escape takes seconds for tens of megabytes, and escaped they may be several times as long.
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

/// Parses JSON; a fault is named by its path.
///
/// # Errors
/// [`Code::InvalidRequest`] at the field at fault.
pub(in crate::rest) fn parse<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Error> {
    sharing(bytes, || parse_slice(bytes))
}

/// The same for a request whose items may fail one by one: a string that cannot be read is the fault of
/// the item that it stands in.
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

/// Parses JSON that nothing is shared with.
///
/// # Errors
/// Those of [`parse`].
pub(in crate::rest) fn parse_slice<'b, T: serde::Deserialize<'b>>(
    bytes: &'b [u8],
) -> Result<T, Error> {
    // A struct would be read from an array as well.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(match serde_json::from_slice::<IgnoredAny>(bytes) {
            Ok(_) => Error::new(Code::InvalidRequest, "must be a JSON object"),
            Err(error) => syntax_error(bytes, &error),
        });
    }
    // Tracking the path costs time for every value, so only a body with a fault pays for it.
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
    // JSON may hold what its parser cannot give the type that asks for it: a word where it finds a number, or a
    // number of a thousand digits.
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
