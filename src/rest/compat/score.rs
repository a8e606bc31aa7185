//! `POST /score` for vLLM's clients.

use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::content::{self, Items, ItemsSchema};
use crate::{
    engine::{Context, Pair, RankRequest, RankSide, Ranked},
    rest::{
        AppState,
        body::{FromPayload, Payload},
        layers::Ctx,
        matching_token::MatchingToken,
        openapi::{EXAMPLE_IMAGE, OpenAiErrors, RequestHeaders},
        problem::Failure,
        respond::{self, Usage},
    },
};

/// Queries and documents: one query for all documents, or one query per document.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "queries": "a cat", "documents": ["a kitten", {"image": EXAMPLE_IMAGE}]
}))]
pub(in crate::rest) struct ScoreBody {
    /// The model's name. Without a name, the default model is used.
    model: Option<String>,
    /// One query, or as many as there are documents.
    #[serde(alias = "text_1", alias = "data_1")]
    #[schema(value_type = ItemsSchema)]
    queries: Items,
    /// The documents to score.
    #[serde(alias = "text_2", alias = "data_2", alias = "items")]
    #[schema(value_type = ItemsSchema)]
    documents: Items,
    /// Keep only documents with at least this probability, from 0 to 1. Refused if a pair has no probability:
    /// for two texts, two images, or a model that does not score a pair on its own.
    #[schema(minimum = 0, maximum = 1)]
    min_probability: Option<f32>,
    /// The token before a text that the matching head of a BLIP model reads: `cls` as in transformers, `enc` as
    /// the models were trained. The default is the server's `--matching-token`. Other models refuse it.
    matching_token: Option<MatchingToken>,
}

impl FromPayload for ScoreBody {
    const ACCEPTS: &'static str = "application/json";
}

/// One score per document, in the order of the request.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::rest) struct ScoreAnswer {
    id: String,
    /// Always `list`.
    #[schema(value_type = String)]
    object: &'static str,
    /// The model that was used.
    model: String,
    data: Vec<ScoreObject>,
    usage: Usage,
}

/// One score.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::rest) struct ScoreObject {
    /// The document's position in the request.
    index: usize,
    /// Always `score`.
    #[schema(value_type = String)]
    object: &'static str,
    /// For an image and a text: the calibrated probability. For two texts or two images: `(1 + cosine) / 2`.
    score: f32,
}

impl ScoreAnswer {
    fn new(ranked: &Ranked) -> Self {
        let object = |pair: &Pair| ScoreObject {
            index: pair.document,
            object: "score",
            score: pair.score(),
        };
        Self {
            id: format!("score-{}", Uuid::now_v7().simple()),
            object: "list",
            model: ranked.model.to_string(),
            data: ranked.pairs.iter().map(object).collect(),
            usage: ranked.usage.into(),
        }
    }
}

async fn scores(state: &AppState, context: &Context, body: ScoreBody) -> Result<Response, Failure> {
    let side = |field, Items(items)| {
        content::resolve_all(field, items).map(|inputs| RankSide { field, inputs })
    };
    let min_probability = body.min_probability;
    let request = RankRequest {
        model: body.model,
        queries: side("queries", body.queries)?,
        documents: side("documents", body.documents)?,
        truncate: true,
        rerank_top_k: None,
        matching_token: body.matching_token.map(Into::into),
    };
    let ranked = state.engine().rank(request, context).await?.at_least(min_probability)?;
    let values = ranked.pairs.len();
    respond::json(state, context, values, move || ScoreAnswer::new(&ranked)).await
}

/// Scores documents against queries, in vLLM's format
///
/// The score of an image and a text is their calibrated probability. The score of two texts or two images is
/// `(1 + cosine) / 2`.
#[utoipa::path(
    post,
    path = "/score",
    operation_id = "score",
    tag = "compatible",
    params(RequestHeaders),
    request_body = ScoreBody,
    responses((status = 200, description = "The scores", body = ScoreAnswer), OpenAiErrors),
)]
pub(in crate::rest) async fn score(
    State(state): State<AppState>,
    Ctx(context): Ctx,
    Payload(body): Payload<ScoreBody>,
) -> Result<Response, Failure> {
    scores(&state, &context, body).await
}

/// Scores documents against queries, in vLLM's format
///
/// The same as `/score`.
#[utoipa::path(
    post,
    path = "/v1/score",
    operation_id = "score_v1",
    tag = "compatible",
    params(RequestHeaders),
    request_body = ScoreBody,
    responses((status = 200, description = "The scores", body = ScoreAnswer), OpenAiErrors),
)]
pub(in crate::rest) async fn versioned(
    State(state): State<AppState>,
    Ctx(context): Ctx,
    Payload(body): Payload<ScoreBody>,
) -> Result<Response, Failure> {
    scores(&state, &context, body).await
}
