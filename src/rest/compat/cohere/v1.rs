//! `POST /v1/embed` for clients of the first version of Cohere's API.

use axum::{extract::State, response::Response};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{ApiVersion, EmbedAnswer, EmbedBody, EmbeddingType, Meta};
use crate::{
    embedding::Embedding,
    engine::Embedded,
    rest::{
        AppState,
        body::Payload,
        compat::in_field,
        layers::Ctx,
        openapi::{CohereErrors, RequestHeaders},
        problem::Failure,
        respond,
    },
};

/// The embeddings as numbers, or in each requested type.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CohereEmbedV1Response)]
#[serde(untagged)]
pub(in crate::rest) enum EmbedV1Answer {
    /// Without `embedding_types`.
    Floats(FloatsAnswer),
    /// With `embedding_types`.
    ByType(EmbedAnswer),
}

/// The embeddings as numbers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CohereEmbedFloatsResponse)]
pub(in crate::rest) struct FloatsAnswer {
    id: String,
    /// Always `embeddings_floats`.
    #[schema(value_type = String)]
    response_type: &'static str,
    embeddings: Vec<Vec<f32>>,
    /// The texts of the request.
    texts: Vec<String>,
    meta: Meta,
}

impl EmbedV1Answer {
    fn new(embedded: &Embedded, types: &[EmbeddingType], texts: Vec<String>) -> Self {
        let meta = Meta { api_version: ApiVersion { version: "1" }, ..embedded.usage.into() };
        if !types.is_empty() {
            return Self::ByType(EmbedAnswer { meta, ..EmbedAnswer::new(embedded, types, texts) });
        }
        Self::Floats(FloatsAnswer {
            id: Uuid::now_v7().to_string(),
            response_type: "embeddings_floats",
            embeddings: embedded.embeddings.iter().map(|row| row.as_slice().to_vec()).collect(),
            texts,
            meta,
        })
    }
}

/// Embeds texts and images, in the format of Cohere's first version
///
/// Takes the same request as `/v2/embed`. Embeddings have length 1.
#[utoipa::path(
    post,
    path = "/v1/embed",
    operation_id = "cohere_embed_v1",
    tag = "compatible",
    params(RequestHeaders),
    request_body = EmbedBody,
    responses((status = 200, description = "The embeddings", body = EmbedV1Answer), CohereErrors),
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
    respond::json(&state, &context, values, move || EmbedV1Answer::new(&embedded, &types, texts))
        .await
}
