//! `POST /v2/embed` for Cohere's clients.

pub(in crate::rest) mod rerank;
pub(in crate::rest) mod v1;

use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    base64_floats,
    content::{self, Item},
    embed_all, in_field,
};
use crate::{
    embedding::{Embedding, Encoding},
    engine::{EmbedRequest, Embedded, Input, Usage},
    error::Error,
    rest::{
        AppState,
        body::{FromPayload, Payload},
        layers::Ctx,
        long_text::LongText,
        openapi::{CohereErrors, RequestHeaders},
        problem::Failure,
        respond,
    },
};

/// What to embed, and how the response is written. Give one of `texts`, `images` and `inputs`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(
    as = CohereEmbedRequest,
    example = json!({
        "model": "demo", "input_type": "search_document", "texts": ["a cat"], "embedding_types": ["float"]
    })
)]
pub(in crate::rest) struct EmbedBody {
    /// The model's name. Without a name, the default model is used.
    model: Option<String>,
    /// Texts.
    texts: Option<Vec<String>>,
    /// Images: data URIs, base64, or URLs if the server fetches images.
    images: Option<Vec<LongText>>,
    /// Items whose content is one text or one image.
    inputs: Option<Vec<Item>>,
    /// The types of the embeddings. The default is `float`.
    #[serde(default)]
    embedding_types: Vec<EmbeddingType>,
    /// Keep only the first values of each embedding and normalise them again. This costs accuracy, see
    /// `/v1/embeddings`.
    #[schema(minimum = 1)]
    output_dimension: Option<usize>,
    /// `END` truncates a text that is too long, `NONE` refuses it.
    #[serde(default)]
    truncate: Truncate,
    /// Accepted and ignored: the model has one embedding for a text, whatever its use.
    #[expect(dead_code, reason = "part of Cohere's request; the model knows no input types")]
    input_type: Option<String>,
    /// Accepted and ignored: texts are truncated to the model's own length.
    #[expect(dead_code, reason = "part of Cohere's request")]
    max_tokens: Option<u32>,
    /// Accepted and ignored: use the header `x-priority`.
    #[expect(dead_code, reason = "part of Cohere's request")]
    priority: Option<i64>,
}

/// An element type of embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::rest) enum EmbeddingType {
    /// Numbers.
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
    /// Base64 of little-endian 32-bit floats.
    Base64,
}

/// What happens to a text that is too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(in crate::rest) enum Truncate {
    /// The text is refused.
    None,
    /// Its end is cut off.
    #[default]
    End,
    /// Its beginning would be cut off. Not supported.
    Start,
}

impl FromPayload for EmbedBody {
    const ACCEPTS: &'static str = "application/json";
}

impl EmbedBody {
    /// The engine's request, the field with the items, and the texts to return in the response.
    ///
    /// # Errors
    /// Names the invalid field.
    pub(in crate::rest) fn split(
        &mut self,
    ) -> Result<(EmbedRequest, &'static str, Vec<String>), Error> {
        let given = (self.texts.take(), self.images.take(), self.inputs.take());
        let (field, inputs, texts) = match given {
            (Some(texts), None, None) => {
                let inputs = texts.iter().cloned().map(Input::plain).collect();
                ("texts", inputs, texts)
            }
            (None, Some(images), None) => {
                ("images", content::pictures("images", images)?, Vec::new())
            }
            (None, None, Some(inputs)) => {
                ("inputs", content::resolve_all("inputs", inputs)?, Vec::new())
            }
            _ => return Err(Error::invalid("texts", "give one of `texts`, `images` and `inputs`")),
        };
        if self.truncate == Truncate::Start {
            return Err(Error::invalid("truncate", "`START` is not served; `END` and `NONE` are"));
        }
        let request = EmbedRequest {
            dimensions: self.output_dimension,
            truncate: self.truncate == Truncate::End,
            ..embed_all(self.model.take(), inputs)
        };
        Ok((request, field, texts))
    }
}

/// The embeddings in each requested type.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CohereEmbedResponse)]
pub(in crate::rest) struct EmbedAnswer {
    id: String,
    /// Always `embeddings_by_type`.
    #[schema(value_type = String)]
    response_type: &'static str,
    embeddings: EmbeddingsByType,
    /// The texts of the request.
    texts: Vec<String>,
    meta: Meta,
}

