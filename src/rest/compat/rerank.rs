//! `POST /rerank`, as vLLM, Jina and text-embeddings-inference speak it.

use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    content::{self, Item, Items, ItemsSchema},
    tei::Direction,
};
use crate::{
    engine::{Context, Input, Pair, RERANK_TOP_K, RankRequest, RankSide, Ranked},
    error::Error,
    rest::{
        AppState,
        body::{FromPayload, Payload},
        layers::Ctx,
        openapi::{EXAMPLE_IMAGE, OpenAiErrors, RequestHeaders, TeiErrors},
        problem::Failure,
        respond::{self, Usage},
    },
};

/// A query, and the documents to order by it: `documents` for the answer of vLLM and Jina, `texts` for that
/// of text-embeddings-inference.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(
    json!({"query": "a cat", "documents": [{"image": EXAMPLE_IMAGE}], "top_n": 1}),
    json!({"query": "a cat", "texts": ["a kitten", "a truck"]})
))]
pub(in crate::rest) struct RerankBody {
    /// The model's name; the default model where none is given.
    model: Option<String>,
    /// A text, or an object with one text or one picture.
    query: Item,
    /// Texts or pictures, all of one kind.
    #[schema(value_type = Option<ItemsSchema>)]
    documents: Option<Items>,
    /// Texts.
    texts: Option<Vec<String>>,
    /// Keep only the best.
    #[schema(minimum = 1)]
    top_n: Option<usize>,
    /// Keep only documents whose probability is at least this, from 0 to 1. Refused where a pair has none: two texts,
    /// two images, or a model that judges no pair on its own.
    #[schema(minimum = 0, maximum = 1)]
    min_probability: Option<f32>,
    /// Voyage's name for `top_n`; the answer is Voyage's then.
    #[schema(minimum = 1)]
    top_k: Option<usize>,
    /// Voyage's name for `truncate`; the answer is Voyage's then.
    truncation: Option<bool>,
    /// Whether texts come back with their scores.
    #[serde(alias = "return_text")]
    return_documents: Option<bool>,
    /// Accepted for Cohere's clients and not used: a text is one piece.
    #[expect(dead_code, reason = "part of Cohere's first request; texts are cut, not split")]
    max_chunks_per_doc: Option<usize>,
    /// Whether the scores are logits (of two of a kind: cosines); with `texts` only.
    #[serde(default)]
    raw_scores: bool,
    /// Whether a text that is too long is cut (the default); otherwise it is refused.
    #[schema(default = true)]
    truncate: Option<bool>,
    /// Only `right` is served: the end is cut.
    truncation_direction: Option<Direction>,
    /// How many documents the matching head of a BLIP or BLIP-2 model judges: those with the largest cosines. The others
    /// follow behind them, in the order of their cosines. Without effect on models without such a head.
    #[schema(default = 128)]
    rerank_top_k: Option<usize>,
}

impl FromPayload for RerankBody {
    const ACCEPTS: &'static str = "application/json";
}

/// The documents, best first.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::rest) struct RerankAnswer {
    id: String,
    /// The model that answered.
    model: String,
    usage: Usage,
    results: Vec<RerankResult>,
}

/// One document's score.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::rest) struct RerankResult {
    /// Its place in the request.
    index: usize,
    /// The document, where it is a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<RerankedText>,
    /// A picture and a text: the calibrated probability. Two of a kind: `(1 + cosine) / 2`.
    relevance_score: f32,
}

/// A document that is a text.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::rest) struct RerankedText {
    pub(super) text: String,
}

/// One text's score, as text-embeddings-inference writes it.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::rest) struct RankedText {
    /// Its place in the request.
    index: usize,
    /// The text, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    score: f32,
}

/// The documents, best first, as Voyage writes them.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VoyageRerankResponse)]
pub(in crate::rest) struct VoyageAnswer {
    /// Always `list`.
    #[schema(value_type = String)]
    object: &'static str,
    data: Vec<VoyageResult>,
    /// The model that answered.
    model: String,
    usage: Usage,
}

