//! `POST /v1/multimodalembeddings` for Voyage's client.

use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    content::{self, Item},
    embed_all, in_field,
};
use crate::{
    embedding::{Embedding, Encoding},
    engine::{EmbedRequest, Embedded},
    rest::{
        AppState,
        body::{FromPayload, Payload},
        layers::Ctx,
        openapi::{DetailErrors, EXAMPLE_IMAGE, RequestHeaders},
        problem::Failure,
        respond,
    },
};

/// What to embed, and how the response is written.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(
    as = VoyageRequest,
    example = json!({
        "model": "demo",
        "inputs": [
            {"content": [{"type": "text", "text": "a cat"}]},
            {"content": [{"type": "image_base64", "image_base64": EXAMPLE_IMAGE}]}
        ]
    })
)]
pub(in crate::rest) struct EmbedBody {
    /// The model's name. Without a name, the default model is used.
    model: Option<String>,
    /// Items whose content is one text or one image.
    inputs: Vec<Item>,
    /// Accepted and ignored: the model has one embedding for a text, whatever its use.
    #[expect(dead_code, reason = "part of Voyage's request; the model knows no input types")]
    input_type: Option<String>,
    /// Whether a text that is too long is truncated. Otherwise it is refused.
    #[serde(default = "yes")]
    #[schema(default = true)]
    truncation: bool,
    /// `base64` of the little-endian values. Null for an array of numbers.
    #[serde(alias = "output_encoding")]
    encoding_format: Option<Base64>,
    /// The type of the values. The default is `float`.
    output_dtype: Option<OutputType>,
    /// Keep only the first values of each embedding and normalise them again. This costs accuracy, see
    /// `/v1/embeddings`.
    #[schema(minimum = 1)]
    output_dimension: Option<usize>,
}

fn yes() -> bool {
    true
}

/// The only encoding other than arrays of numbers.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::rest) enum Base64 {
    /// Base64 of the little-endian values.
    Base64,
}

/// The type of an embedding's values.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::rest) enum OutputType {
    /// 32-bit floats.
    #[default]
    Float,
    /// Integers in `[-127, 127]`: the value 1 becomes 127.
    Int8,
    /// As `int8`, plus 128.
    Uint8,
    /// As `ubinary`, minus 128.
    Binary,
    /// One bit per value, set if the value is above 0. Eight bits per byte, with the first value in the highest
    /// bit.
    Ubinary,
}

impl From<OutputType> for Encoding {
    fn from(kind: OutputType) -> Self {
        match kind {
            OutputType::Float => Self::F32,
            OutputType::Int8 => Self::Int8,
            OutputType::Uint8 => Self::Uint8,
            OutputType::Binary => Self::Binary,
            OutputType::Ubinary => Self::Ubinary,
        }
    }
}

impl FromPayload for EmbedBody {
    const ACCEPTS: &'static str = "application/json";
}

/// The embeddings.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VoyageResponse)]
pub(in crate::rest) struct EmbedAnswer {
    /// Always `list`.
    #[schema(value_type = String)]
    object: &'static str,
    data: Vec<Row>,
    /// The model that was used.
    model: String,
    usage: Usage,
}

/// One embedding.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VoyageRow)]
pub(in crate::rest) struct Row {
    /// Always `embedding`.
    #[schema(value_type = String)]
    object: &'static str,
    embedding: Values,
    /// The item's position in the request.
    index: usize,
}

/// An embedding in the requested type and encoding.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(in crate::rest) enum Values {
    /// Base64 of the little-endian values.
    Base64(String),
    /// 32-bit floats.
    Float(Vec<f32>),
    /// `int8` and `binary`.
    Signed(Vec<i8>),
    /// `uint8` and `ubinary`.
    Unsigned(Vec<u8>),
}

/// What the request consumed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VoyageUsage)]
pub(in crate::rest) struct Usage {
    /// Number of token ids of all texts.
    text_tokens: usize,
    /// Always 0: images are counted, not their pixels.
    image_pixels: usize,
    /// Always 0.
    video_pixels: usize,
    /// Number of token ids of all texts.
    total_tokens: usize,
}

impl Values {
    fn new(row: &Embedding, kind: OutputType, encoding: Option<Base64>) -> Self {
        if encoding.is_some() {
            let bytes = row.encoded(kind.into());
            return Self::Base64(base64_simd::STANDARD.encode_to_string(bytes));
        }
        match kind {
            OutputType::Float => Self::Float(row.as_slice().to_vec()),
            OutputType::Int8 | OutputType::Binary => Self::Signed(row.to_i8(kind.into())),
            OutputType::Uint8 | OutputType::Ubinary => Self::Unsigned(row.encoded(kind.into())),
        }
    }
}

impl EmbedAnswer {
    fn new(embedded: &Embedded, kind: OutputType, encoding: Option<Base64>) -> Self {
        let row = |(index, row)| Row {
            object: "embedding",
            embedding: Values::new(row, kind, encoding),
            index,
        };
        let tokens = embedded.usage.text_tokens;
        Self {
            object: "list",
            data: embedded.embeddings.iter().enumerate().map(row).collect(),
            model: embedded.model.to_string(),
            usage: Usage {
                text_tokens: tokens,
                image_pixels: 0,
                video_pixels: 0,
                total_tokens: tokens,
            },
        }
    }
}

/// Embeds texts and images, in Voyage's format
///
/// The content of each input is one text or one image. Embeddings have length 1.
#[utoipa::path(
    post,
    path = "/v1/multimodalembeddings",
    operation_id = "voyage_embed",
    tag = "compatible",
    params(RequestHeaders),
    request_body = EmbedBody,
    responses((status = 200, description = "The embeddings", body = EmbedAnswer), DetailErrors),
)]
pub(in crate::rest) async fn embed(
    State(state): State<AppState>,
    Ctx(context): Ctx,
    Payload(body): Payload<EmbedBody>,
) -> Result<Response, Failure> {
    let request = EmbedRequest {
        dimensions: body.output_dimension,
        truncate: body.truncation,
        ..embed_all(body.model, content::resolve_all("inputs", body.inputs)?)
    };
    let embedded = state.engine().embed(request, &context).await;
    let embedded = embedded.map_err(|error| in_field(error, "inputs"))?;
    let (kind, encoding) = (body.output_dtype.unwrap_or_default(), body.encoding_format);
    let values = embedded.embeddings.iter().map(Embedding::dim).sum();
    respond::json(&state, &context, values, move || EmbedAnswer::new(&embedded, kind, encoding))
        .await
}
