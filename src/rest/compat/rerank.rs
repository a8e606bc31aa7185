//! `POST /rerank` for clients of vLLM, Jina and text-embeddings-inference.

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
        matching_token::MatchingToken,
        openapi::{EXAMPLE_IMAGE, OpenAiErrors, RequestHeaders, TeiErrors},
        problem::Failure,
        respond::{self, Usage},
    },
};

/// A query, and the documents to rank by it: `documents` for the response of vLLM and Jina, `texts` for that of
/// text-embeddings-inference.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(
    json!({"query": "a cat", "documents": [{"image": EXAMPLE_IMAGE}], "top_n": 1}),
    json!({"query": "a cat", "texts": ["a kitten", "a truck"]})
))]
pub(in crate::rest) struct RerankBody {
    /// The model's name. Without a name, the default model is used.
    model: Option<String>,
    /// A text, or an object with one text or one image.
    query: Item,
    /// Texts or images, all of the same kind.
    #[schema(value_type = Option<ItemsSchema>)]
    documents: Option<Items>,
    /// Texts.
    texts: Option<Vec<String>>,
    /// Keep only this many of the best documents.
    #[schema(minimum = 1)]
    top_n: Option<usize>,
    /// Keep only documents with at least this probability, from 0 to 1. Refused if a pair has no probability:
    /// for two texts, two images, or a model that does not score a pair on its own.
    #[schema(minimum = 0, maximum = 1)]
    min_probability: Option<f32>,
    /// Voyage's name for `top_n`. The response is then in Voyage's format.
    #[schema(minimum = 1)]
    top_k: Option<usize>,
    /// Voyage's name for `truncate`. The response is then in Voyage's format.
    truncation: Option<bool>,
    /// Whether texts are returned with their scores.
    #[serde(alias = "return_text")]
    return_documents: Option<bool>,
    /// Accepted for Cohere's clients and ignored: texts are not split into chunks.
    #[expect(dead_code, reason = "part of Cohere's first request; texts are cut, not split")]
    max_chunks_per_doc: Option<usize>,
    /// Whether the scores are logits, or cosines for two texts or two images. Only with `texts`.
    #[serde(default)]
    raw_scores: bool,
    /// Whether a text that is too long is truncated (the default). Otherwise it is refused.
    #[schema(default = true)]
    truncate: Option<bool>,
    /// Only `right` is served: the end is cut.
    truncation_direction: Option<Direction>,
    /// How many documents the matching head of a BLIP or BLIP-2 model scores: those with the largest cosines.
    /// The others follow after them in the order of their cosines. No effect on models without a matching head.
    #[schema(default = 128)]
    rerank_top_k: Option<usize>,
    /// The token before a text that the matching head of a BLIP model reads: `cls` as in transformers, `enc` as
    /// the models were trained. The default is the server's `--matching-token`. Other models refuse it.
    matching_token: Option<MatchingToken>,
}

impl FromPayload for RerankBody {
    const ACCEPTS: &'static str = "application/json";
}

/// The documents, best first.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::rest) struct RerankAnswer {
    id: String,
    /// The model that was used.
    model: String,
    usage: Usage,
    results: Vec<RerankResult>,
}

/// The score of one document.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::rest) struct RerankResult {
    /// Its position in the request.
    index: usize,
    /// The document, if it is a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<RerankedText>,
    /// For an image and a text: the calibrated probability. For two texts or two images: `(1 + cosine) / 2`.
    relevance_score: f32,
}

/// A document that is a text.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::rest) struct RerankedText {
    pub(super) text: String,
}

/// The score of one text, in the format of text-embeddings-inference.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::rest) struct RankedText {
    /// Its position in the request.
    index: usize,
    /// The text, if it was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    score: f32,
}

/// The documents, best first, in Voyage's format.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VoyageRerankResponse)]
pub(in crate::rest) struct VoyageAnswer {
    /// Always `list`.
    #[schema(value_type = String)]
    object: &'static str,
    data: Vec<VoyageResult>,
    /// The model that was used.
    model: String,
    usage: Usage,
}

/// The score of one document, in Voyage's format.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VoyageRerankResult)]
pub(in crate::rest) struct VoyageResult {
    /// Its position in the request.
    index: usize,
    /// The document, if it is a text and was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<String>,
    /// For an image and a text: the calibrated probability. For two texts or two images: `(1 + cosine) / 2`.
    relevance_score: f32,
}

/// The formats of responses of `/rerank`.
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

/// The pairs, best first, at most `top`.
pub(super) fn ranking(ranked: &Ranked, top: Option<usize>) -> Vec<Pair> {
    let mut pairs = ranked.pairs.clone();
    pairs.sort_by(Pair::best_first);
    pairs.truncate(top.unwrap_or(usize::MAX));
    pairs
}

/// A query, and documents to rank by it.
pub(super) struct Query {
    /// The model's name. Without a name, the default model is used.
    pub(super) model: Option<String>,
    /// A text or an image.
    pub(super) query: Item,
    /// The field with the documents.
    pub(super) field: &'static str,
    /// Texts or images, all of the same kind.
    pub(super) documents: Vec<Item>,
    /// Whether a text that is too long is truncated. Otherwise it is refused.
    pub(super) truncate: bool,
    /// How many documents a matching head scores.
    pub(super) rerank_top_k: Option<usize>,
    /// The token before a text that a matching head reads.
    pub(super) matching_token: Option<MatchingToken>,
}

impl Query {
    /// The engine's request.
    ///
    /// # Errors
    /// Names the items that are not one text or one image. [`crate::error::Code::InvalidRequest`] for documents
    /// of both kinds: the probability of an image and a text cannot be compared with the similarity of two
    /// texts.
    pub(super) fn resolve(self) -> Result<RankRequest, Error> {
        let query = self.query.resolve().map_err(|error| error.with_field("query"))?;
        let documents = content::resolve_all(self.field, self.documents)?;
        let pictures = documents.iter().filter(|input| matches!(input, Input::Image(_))).count();
        if pictures != 0 && pictures != documents.len() {
            let message = "must be all texts or all images: their scores cannot be compared";
            return Err(Error::invalid(self.field, message));
        }
        Ok(RankRequest {
            model: self.model,
            queries: RankSide { field: "query", inputs: vec![query] },
            documents: RankSide { field: self.field, inputs: documents },
            truncate: self.truncate,
            rerank_top_k: Some(self.rerank_top_k.unwrap_or(RERANK_TOP_K)),
            matching_token: self.matching_token.map(Into::into),
        })
    }
}

/// How a response of `/rerank` is written.
pub(in crate::rest) struct Shape {
    top: Option<usize>,
    raw: bool,
    /// The documents' texts, if they are returned.
    texts: Vec<Option<String>>,
    api: Api,
}

/// Which API the response follows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Api {
    Jina,
    Tei,
    Voyage,
}

impl RerankBody {
    /// The engine's request, and how its response is written.
    ///
    /// # Errors
    /// Names the invalid field.
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
        // vLLM and Jina return the documents by default. The others do not.
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
            matching_token: self.matching_token,
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

/// Ranks documents by a query, in the format of vLLM and Jina or of text-embeddings-inference
///
/// With `documents`, the response is in the format of vLLM and Jina, with `texts` in that of
/// text-embeddings-inference. The score of an image and a text is their calibrated probability. The score of
/// two texts or two images is `(1 + cosine) / 2`.
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

/// Ranks documents by a query, in the format of vLLM and Jina
///
/// The score of an image and a text is their calibrated probability. The score of two texts or two images is
/// `(1 + cosine) / 2`.
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
