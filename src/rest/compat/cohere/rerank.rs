//! `POST /v2/rerank` for Cohere's clients.

use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Meta;
use crate::{
    engine::Ranked,
    rest::{
        AppState,
        body::{FromPayload, Payload},
        compat::{
            content::Item,
            rerank::{Query, RerankedText, ranking},
        },
        layers::Ctx,
        matching_token::MatchingToken,
        openapi::{CohereErrors, RequestHeaders},
        problem::Failure,
        respond,
    },
};

/// A query, and the documents to order by it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(
    as = CohereRerankRequest,
    example = json!({"model": "demo", "query": "a cat", "documents": ["a kitten", "a truck"], "top_n": 1})
)]
pub(in crate::rest) struct RerankBody {
    /// The model's name. Without a name, the default model is used.
    model: Option<String>,
    /// A text, or an object with one text or one image.
    query: Item,
    /// Texts, or objects with one text or one image. All must be of the same kind.
    documents: Vec<Item>,
    /// Keep only this many of the best documents.
    #[schema(minimum = 1)]
    top_n: Option<usize>,
    /// How many documents the matching head of a BLIP or BLIP-2 model scores: those with the largest cosines.
    /// The others follow after them in the order of their cosines. No effect on models without a matching head.
    #[schema(default = 128)]
    rerank_top_k: Option<usize>,
    /// The token before a text that the matching head of a BLIP model reads: `cls` as in transformers, `enc` as
    /// the models were trained. The default is the server's `--matching-token`. Other models refuse it.
    matching_token: Option<MatchingToken>,
    /// Keep only documents with at least this probability, from 0 to 1. Refused if a pair has no probability:
    /// for two texts, two images, or a model that does not score a pair on its own.
    #[schema(minimum = 0, maximum = 1)]
    min_probability: Option<f32>,
    /// Whether texts are returned with their scores. Not in this version of Cohere's API, but LiteLLM sends it.
    #[schema(default = false)]
    return_documents: Option<bool>,
    /// Accepted and ignored: texts are truncated to the model's own length.
    #[serde(rename = "max_tokens_per_doc")]
    _max_tokens_per_doc: Option<u32>,
    /// Accepted and ignored: use the header `x-priority`.
    #[serde(rename = "priority")]
    _priority: Option<i64>,
}

impl FromPayload for RerankBody {
    const ACCEPTS: &'static str = "application/json";
}

/// The documents, best first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CohereRerankResponse)]
pub(in crate::rest) struct RerankAnswer {
    id: String,
    results: Vec<RerankResult>,
    meta: Meta,
}

/// The score of one document.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CohereRerankResult)]
pub(in crate::rest) struct RerankResult {
    /// Its position in the request.
    index: usize,
    /// The document, if it is a text and was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<RerankedText>,
    /// For an image and a text: the calibrated probability. For two texts or two images: `(1 + cosine) / 2`.
    relevance_score: f32,
}

impl RerankAnswer {
    fn new(ranked: &Ranked, top: Option<usize>, mut texts: Vec<Option<String>>) -> Self {
        let results = ranking(ranked, top).into_iter().map(|pair| RerankResult {
            index: pair.document,
            document: texts
                .get_mut(pair.document)
                .and_then(Option::take)
                .map(|text| RerankedText { text }),
            relevance_score: pair.score(),
        });
        Self {
            id: Uuid::now_v7().to_string(),
            results: results.collect(),
            meta: ranked.usage.into(),
        }
    }
}

/// Ranks documents by a query, in Cohere's format
#[utoipa::path(
    post,
    path = "/v2/rerank",
    operation_id = "cohere_rerank",
    tag = "compatible",
    params(RequestHeaders),
    request_body = RerankBody,
    responses((status = 200, description = "The documents, best first", body = RerankAnswer), CohereErrors),
)]
pub(in crate::rest) async fn rerank(
    State(state): State<AppState>,
    Ctx(context): Ctx,
    Payload(body): Payload<RerankBody>,
) -> Result<Response, Failure> {
    let RerankBody { model, query, documents, top_n, return_documents, .. } = body;
    let (rerank_top_k, min_probability) = (body.rerank_top_k, body.min_probability);
    let texts = match return_documents {
        Some(true) => documents.iter().map(|item| item.as_text().map(str::to_owned)).collect(),
        _ => Vec::new(),
    };
    let field = "documents";
    let matching_token = body.matching_token;
    let truncate = true;
    let query = Query { model, query, field, documents, truncate, rerank_top_k, matching_token };
    let request = query.resolve()?;
    let ranked = state.engine().rank(request, &context).await?.at_least(min_probability)?;
    let values = ranked.pairs.len();
    respond::json(&state, &context, values, move || RerankAnswer::new(&ranked, top_n, texts)).await
}
