//! `POST /embed` and `/similarity`, and `GET /health`, for clients of text-embeddings-inference.

pub(in crate::rest) mod endpoint;

use axum::{extract::State, response::Response};
use serde::{Deserialize, de::IgnoredAny};
use utoipa::ToSchema;

use super::{content, content::Item, content::Items, content::ItemsSchema, embed_all, in_field};
use crate::{
    embedding::Embedding,
    engine::{Context, EmbedRequest, Embedded, Input, RankRequest, RankSide},
    error::Error,
    rest::{
        AppState,
        body::{FromPayload, Payload},
        health,
        layers::Ctx,
        openapi::{RequestHeaders, TeiErrors, TeiNotReadyErrors},
        problem::Failure,
        respond,
    },
};

/// Texts to embed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TeiEmbedRequest, example = json!({"inputs": ["a cat", "a dog"]}))]
pub(in crate::rest) struct EmbedBody {
    /// One or several texts. Objects with a text or an image are accepted too.
    #[schema(value_type = ItemsSchema)]
    inputs: Items,
    // The same options as [`EmbedOptions`]. A flattened struct would buffer every unknown field.
    /// The model's name. Without a name, the default model is used. Not part of the original format.
    model: Option<String>,
    /// Whether embeddings are scaled to length 1. True by default.
    #[schema(default = true)]
    normalize: Option<bool>,
    /// Whether a text that is too long is truncated. True by default.
    #[schema(default = true)]
    truncate: Option<bool>,
    /// Only `right` is supported: the end is cut off.
    truncation_direction: Option<Direction>,
    /// Not supported: the model has no prompts.
    prompt_name: Option<String>,
    /// Keep only the first values of each embedding. This costs accuracy, see `/v1/embeddings`.
    #[schema(minimum = 1)]
    dimensions: Option<usize>,
    /// The same options in the format of an inference endpoint.
    parameters: Option<EmbedOptions>,
    /// Accepted and ignored: they control waiting and caching in an inference endpoint of Hugging Face.
    #[expect(dead_code, reason = "part of the endpoint's request; the server has neither")]
    #[schema(value_type = Option<serde_json::Value>)]
    options: Option<IgnoredAny>,
}

/// Options for embedding texts.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TeiEmbedOptions)]
pub(in crate::rest) struct EmbedOptions {
    /// The model's name. Without a name, the default model is used. Not part of the original format.
    model: Option<String>,
    /// Whether embeddings are scaled to length 1. True by default.
    #[schema(default = true)]
    normalize: Option<bool>,
    /// Whether a text that is too long is truncated. True by default.
    #[schema(default = true)]
    truncate: Option<bool>,
    /// Only `right` is supported: the end is cut off.
    truncation_direction: Option<Direction>,
    /// Not supported: the model has no prompts.
    prompt_name: Option<String>,
    /// Keep only the first values of each embedding. This costs accuracy, see `/v1/embeddings`.
    #[schema(minimum = 1)]
    dimensions: Option<usize>,
}

/// Which end of a text is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::rest) enum Direction {
    /// Its beginning.
    #[serde(alias = "Left")]
    Left,
    /// Its end.
    #[serde(alias = "Right")]
    Right,
}

impl EmbedBody {
    fn split(self) -> Result<(Items, EmbedOptions), Error> {
        let options = EmbedOptions {
            model: self.model,
            normalize: self.normalize,
            truncate: self.truncate,
            truncation_direction: self.truncation_direction,
            prompt_name: self.prompt_name,
            dimensions: self.dimensions,
        };
        let nested = self.parameters.unwrap_or_default();
        Ok((self.inputs, options.or(nested)?))
    }
}

impl EmbedOptions {
    /// Combines options from two places.
    ///
    /// # Errors
    /// Names an option that is given in both.
    fn or(self, nested: Self) -> Result<Self, Error> {
        fn one<T>(name: &'static str, a: Option<T>, b: Option<T>) -> Result<Option<T>, Error> {
            match (a, b) {
                (Some(_), Some(_)) => Err(Error::invalid(name, "is given twice")),
                (a, b) => Ok(a.or(b)),
            }
        }
        Ok(Self {
            model: one("model", self.model, nested.model)?,
            normalize: one("normalize", self.normalize, nested.normalize)?,
            truncate: one("truncate", self.truncate, nested.truncate)?,
            truncation_direction: one(
                "truncation_direction",
                self.truncation_direction,
                nested.truncation_direction,
            )?,
            prompt_name: one("prompt_name", self.prompt_name, nested.prompt_name)?,
            dimensions: one("dimensions", self.dimensions, nested.dimensions)?,
        })
    }

