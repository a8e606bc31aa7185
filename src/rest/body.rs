//! Request bodies: JSON, one raw picture, or a form with files, read into the same request type.

mod depth;
mod fault;
mod form;
mod json;
mod null;
mod query;
mod unreadable;

use std::{error::Error as StdError, fmt};

use axum::{
    body::{Body, HttpBody},
    extract::{FromRequest, Request},
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

pub(super) use self::{
    fault::quoted,
    form::{Form, PartContent, refuse_list, unknown_part},
    json::{Intake, cleaned_text, json, parse, parse_by_items, parse_slice},
    query::{option, query, refuse_query},
    unreadable::check as check_readable,
};
use super::{AppState, layers::BodyError, problem::Failure};
use crate::{
    error::{Code, Error},
    preprocess,
};

/// A request that JSON can carry, and perhaps other content types.
pub(super) trait FromPayload: DeserializeOwned + Send + 'static {
    /// The content types that the route reads, for the message of a 415.
    const ACCEPTS: &'static str;

    /// Reads JSON.
    ///
    /// # Errors
    /// [`Code::InvalidRequest`] at the field at fault.
    fn from_json(bytes: &Bytes) -> Result<Self, Error> {
        parse(bytes)
    }

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
        if media_type == "multipart/form-data" {
            refuse_query(request.uri(), "options stand in the fields of the form")?;
            return Ok(Self(T::from_form(Form::read(request, state).await?)?));
        }
        let uri = request.uri().clone();
        let is_json = media_type == "application/json" || media_type.ends_with("+json");
        let is_image = media_type.starts_with("image/");
        let intake = Intake::of(state, &request);
        let bytes = read(request.into_body()).await?;
        // Whatever else a body is called, its content says what it is: clients label it wrongly or not at all.
        if is_json || !is_image && looks_like_json(&bytes) {
            refuse_query(&uri, "options stand in the JSON body")?;
            return Ok(Self(json::request(bytes, intake).await?));
        }
        let is_raw = is_image || media_type == "application/octet-stream";
        if is_raw || preprocess::is_image(&bytes) {
            return Ok(Self(T::from_image(bytes, &uri)?));
        }
        Err(unsupported::<T>().into())
    }
}

/// Whether a body can only be meant as JSON: no image begins so, and every request is an object.
fn looks_like_json(bytes: &[u8]) -> bool {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    text.trim_ascii_start().first() == Some(&b'{')
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

/// The bytes of a file, for the document.
pub(super) struct File;

impl PartialSchema for File {
    fn schema() -> RefOr<Schema> {
        let bytes = ObjectBuilder::new().schema_type(Type::String);
        bytes.format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary))).into()
    }
}

impl ToSchema for File {}

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