/// One list per type, with one row per item.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(in crate::rest) struct EmbeddingsByType {
    #[serde(skip_serializing_if = "Option::is_none")]
    float: Option<Vec<Vec<f32>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    int8: Option<Vec<Vec<i8>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uint8: Option<Vec<Vec<u8>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    binary: Option<Vec<Vec<i8>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ubinary: Option<Vec<Vec<u8>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<Vec<String>>,
}

/// What the request consumed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CohereMeta)]
pub(in crate::rest) struct Meta {
    api_version: ApiVersion,
    billed_units: BilledUnits,
}

/// The version of the format.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::rest) struct ApiVersion {
    /// `2`, or `1` on the route of the first version.
    #[schema(value_type = String)]
    version: &'static str,
}

/// What the request consumed.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::rest) struct BilledUnits {
    /// Number of token ids of all texts.
    input_tokens: usize,
    /// Number of images.
    images: usize,
}

impl From<Usage> for Meta {
    fn from(usage: Usage) -> Self {
        Self {
            api_version: ApiVersion { version: "2" },
            billed_units: BilledUnits { input_tokens: usage.text_tokens, images: usage.images },
        }
    }
}

fn signed(rows: &[Embedding], encoding: Encoding) -> Vec<Vec<i8>> {
    rows.iter().map(|row| row.to_i8(encoding)).collect()
}

fn unsigned(rows: &[Embedding], encoding: Encoding) -> Vec<Vec<u8>> {
    rows.iter().map(|row| row.encoded(encoding)).collect()
}

impl EmbeddingsByType {
    fn new(rows: &[Embedding], types: &[EmbeddingType]) -> Self {
        let mut by_type = Self::default();
        for kind in types {
            match kind {
                EmbeddingType::Float => {
                    let floats = rows.iter().map(|row| row.as_slice().to_vec());
                    by_type.float = Some(floats.collect());
                }
                EmbeddingType::Int8 => by_type.int8 = Some(signed(rows, Encoding::Int8)),
                EmbeddingType::Uint8 => by_type.uint8 = Some(unsigned(rows, Encoding::Uint8)),
                EmbeddingType::Binary => by_type.binary = Some(signed(rows, Encoding::Binary)),
                EmbeddingType::Ubinary => by_type.ubinary = Some(unsigned(rows, Encoding::Ubinary)),
                EmbeddingType::Base64 => {
                    by_type.base64 = Some(rows.iter().map(base64_floats).collect())
                }
            }
        }
        by_type
    }
}

impl EmbedAnswer {
    fn new(embedded: &Embedded, types: &[EmbeddingType], texts: Vec<String>) -> Self {
        let types = if types.is_empty() { &[EmbeddingType::Float] } else { types };
        Self {
            id: Uuid::now_v7().to_string(),
            response_type: "embeddings_by_type",
            embeddings: EmbeddingsByType::new(&embedded.embeddings, types),
            texts,
            meta: embedded.usage.into(),
        }
    }
}

/// Embeds texts and images, in Cohere's format
///
/// The content of an item of `inputs` is one text or one image. Embeddings have length 1.
#[utoipa::path(
    post,
    path = "/v2/embed",
    operation_id = "cohere_embed",
    tag = "compatible",
    params(RequestHeaders),
    request_body = EmbedBody,
    responses((status = 200, description = "The embeddings", body = EmbedAnswer), CohereErrors),
)]
pub(in crate::rest) async fn embed(
    State(state): State<AppState>,
    Ctx(context): Ctx,
    Payload(mut body): Payload<EmbedBody>,
) -> Result<Response, Failure> {
    let (request, field, texts) = body.split()?;
    let embedded = state.engine().embed(request, &context).await;
    let embedded = embedded.map_err(|error| in_field(error, field))?;
    let types = body.embedding_types;
    let values = embedded.embeddings.iter().map(Embedding::dim).sum::<usize>() * types.len().max(1);
    respond::json(&state, &context, values, move || EmbedAnswer::new(&embedded, &types, texts))
        .await
}