    fn request(self, inputs: Vec<Input>) -> Result<EmbedRequest, Error> {
        if self.truncation_direction == Some(Direction::Left) {
            return Err(Error::invalid("truncation_direction", "only `right` is served"));
        }
        if self.prompt_name.is_some() {
            return Err(Error::invalid("prompt_name", "this model has no prompts"));
        }
        Ok(EmbedRequest {
            dimensions: self.dimensions,
            normalize: self.normalize.unwrap_or(true),
            truncate: self.truncate.unwrap_or(true),
            ..embed_all(self.model, inputs)
        })
    }
}

impl FromPayload for EmbedBody {
    const ACCEPTS: &'static str = "application/json";
}

async fn embeddings(
    state: &AppState,
    context: &Context,
    body: EmbedBody,
) -> Result<Response, Failure> {
    let (Items(items), options) = body.split()?;
    let request = options.request(content::resolve_all("inputs", items)?)?;
    let embedded = state.engine().embed(request, context).await;
    let embedded = embedded.map_err(|error| in_field(error, "inputs"))?;
    let values = embedded.embeddings.iter().map(Embedding::dim).sum();
    respond::json(state, context, values, move || rows(&embedded)).await
}

fn rows(embedded: &Embedded) -> Vec<Vec<f32>> {
    embedded.embeddings.iter().map(|row| row.as_slice().to_vec()).collect()
}

/// Embeds texts, in the format of text-embeddings-inference
#[utoipa::path(
    post,
    path = "/embed",
    operation_id = "tei_embed",
    tag = "compatible",
    params(RequestHeaders),
    request_body = EmbedBody,
    responses((status = 200, description = "One row a text", body = Vec<Vec<f32>>), TeiErrors),
)]
pub(in crate::rest) async fn embed(
    State(state): State<AppState>,
    Ctx(context): Ctx,
    Payload(body): Payload<EmbedBody>,
) -> Result<Response, Failure> {
    embeddings(&state, &context, body).await
}

/// A sentence, and other sentences to compare it with.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(
    as = TeiSimilarityRequest,
    example = json!({"inputs": {"source_sentence": "a cat", "sentences": ["a kitten", "a truck"]}})
)]
pub(in crate::rest) struct SimilarityBody {
    inputs: Sentences,
    /// Options for embedding the sentences.
    #[serde(default)]
    parameters: EmbedOptions,
}

/// A sentence, and other sentences to compare it with.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::rest) struct Sentences {
    source_sentence: Item,
    sentences: Vec<Item>,
}

impl FromPayload for SimilarityBody {
    const ACCEPTS: &'static str = "application/json";
}

async fn cosines(
    state: &AppState,
    context: &Context,
    body: SimilarityBody,
) -> Result<Response, Failure> {
    let Sentences { source_sentence, sentences } = body.inputs;
    let field = "inputs.source_sentence";
    let source = source_sentence.resolve().map_err(|error| error.with_field(field))?;
    // This also refuses unsupported options.
    let options = body.parameters.request(Vec::new())?;
    let request = RankRequest {
        model: options.model,
        queries: RankSide { field, inputs: vec![source] },
        documents: RankSide {
            field: "inputs.sentences",
            inputs: content::resolve_all("inputs.sentences", sentences)?,
        },
        truncate: options.truncate,
        // Only cosines are returned.
        rerank_top_k: Some(0),
        matching_token: None,
    };
    let ranked = state.engine().rank(request, context).await?;
    let cosines: Vec<f32> = ranked.pairs.iter().map(|pair| pair.cosine).collect();
    respond::json(state, context, cosines.len(), move || cosines).await
}

/// Compares a sentence with others, in the format of text-embeddings-inference
///
/// Returns cosines in the order of the sentences.
#[utoipa::path(
    post,
    path = "/similarity",
    operation_id = "tei_similarity",
    tag = "compatible",
    params(RequestHeaders),
    request_body = SimilarityBody,
    responses((status = 200, description = "One cosine a sentence", body = Vec<f32>), TeiErrors),
)]
pub(in crate::rest) async fn similarity(
    State(state): State<AppState>,
    Ctx(context): Ctx,
    Payload(body): Payload<SimilarityBody>,
) -> Result<Response, Failure> {
    cosines(&state, &context, body).await
}

/// Readiness probe, in the format of text-embeddings-inference
#[utoipa::path(
    get,
    path = "/health",
    operation_id = "tei_health",
    tag = "compatible",
    responses(
        (status = 200, description = "Every tower ran and every worker lives"),
        TeiNotReadyErrors,
    ),
)]
pub(in crate::rest) async fn health(State(state): State<AppState>) -> Result<(), Failure> {
    Ok(health::check(&state)?)
}
