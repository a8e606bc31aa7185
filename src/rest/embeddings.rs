//! `POST /v1/embeddings`: texts and pictures to vectors, in OpenAI's shape.

pub(super) mod input;

use axum::{extract::State, http::Uri, response::Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use self::input::{Inputs, Item};
use super::{
    AppState,
    body::{File, Form, FromPayload, PartContent, Payload, option, query, unknown_part},
    layers::Ctx,
    openapi::OpenAiErrors,
    problem::Failure,
    respond::{self, Usage},
};
use crate::{
    embedding::Embedding,
    engine::{EmbedRequest, Embedded},
    error::Error,
};

/// What to embed, and how the answer is written.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(
    json!({"input": ["a cat", "a dog"]}),
    json!({"input": [{"text": "a cat"}, {"image": "data:image/png;base64,iVBORw0..."}], "encoding_format": "base64"}),
    json!({"input": ["data:image/png;base64,iVBORw0..."], "modality": "image"})
))]
pub(super) struct EmbeddingsRequest {
    /// The model's name; the default model where none is given.
    #[serde(default)]
    model: Option<String>,
    input: Inputs,
    /// What plain strings in `input` are. Items that are objects say it themselves.
    #[serde(default)]
    modality: Modality,
    /// How each embedding is written.
    #[serde(default)]
    encoding_format: EncodingFormat,
    /// Keep only the first values of each embedding, and normalise after that.
    #[serde(default)]
    #[schema(minimum = 1)]
    dimensions: Option<usize>,
    /// Whether embeddings are scaled to length 1.
    #[serde(default = "yes")]
    #[schema(default = true)]
    normalized: bool,
    /// Whether a text that is too long is cut; otherwise it is refused.
    #[serde(default = "yes")]
    #[schema(default = true)]
    truncate: bool,
    /// Accepted for OpenAI's clients, and not used.
    #[serde(default)]
    #[expect(dead_code, reason = "part of OpenAI's request; the server keeps no users")]
    user: Option<String>,
}

fn yes() -> bool {
    true
}

/// What a plain string is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Modality {
    /// A text to embed.
    #[default]
    Text,
    /// A picture: a data URI or base64.
    Image,
}

/// How an embedding is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum EncodingFormat {
    /// An array of numbers.
    #[default]
    Float,
    /// Base64 over little-endian 32-bit floats.
    Base64,
}

/// The options of a request whose body is one raw picture.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RawImageOptions {
    /// The model's name, where the body is a raw picture. Else it stands in the body.
    #[serde(default)]
    model: Option<String>,
    /// As in the JSON body.
    #[serde(default)]
    encoding_format: EncodingFormat,
    /// As in the JSON body.
    #[serde(default)]
    dimensions: Option<usize>,
    /// As in the JSON body.
    #[serde(default)]
    normalized: Option<bool>,
}

/// A form: every file is a picture, every `text` a text, in the order of the parts.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the form; `from_form` reads it")]
pub(super) struct EmbeddingsForm {
    /// Pictures. Any field with a file name counts as one, whatever it is called.
    image: Vec<File>,
    /// Texts.
    text: Option<Vec<String>>,
    /// As in the JSON body.
    model: Option<String>,
    /// As in the JSON body.
    encoding_format: Option<EncodingFormat>,
    /// As in the JSON body.
    dimensions: Option<usize>,
    /// As in the JSON body.
    normalized: Option<bool>,
    /// As in the JSON body.
    truncate: Option<bool>,
}

impl EmbeddingsRequest {
    fn of(items: Vec<Item>) -> Self {
        Self {
            model: None,
            input: Inputs(items),
            modality: Modality::Text,
            encoding_format: EncodingFormat::Float,
            dimensions: None,
            normalized: true,
            truncate: true,
            user: None,
        }
    }

    /// The engine's request, and how the answer is to be written.
    fn split(self) -> Result<(EmbedRequest, EncodingFormat), Error> {
        let request = EmbedRequest {
            model: self.model,
            inputs: self.input.resolve(self.modality)?,
            dimensions: self.dimensions,
            normalize: self.normalized,
            truncate: self.truncate,
        };
        Ok((request, self.encoding_format))
    }
}

impl FromPayload for EmbeddingsRequest {
    const ACCEPTS: &'static str =
        "application/json, multipart/form-data, image/*, application/octet-stream";

