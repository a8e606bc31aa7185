//! Request bodies: JSON, one raw picture, or a form with files, read into the same request type.

mod depth;
mod form;

use std::{error::Error as StdError, fmt, ops::Range};

use axum::{
    body::{Body, HttpBody},
    extract::{FromRequest, Query, Request},
    http::{HeaderMap, Uri, header},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, schema::Type},
};

use self::depth::Excess;
pub(super) use self::{
    depth::Bounds,
    form::{Form, PartContent, unknown_part},
};
use super::{AppState, layers::BodyError, long_text::sharing, problem::Failure};
use crate::error::{Code, Error};

/// Bodies past this are parsed on a thread of their own: a megabyte of numbers takes milliseconds, in
/// which an async worker would serve nobody else.
const INLINE_PARSE_BYTES: usize = 256 << 10;

/// The longest part of a parser's message that is sent back: it may quote the body.
const MAX_QUOTED_CHARS: usize = 200;

/// A request that JSON can carry, and perhaps other content types.
pub(super) trait FromPayload: DeserializeOwned + Send + 'static {
    /// The content types that the route reads, for the message of a 415.
    const ACCEPTS: &'static str;

    /// Reads a form.
    ///
    /// # Errors
    /// [`Code::UnsupportedMediaType`] where the route takes no form; else names the part at fault.
    fn from_form(form: Form) -> Result<Self, Error> {
        let _ = form;
        Err(unsupported::<Self>())
    }

    /// Reads a body that is one encoded picture, its options in the query.
    ///
    /// # Errors
    /// [`Code::UnsupportedMediaType`] where the route has no such form; else names the option at fault.
    fn from_image(image: Bytes, uri: &Uri) -> Result<Self, Error> {
        let _ = (image, uri);
        Err(unsupported::<Self>())
    }
}

/// A request, read from whatever content type it came in.
pub(super) struct Payload<T>(pub(super) T);

impl<T: FromPayload> FromRequest<AppState> for Payload<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Failure> {
        let media_type = media_type(request.headers());
        let is_json = media_type == "application/json" || media_type.ends_with("+json");
        let value = if is_json {
            json(read(request.into_body()).await?, Bounds::of(state.limits())).await?
        } else if media_type == "multipart/form-data" {
            T::from_form(Form::read(request, state).await?)?
        } else if media_type.starts_with("image/") || media_type == "application/octet-stream" {
            let uri = request.uri().clone();
            T::from_image(read(request.into_body()).await?, &uri)?
        } else {
            return Err(unsupported::<T>().into());
        };
        Ok(Self(value))
    }
}

/// The media type in lower case, without parameters; empty where there is none.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

fn unsupported<T: FromPayload>() -> Error {
    Error::new(
        Code::UnsupportedMediaType,
        format!("the content type must be one of: {}", T::ACCEPTS),
    )
    .with_field("content-type")
}

/// The whole body in one piece.
///
/// # Errors
/// That of the bound that it is over, or [`Code::InvalidRequest`] if the client broke off.
pub(super) async fn read(mut body: Body) -> Result<Bytes, Error> {
    let mut first = None;
    // As long as announced, so that it does not grow by copying; what does not come is never touched.
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or_default();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken_off(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        // A body of one frame, as small ones are, is not copied at all.
        match first {
            None if rest.is_empty() => first = Some(data),
            _ => {
                if let Some(first) = first.take() {
                    rest.reserve(announced.max(first.len() + data.len()));
                    rest.extend_from_slice(&first);
                }
                rest.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| rest.freeze()))
}

/// Why the body ended early: our own bound, which hides under the reader's errors, or the client.
fn broken_off(error: &(dyn StdError + 'static)) -> Error {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(&own) = error.downcast_ref::<BodyError>() {
            return own.to_error();
        }
        cause = error.source();
    }
    Error::new(Code::InvalidRequest, "the body could not be read to its end")
}

/// Reads JSON within bounds.
///
/// # Errors
/// [`Code::JsonTooDeep`]; [`Code::TooManyItems`]; [`Code::InvalidRequest`] at the field at fault.
pub(super) async fn json<T: DeserializeOwned + Send + 'static>(
    bytes: Bytes,
    bounds: Bounds,
) -> Result<T, Error> {
    let inline = bytes.len() <= INLINE_PARSE_BYTES;
    let parse = move || {
        // Before any parser: some of them recurse, and one that skips an unknown field does not count.
        let useless = depth::measure(&bytes, bounds).map_err(too_much)?;
        parse_json(&masked(bytes, &useless))
    };
    if inline {
        return parse();
    }
    // Bounded by the budget of body bytes, so these threads are few.
    tokio::task::spawn_blocking(parse).await.map_err(Error::internal)?
}

