//! The routes of Immich's machine learning container that Immich's server calls for smart search.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{embed_all, in_field};
use crate::{
    engine::{ImageInput, Input},
    error::Error,
    preprocess,
    rest::{
        AppState,
        body::{File, Form, PartContent, cleaned_text, parse_slice, unknown_part},
        layers::Ctx,
        openapi::{DetailErrors, RequestHeaders},
        problem::Failure,
        respond::Json,
    },
};

/// A form with the tasks as JSON, and one image or one text.
#[derive(ToSchema)]
#[schema(as = ImmichForm)]
#[expect(dead_code, reason = "only describes the form; `read` reads it")]
pub(in crate::rest) struct PredictForm {
    /// `{"clip": {"visual": {"modelName": ...}}}` for an image, `textual` for a text.
    #[schema(example = r#"{"clip": {"textual": {"modelName": "demo"}}}"#)]
    entries: String,
    /// An image.
    image: Option<File>,
    /// A text.
    text: Option<String>,
}

/// The tasks of a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entries {
    clip: Clip,
}

/// One of the two, depending on whether the request has an image or a text.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Clip {
    Visual(Entry),
    Textual(Entry),
}

/// The model. Other options, such as the language of a text, are ignored.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    model_name: String,
}

/// The vector, and for an image its size.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ImmichAnswer)]
pub(in crate::rest) struct PredictAnswer {
    /// The vector as JSON in a string, of length 1.
    #[schema(example = "[0.0182,-0.0411,0.0077]")]
    clip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_height: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_width: Option<u32>,
}

/// The content of a form.
struct Asked {
    model: String,
    input: Input,
    /// The field with the input.
    field: &'static str,
}

fn read(form: Form) -> Result<Asked, Error> {
    let (mut entries, mut image, mut text) = (None, None::<Bytes>, None);
    for part in form.into_parts(&[])? {
        match (part.name.as_str(), part.content) {
            ("entries", PartContent::Text(json)) => entries = Some(json),
            ("image", PartContent::File(bytes)) => image = Some(bytes),
            ("text", PartContent::Text(value)) => text = Some(value),
            (name, _) => return Err(unknown_part(name, "entries, text")),
        }
    }
    let entries = entries.ok_or_else(|| Error::invalid("entries", "is missing"))?;
    let entries: Entries = parse_slice(&cleaned_text(entries.into())).map_err(|error| {
        let message = format!("only smart search (`clip`) is served here: {error}");
        Error::invalid("entries", message)
    })?;
    match (entries.clip, image, text) {
        (Clip::Visual(entry), Some(bytes), None) => Ok(Asked {
            model: entry.model_name,
            input: Input::Image(ImageInput::Encoded(bytes)),
            field: "image",
        }),
        (Clip::Textual(entry), None, Some(text)) => {
            Ok(Asked { model: entry.model_name, input: Input::Text(text), field: "text" })
        }
        (Clip::Visual(_), ..) => Err(Error::invalid("image", "`visual` needs an image")),
        (Clip::Textual(_), ..) => Err(Error::invalid("text", "`textual` needs a text")),
    }
}

/// Embeds an image or a text for Immich's smart search
///
/// `modelName` must be the name of a model of this server. Serve the model under the name that Immich uses.
#[utoipa::path(
    post,
    path = "/predict",
    operation_id = "immich_predict",
    tag = "compatible",
    params(RequestHeaders),
    request_body(content = PredictForm, content_type = "multipart/form-data"),
    responses((status = 200, description = "The vector", body = PredictAnswer), DetailErrors),
)]
pub(in crate::rest) async fn predict(
    State(state): State<AppState>,
    Ctx(context): Ctx,
    form: Form,
) -> Result<Response, Failure> {
    let Asked { model, input, field } = read(form)?;
    let picture = match &input {
        Input::Image(ImageInput::Encoded(bytes)) => Some(bytes.clone()),
        _ => None,
    };
    let request = embed_all(Some(model), vec![input]);
    let embedded = state.engine().embed(request, &context).await;
    let embedded = embedded.map_err(|error| in_field(error, field))?;
    // Read the size only now: by then, the header was checked against the limits.
    let size = picture.and_then(|bytes| preprocess::size(&bytes));
    let row = embedded.embeddings.first().map(|row| serde_json::to_string(row.as_slice()));
    Ok(Json(PredictAnswer {
        clip: row.transpose().map_err(Error::internal)?.unwrap_or_default(),
        image_height: size.map(|(_, height)| height),
        image_width: size.map(|(width, _)| width),
    })
    .into_response())
}

/// Liveness probe for Immich's server
#[utoipa::path(
    get,
    path = "/ping",
    operation_id = "immich_ping",
    tag = "compatible",
    responses((status = 200, description = "`pong`", body = String, content_type = "text/plain")),
)]
pub(in crate::rest) async fn ping() -> &'static str {
    "pong"
}