    fn from_form(form: Form) -> Result<Self, Error> {
        let mut request = Self::of(Vec::new());
        for part in form.into_parts() {
            match (part.name.as_str(), part.content) {
                (_, PartContent::File(bytes)) => request.input.0.push(Item::Encoded(bytes)),
                ("text" | "input", PartContent::Text(text)) => {
                    request.input.0.push(Item::Text(text));
                }
                ("model", PartContent::Text(text)) => request.model = Some(text),
                ("encoding_format", PartContent::Text(text)) => {
                    request.encoding_format = option("encoding_format", &text)?;
                }
                ("dimensions", PartContent::Text(text)) => {
                    request.dimensions = Some(option("dimensions", &text)?);
                }
                ("normalized", PartContent::Text(text)) => {
                    request.normalized = option("normalized", &text)?;
                }
                ("truncate", PartContent::Text(text)) => {
                    request.truncate = option("truncate", &text)?;
                }
                ("user", PartContent::Text(_)) => {}
                (name, PartContent::Text(_)) => {
                    let known = "text, model, encoding_format, dimensions, normalized, truncate";
                    return Err(unknown_part(name, known));
                }
            }
        }
        Ok(request)
    }

    fn from_image(image: Bytes, uri: &Uri) -> Result<Self, Error> {
        let options: RawImageOptions = query(uri)?;
        Ok(Self {
            model: options.model,
            encoding_format: options.encoding_format,
            dimensions: options.dimensions,
            normalized: options.normalized.unwrap_or(true),
            ..Self::of(vec![Item::Encoded(image)])
        })
    }
}

/// One embedding for each item, in the order of the request.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EmbeddingsResponse {
    /// Always `list`.
    #[schema(inline, value_type = String, example = "list")]
    object: &'static str,
    data: Vec<EmbeddingObject>,
    /// The model that answered.
    #[schema(example = "demo")]
    model: String,
    usage: Usage,
}

/// One embedding.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EmbeddingObject {
    /// Always `embedding`.
    #[schema(value_type = String, example = "embedding")]
    object: &'static str,
    /// The item's place in the request.
    index: usize,
    #[schema(value_type = VectorSchema)]
    embedding: Vector,
}

/// An embedding in the format that was asked for.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Vector {
    /// Numbers.
    Float(Row),
    /// Base64 over little-endian 32-bit floats.
    Base64(String),
}

/// An embedding in the format that was asked for.
#[derive(ToSchema)]
#[schema(as = Vector, examples(json!([0.0182, -0.0411, 0.0077]), json!("Gw2VPG1WKL3vOPw7")))]
#[serde(untagged)]
#[expect(dead_code, reason = "only describes `Vector`, whose rows are not copied into a `Vec`")]
pub(super) enum VectorSchema {
    /// Numbers.
    Float(Vec<f32>),
    /// Base64 over little-endian 32-bit floats.
    Base64(String),
}

/// A row of numbers, written from where it lies.
#[derive(Debug)]
pub(super) struct Row(Embedding);

impl Serialize for Row {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_slice().serialize(serializer)
    }
}

impl Vector {
    fn new(embedding: Embedding, format: EncodingFormat) -> Self {
        match format {
            EncodingFormat::Float => Self::Float(Row(embedding)),
            EncodingFormat::Base64 => {
                let bytes: Vec<u8> =
                    embedding.as_slice().iter().flat_map(|value| value.to_le_bytes()).collect();
                Self::Base64(base64_simd::STANDARD.encode_to_string(bytes))
            }
        }
    }
}

impl EmbeddingsResponse {
    fn new(embedded: Embedded, format: EncodingFormat) -> Self {
        let object = |(index, embedding)| EmbeddingObject {
            object: "embedding",
            index,
            embedding: Vector::new(embedding, format),
        };
        Self {
            object: "list",
            data: embedded.embeddings.into_iter().enumerate().map(object).collect(),
            model: embedded.model.to_string(),
            usage: embedded.usage.into(),
        }
    }
}

/// Embeds texts and pictures
///
/// Takes OpenAI's request; items may also be `{"text": ...}` and `{"image": ...}`, mixed. A raw picture
/// (`Content-Type: image/*`) and a form with many files are taken too. One failed item fails the request,
/// and the error lists every item that failed.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    tag = "embeddings",
    params(RawImageOptions, super::openapi::RequestHeaders),
    request_body(
        content(
            (EmbeddingsRequest = "application/json"),
            (EmbeddingsForm = "multipart/form-data"),
            (File = "image/*"),
        ),
    ),
    responses((status = 200, description = "The embeddings", body = EmbeddingsResponse), OpenAiErrors),
)]
pub(super) async fn embeddings(
    State(state): State<AppState>,
    Ctx(context): Ctx,
    Payload(request): Payload<EmbeddingsRequest>,
) -> Result<Response, Failure> {
    let (request, format) = request.split()?;
    let embedded = state.engine().embed(request, &context).await?;
    let values = embedded.embeddings.iter().map(Embedding::dim).sum();
    respond::json(&state, &context, values, move || EmbeddingsResponse::new(embedded, format)).await
}