/// Question marks in the place of strings that no field takes. They are refused where and as those would be, but a
/// message that quotes them is found at once: to tell which characters to escape takes seconds for tens of megabytes,
/// and escaped they may be several times as long.
fn masked(bytes: Bytes, useless: &[Range<usize>]) -> Bytes {
    if useless.is_empty() {
        return bytes;
    }
    let mut bytes = BytesMut::from(bytes);
    for inside in useless {
        bytes[inside.clone()].fill(b'?');
    }
    bytes.freeze()
}

fn too_much(excess: Excess) -> Error {
    match excess {
        Excess::Depth(limit) => Error::new(
            Code::JsonTooDeep,
            format!("the JSON is nested deeper than the limit of {limit}"),
        ),
        Excess::Parts(limit) => Error::new(
            Code::TooManyItems,
            format!(
                "the JSON has more than {limit} strings, arrays and objects; split the request"
            ),
        ),
    }
}

/// Parses JSON; a fault is named by its path.
fn parse_json<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Error> {
    sharing(bytes, || parse_shared(bytes))
}

fn parse_shared<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    // Tracking the path costs time for every value, so only a body with a fault pays for it.
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let error = match serde_path_to_error::deserialize::<_, T>(&mut parser) {
        Ok(value) => return parser.end().map(|()| value).map_err(|error| syntax_error(&error)),
        Err(error) => error,
    };
    let path = error.path().to_string();
    let error = error.into_inner();
    if !error.is_data() {
        return Err(syntax_error(&error));
    }
    let message = quoted(&error.to_string());
    let field = faulty_field(&path, &message);
    let fault = Error::new(Code::InvalidRequest, message);
    Err(if field.is_empty() { fault } else { fault.with_field(field) })
}

/// The path of the field at fault. A missing field has no place of its own, so the parser's path ends
/// above it; its name stands in the message.
fn faulty_field(path: &str, message: &str) -> String {
    // The parser writes `.` for the whole body and `?` for a key that it could not read.
    let path = path.trim_end_matches(['.', '?']);
    let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    match missing {
        Some(name) if path.is_empty() => name.to_owned(),
        Some(name) => format!("{path}.{name}"),
        None => path.to_owned(),
    }
}

fn syntax_error(error: &serde_json::Error) -> Error {
    Error::new(
        Code::InvalidRequest,
        format!("the body is not JSON: {}", quoted(&error.to_string())),
    )
}

/// A parser's message, cut where it quotes too much of the body.
pub(super) fn quoted(message: &str) -> String {
    match message.char_indices().nth(MAX_QUOTED_CHARS) {
        None => message.to_owned(),
        Some((end, _)) => format!("{}...", &message[..end]),
    }
}

/// A value of a form field or a query parameter, as its type writes it.
///
/// # Errors
/// [`Code::InvalidRequest`] at `name`.
pub(super) fn option<T: DeserializeOwned>(name: &'static str, text: &str) -> Result<T, Error> {
    // Numbers and booleans are JSON; what is neither is a word.
    serde_json::from_str(text)
        .or_else(|_| serde_json::from_value(serde_json::Value::from(text)))
        .map_err(|error| Error::invalid(name, quoted(&error.to_string())))
}

/// The bytes of a file, for the document.
pub(super) struct File;

impl PartialSchema for File {
    fn schema() -> RefOr<Schema> {
        let bytes = ObjectBuilder::new().schema_type(Type::String);
        bytes.format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary))).into()
    }
}

impl ToSchema for File {}

/// The options in a query.
///
/// # Errors
/// [`Code::InvalidRequest`] at `query`, with the parameter in the message.
pub(super) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Error> {
    let parsed = Query::try_from_uri(uri);
    parsed
        .map(|Query(options)| options)
        .map_err(|error| Error::invalid("query", quoted(&error.body_text())))
}

/// One string or an array of strings.
#[derive(Debug, Default)]
pub(super) struct Strings(pub(super) Vec<String>);

// Written by hand: an untagged enum keeps what it reads until it knows what it is, and a number of two bytes
// takes thirty-two then.
impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StringsVisitor;

        impl<'de> Visitor<'de> for StringsVisitor {
            type Value = Strings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Strings, E> {
                Ok(Strings(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Strings, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Strings)
            }
        }

        deserializer.deserialize_any(StringsVisitor)
    }
}

/// One string, or an array of strings.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only describes `Strings` for the document")]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[cfg(test)]
mod tests;