/// One document's score, as Voyage writes it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VoyageRerankResult)]
pub(in crate::rest) struct VoyageResult {
    /// Its place in the request.
    index: usize,
    /// The document, where it is a text and was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<String>,
    /// A picture and a text: the calibrated probability. Two of a kind: `(1 + cosine) / 2`.
    relevance_score: f32,
}

/// Every answer of `/rerank`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(in crate::rest) enum EitherAnswer {
    /// For `documents`.
    Documents(RerankAnswer),
    /// For `documents` with `top_k` or `truncation`.
    Voyage(VoyageAnswer),
    /// For `texts`.
    Texts(Vec<RankedText>),
}

/// The pairs best first, at most `top`.
pub(super) fn ranking(ranked: &Ranked, top: Option<usize>) -> Vec<Pair> {
    let mut pairs = ranked.pairs.clone();
    pairs.sort_by(Pair::best_first);
    pairs.truncate(top.unwrap_or(usize::MAX));
    pairs
}

/// A query, and documents to be ordered by it.
pub(super) struct Query {
    /// The model's name; the default model where none is given.
    pub(super) model: Option<String>,
    /// A text or a picture.
    pub(super) query: Item,
    /// The field that the documents came in.
    pub(super) field: &'static str,
    /// Texts or pictures, all of one kind.
    pub(super) documents: Vec<Item>,
    /// Whether a text that is too long is cut; otherwise it is refused.
    pub(super) truncate: bool,
    /// How many documents a matching head judges.
    pub(super) rerank_top_k: Option<usize>,
}

impl Query {
    /// The engine's request.
    ///
    /// # Errors
    /// Names the items that are not one text or one picture; or [`crate::error::Code::InvalidRequest`] for
    /// documents of both kinds: the probability of a picture cannot be compared with the similarity of two
    /// texts.
    pub(super) fn resolve(self) -> Result<RankRequest, Error> {
        let query = self.query.resolve().map_err(|error| error.with_field("query"))?;
        let documents = content::resolve_all(self.field, self.documents)?;
        let pictures = documents.iter().filter(|input| matches!(input, Input::Image(_))).count();
        if pictures != 0 && pictures != documents.len() {
            let message = "must be all texts or all pictures: their scores cannot be compared";
            return Err(Error::invalid(self.field, message));
        }
        Ok(RankRequest {
            model: self.model,
            queries: RankSide { field: "query", inputs: vec![query] },
            documents: RankSide { field: self.field, inputs: documents },
            truncate: self.truncate,
            rerank_top_k: Some(self.rerank_top_k.unwrap_or(RERANK_TOP_K)),
        })
    }
}

/// How an answer of `/rerank` is written.
pub(in crate::rest) struct Shape {
    top: Option<usize>,
    raw: bool,
    /// The documents' texts, where they come back.
    texts: Vec<Option<String>>,
    api: Api,
}

/// Whose answer it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Api {
    Jina,
    Tei,
    Voyage,
}

impl RerankBody {
    /// The engine's request, and how its answer is written.
    ///
    /// # Errors
    /// Names what is wrong.
    pub(in crate::rest) fn split(self) -> Result<(RankRequest, Shape), Error> {
        if self.truncation_direction == Some(Direction::Left) {
            return Err(Error::invalid("truncation_direction", "only `right` is served"));
        }
        let top = match (self.top_n, self.top_k) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid("top_k", "give either `top_n` or `top_k`"));
            }
            (top, None) | (None, top) => top,
        };
        let api = match (&self.texts, self.top_k, self.truncation) {
            (Some(_), None, None) => Api::Tei,
            (Some(_), ..) => {
                let message = "`top_k` and `truncation` go with `documents`";
                return Err(Error::invalid("texts", message));
            }
            (None, None, None) => Api::Jina,
            (None, ..) => Api::Voyage,
        };
        let (field, documents) = match (self.documents, self.texts) {
            (Some(Items(items)), None) => ("documents", items),
            (None, Some(texts)) => ("texts", texts.into_iter().map(Item::Text).collect()),
            _ => return Err(Error::invalid("documents", "give either `documents` or `texts`")),
        };
        // vLLM and Jina give the documents back unless told otherwise; the others do not.
        let texts = if self.return_documents.unwrap_or(api == Api::Jina) {
            documents.iter().map(|item| item.as_text().map(str::to_owned)).collect()
        } else {
            vec![None; documents.len()]
        };
        let query = Query {
            model: self.model,
            query: self.query,
            field,
            documents,
            truncate: self.truncate.or(self.truncation).unwrap_or(true),
            rerank_top_k: self.rerank_top_k,
        };
        let request = query.resolve()?;
        Ok((request, Shape { top, raw: self.raw_scores, texts, api }))
    }
}

