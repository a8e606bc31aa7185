//! Forms with files (`multipart/form-data`).

use std::collections::HashSet;

use axum::extract::{FromRequest, Multipart, Request, multipart::MultipartError};
use bytes::Bytes;
use serde::de::IgnoredAny;

use super::{broken_off, media_type, quoted, refuse_query};
use crate::{
    config::suggest,
    error::{Code, Error},
    rest::{AppState, problem::Failure},
};

/// Maximum number of parts in a form. The engine limits the number of items, but only after the whole form is
/// read.
const MAX_FORM_PARTS: usize = 8192;

/// One part of a form.
pub(in crate::rest) struct Part {
    /// The field's name.
    pub(in crate::rest) name: String,
    /// Its content.
    pub(in crate::rest) content: PartContent,
}

/// The content of a part of a form.
pub(in crate::rest) enum PartContent {
    /// A file: the part has a file name or the content type of an image.
    File(Bytes),
    /// A text.
    Text(String),
}

/// A form with its parts in order.
pub(in crate::rest) struct Form(Vec<Part>);

impl FromRequest<AppState> for Form {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Failure> {
        if media_type(request.headers()) != "multipart/form-data" {
            let message = "the content type must be multipart/form-data";
            let error = Error::new(Code::UnsupportedMediaType, message);
            return Err(error.with_field("content-type").into());
        }
        refuse_query(request.uri(), "options stand in the fields of the form")?;
        Ok(Self::read(request, state).await?)
    }
}

impl Form {
    /// Reads a whole form.
    ///
    /// # Errors
    /// [`Code::InvalidRequest`] for a malformed form, [`Code::PayloadTooLarge`] if a limit is exceeded.
    pub(in crate::rest) async fn read<S: Send + Sync>(
        request: Request,
        state: &S,
    ) -> Result<Self, Error> {
        let mut form = Multipart::from_request(request, state)
            .await
            .map_err(|error| Error::invalid("content-type", error.body_text()))?;
        let mut parts = Vec::new();
        while let Some(field) = form.next_field().await.map_err(|error| form_error(&error))? {
            if parts.len() == MAX_FORM_PARTS {
                let message = format!("the form has more than {MAX_FORM_PARTS} parts");
                return Err(Error::new(Code::PayloadTooLarge, message));
            }
            let name = field.name().unwrap_or_default().to_owned();
            let is_file = field.file_name().is_some()
                || field.content_type().is_some_and(|kind| kind.starts_with("image/"));
            let bytes = field.bytes().await.map_err(|error| form_error(&error))?;
            let content = if is_file {
                PartContent::File(bytes)
            } else {
                let text = String::from_utf8(bytes.into())
                    .map_err(|_| Error::invalid(quoted(&name), "is not UTF-8"))?;
                PartContent::Text(text)
            };
            parts.push(Part { name, content });
        }
        Ok(Self(parts))
    }

    /// The parts in order.
    ///
    /// * `repeated`: fields that may occur more than once. Files always may
    ///
    /// # Errors
    /// [`Code::InvalidRequest`] if another field occurs twice, and for a JSON array in place of several fields.
    pub(in crate::rest) fn into_parts(
        self,
        repeated: &[&str],
    ) -> Result<impl Iterator<Item = Part>, Error> {
        let mut seen = HashSet::new();
        for part in &self.0 {
            let PartContent::Text(text) = &part.content else { continue };
            if !repeated.contains(&part.name.as_str()) && !seen.insert(part.name.as_str()) {
                return Err(Error::invalid(quoted(&part.name), "is given twice"));
            }
            refuse_list(&part.name, text)?;
        }
        Ok(self.0.into_iter())
    }
}

/// Refuses a JSON array of strings, which would be read as one text.
///
/// # Errors
/// [`Code::InvalidRequest`], which names the field `name`.
pub(in crate::rest) fn refuse_list(name: &str, text: &str) -> Result<(), Error> {
    let begins = text.trim_start().strip_prefix('[').map(str::trim_start);
    if begins.is_some_and(|inside| inside.starts_with('"'))
        && serde_json::from_str::<Vec<IgnoredAny>>(text).is_ok()
    {
        let message = "is a JSON array in one string: give each of its strings on its own";
        return Err(Error::invalid(quoted(name), message));
    }
    Ok(())
}

fn form_error(error: &MultipartError) -> Error {
    let cause = broken_off(error);
    if cause.code() == Code::InvalidRequest {
        return Error::new(
            Code::InvalidRequest,
            format!("the form is damaged: {}", error.body_text()),
        );
    }
    cause
}

/// The error for a part that the route does not know.
///
/// * `known`: the fields that the route reads, separated by commas
pub(in crate::rest) fn unknown_part(name: &str, known: &str) -> Error {
    let message = if ["image", "images", "file", "files", "picture"].contains(&name) {
        format!("came as text, not as a file: write `-F {name}=@cat.png`, with the `@`")
    } else {
        let near = suggest(name, known.split(", "));
        format!("unknown form field; known are files and {known}{near}")
    };
    Error::invalid(quoted(name), message)
}
