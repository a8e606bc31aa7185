//! Request bodies. JSON, one raw image and a form with files are read into the same request type.

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

/// A request type that can be read from JSON, and possibly from other content types.
pub(super) trait FromPayload: DeserializeOwned + Send + 'static {
    /// The content types that the route reads, for the message of a 415 response.
    const ACCEPTS: &'static str;

    /// Reads JSON.
    ///
    /// # Errors
    /// [`Code::InvalidRequest`], which names the invalid field.
    fn from_json(bytes: &Bytes) -> Result<Self, Error> {
        parse(bytes)
    }

    /// Reads a form.
    ///
    /// # Errors
    /// [`Code::UnsupportedMediaType`] if the route takes no form. Otherwise an error that names the invalid
    /// part.
    fn from_form(form: Form) -> Result<Self, Error> {
        let _ = form;
        Err(unsupported::<Self>())
    }

    /// Reads a body that is one encoded image. The options are in the query.
    ///
    /// # Errors
    /// [`Code::UnsupportedMediaType`] if the route takes no raw image. Otherwise an error that names the
    /// invalid option.
    fn from_image(image: Bytes, uri: &Uri) -> Result<Self, Error> {
        let _ = (image, uri);
        Err(unsupported::<Self>())
    }
}

/// A request, read from any of its content types.
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
        // Clients send a wrong content type or none, so the content decides.
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

/// Whether a body is clearly JSON. Every request is an object, and no image format begins like one.
fn looks_like_json(bytes: &[u8]) -> bool {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    text.trim_ascii_start().first() == Some(&b'{')
}

/// The media type in lower case, without parameters. Empty if there is none.
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

/// Reads the whole body.
///
/// # Errors
/// The error of the limit that the body exceeds, or [`Code::InvalidRequest`] if the client ended the body
/// early.
pub(super) async fn read(mut body: Body) -> Result<Bytes, Error> {
    let mut first = None;
    // Reserve the announced length, so that the buffer is not copied when it grows. Memory for bytes that do
    // not arrive is never touched.
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or_default();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken_off(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        // A body of one frame, as most small bodies are, is not copied.
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

/// The reason why the body ended early: our own limit, which is inside of the reader's error, or the client.
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

/// The bytes of a file, for the OpenAPI document.
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

// Written by hand: an untagged enum buffers the whole value before it chooses a variant, and a two-byte number
// takes 32 bytes in this buffer.
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