impl EitherAnswer {
    fn new(ranked: &Ranked, mut shape: Shape) -> Self {
        let pairs = ranking(ranked, shape.top);
        if shape.api == Api::Voyage {
            let result = |pair: Pair| VoyageResult {
                index: pair.document,
                document: shape.texts[pair.document].take(),
                relevance_score: pair.score(),
            };
            return Self::Voyage(VoyageAnswer {
                object: "list",
                data: pairs.into_iter().map(result).collect(),
                model: ranked.model.to_string(),
                usage: ranked.usage.into(),
            });
        }
        if shape.api == Api::Tei {
            let text = |pair: Pair| RankedText {
                index: pair.document,
                text: shape.texts[pair.document].take(),
                score: if shape.raw { pair.raw_score() } else { pair.score() },
            };
            return Self::Texts(pairs.into_iter().map(text).collect());
        }
        let result = |pair: Pair| RerankResult {
            index: pair.document,
            document: shape.texts[pair.document].take().map(|text| RerankedText { text }),
            relevance_score: pair.score(),
        };
        Self::Documents(RerankAnswer {
            id: format!("rerank-{}", Uuid::now_v7().simple()),
            model: ranked.model.to_string(),
            usage: ranked.usage.into(),
            results: pairs.into_iter().map(result).collect(),
        })
    }
}

async fn answer(
    state: &AppState,
    context: &Context,
    body: RerankBody,
) -> Result<Response, Failure> {
    let min_probability = body.min_probability;
    let (request, shape) = body.split()?;
    let ranked = state.engine().rank(request, context).await?.at_least(min_probability)?;
    let values = ranked.pairs.len();
    respond::json(state, context, values, move || EitherAnswer::new(&ranked, shape)).await
}

/// Orders documents by a query, in the shape of vLLM and Jina or of text-embeddings-inference
///
/// With `documents` the answer is that of vLLM and Jina, with `texts` that of text-embeddings-inference. A
/// picture and a text are scored by their calibrated probability, two of a kind by `(1 + cosine) / 2`.
#[utoipa::path(
    post,
    path = "/rerank",
    operation_id = "rerank",
    tag = "compatible",
    params(RequestHeaders),
    request_body = RerankBody,
    responses((status = 200, description = "The documents, best first", body = EitherAnswer), TeiErrors),
)]
pub(in crate::rest) async fn rerank(
    State(state): State<AppState>,
    Ctx(context): Ctx,
    Payload(body): Payload<RerankBody>,
) -> Result<Response, Failure> {
    answer(&state, &context, body).await
}

/// Orders documents by a query, in the shape of vLLM and Jina
///
/// A picture and a text are scored by their calibrated probability, two of a kind by `(1 + cosine) / 2`.
#[utoipa::path(
    post,
    path = "/v1/rerank",
    operation_id = "rerank_v1",
    tag = "compatible",
    params(RequestHeaders),
    request_body = RerankBody,
    responses((status = 200, description = "The documents, best first", body = EitherAnswer), OpenAiErrors),
)]
pub(in crate::rest) async fn versioned(
    State(state): State<AppState>,
    Ctx(context): Ctx,
    Payload(body): Payload<RerankBody>,
) -> Result<Response, Failure> {
    answer(&state, &context, body).await
}
