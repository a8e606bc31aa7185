//! The routes of the inference container that Weaviate's `multi2vec-clip` module calls.

use axum::{extract::State, http::StatusCode, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{content, embed_all};
use crate::{
    embedding::Embedding,
    engine::{Embedded, Input},
    rest::{
        AppState,
        body::{FromPayload, Payload},
        health,
        layers::Ctx,
        long_text::LongText,
        openapi::{EXAMPLE_IMAGE, PlainErrors, PlainNotReadyErrors, RequestHeaders},
        problem::Failure,
        respond::{self, Json},
    },
};

/// Texts and images to embed. One side may be empty or missing.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"texts": ["a cat"], "images": [EXAMPLE_IMAGE]}))]
pub(in crate::rest) struct VectorizeBody {
    texts: Option<Vec<String>>,
    /// Data URIs or base64.
    images: Option<Vec<LongText>>,
}

impl FromPayload for VectorizeBody {
    const ACCEPTS: &'static str = "application/json";
}

/// One vector per item, in the order of each side.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::rest) struct VectorizeAnswer {
    text_vectors: Vec<Vec<f32>>,
    image_vectors: Vec<Vec<f32>>,
}

impl VectorizeAnswer {
    fn new(embedded: &Embedded, texts: usize) -> Self {
        let vectors = |rows: &[Embedding]| rows.iter().map(|row| row.as_slice().to_vec()).collect();
        let (text_rows, image_rows) = embedded.embeddings.split_at(texts);
        Self { text_vectors: vectors(text_rows), image_vectors: vectors(image_rows) }
    }
}

/// Embeds texts and images, in the format of Weaviate's module
///
/// Vectors have length 1.
#[utoipa::path(
    post,
    path = "/vectorize",
    operation_id = "weaviate_vectorize",
    tag = "compatible",
    params(RequestHeaders),
    request_body = VectorizeBody,
    responses((status = 200, description = "The vectors", body = VectorizeAnswer), PlainErrors),
)]
pub(in crate::rest) async fn vectorize(
    State(state): State<AppState>,
    Ctx(context): Ctx,
    Payload(body): Payload<VectorizeBody>,
) -> Result<Response, Failure> {
    let mut inputs: Vec<_> = body.texts.unwrap_or_default().into_iter().map(Input::plain).collect();
    let texts = inputs.len();
    inputs.extend(content::pictures("images", body.images.unwrap_or_default())?);
    let embedded = state.engine().embed(embed_all(None, inputs), &context).await;
    let embedded = embedded.map_err(|error| error.map_field(|field| name(field, texts)))?;
    let values = embedded.embeddings.iter().map(Embedding::dim).sum();
    respond::json(&state, &context, values, move || VectorizeAnswer::new(&embedded, texts)).await
}

/// The field name of an item. The engine numbers the items of both sides together, texts first.
fn name(field: &str, texts: usize) -> String {
    let index = field.strip_prefix("input[").and_then(|rest| rest.strip_suffix(']'));
    match index.and_then(|index| index.parse::<usize>().ok()) {
        Some(index) if index < texts => format!("texts[{index}]"),
        Some(index) => format!("images[{}]", index - texts),
        None => "texts".to_owned(),
    }
}

/// What the module shows about its container.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::rest) struct Meta {
    /// Always `siglip-server`.
    #[schema(value_type = String)]
    server: &'static str,
    version: &'static str,
    /// The default model. Null while it loads.
    model: Option<String>,
    /// Number of values of a vector.
    dimension: Option<usize>,
}

/// Describes the model to Weaviate's module
#[utoipa::path(
    get,
    path = "/meta",
    operation_id = "weaviate_meta",
    tag = "compatible",
    responses((status = 200, description = "The model and the server's version", body = Meta)),
)]
pub(in crate::rest) async fn meta(State(state): State<AppState>) -> Json<Meta> {
    let model = state.engine().registry().loaded().next();
    Json(Meta {
        server: "siglip-server",
        version: crate::build_info::VERSION,
        model: model.map(|model| model.name.clone()),
        dimension: model.map(|model| model.card.embedding_dim),
    })
}

/// Liveness probe for Weaviate's module
#[utoipa::path(
    get,
    path = "/.well-known/live",
    operation_id = "weaviate_live",
    tag = "compatible",
    responses((status = 204, description = "The process answers")),
)]
pub(in crate::rest) async fn live() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Readiness probe for Weaviate's module
#[utoipa::path(
    get,
    path = "/.well-known/ready",
    operation_id = "weaviate_ready",
    tag = "compatible",
    responses(
        (status = 204, description = "Every tower ran and every worker lives"),
        PlainNotReadyErrors,
    ),
)]
pub(in crate::rest) async fn ready(State(state): State<AppState>) -> Result<StatusCode, Failure> {
    health::check(&state)?;
    Ok(StatusCode::NO_CONTENT)
}
