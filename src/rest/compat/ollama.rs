//! Ollama's routes for embeddings, for its Python and JavaScript clients.

use std::time::{Duration, Instant, UNIX_EPOCH};

use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use utoipa::ToSchema;

use super::{
    content::{self, Item, Items, ItemsSchema},
    embed_all, in_field,
};
use crate::{
    build_info,
    embedding::Embedding,
    engine::{Context, EmbedRequest, Embedded},
    rest::{
        AppState,
        body::{FromPayload, Payload},
        layers::Ctx,
        openapi::{PlainErrors, RequestHeaders},
        problem::Failure,
        respond::{self, Json},
    },
};

/// The tag that Ollama and its tools append to a name without a tag.
const TAG: &str = ":latest";

/// What to embed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OllamaEmbedRequest, example = json!({"model": "demo", "input": ["a cat", "a dog"]}))]
pub(in crate::rest) struct EmbedBody {
    /// The model's name, with or without `:latest`. Without a name, the default model is used.
    model: Option<String>,
    /// Texts, or objects with one text or one image.
    #[schema(value_type = ItemsSchema)]
    input: Items,
    /// Whether a text that is too long is truncated (the default). Otherwise it is refused.
    #[schema(default = true)]
    truncate: Option<bool>,
    /// Keep only the first values of each embedding and normalise them again. This costs accuracy, see
    /// `/v1/embeddings`.
    #[schema(minimum = 1)]
    dimensions: Option<usize>,
    /// Accepted and ignored: they control how a language model generates text, and do not change an embedding.
    #[schema(value_type = Option<serde_json::Value>)]
    #[expect(dead_code, reason = "part of Ollama's request; nothing in it has a meaning here")]
    options: Option<IgnoredAny>,
    /// Accepted and ignored: models stay loaded.
    #[schema(value_type = Option<serde_json::Value>)]
    #[expect(dead_code, reason = "part of Ollama's request; models stay loaded")]
    keep_alive: Option<IgnoredAny>,
}

/// One text to embed, in the format of older clients.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OllamaEmbeddingsRequest, example = json!({"model": "demo", "prompt": "a cat"}))]
pub(in crate::rest) struct PromptBody {
    /// The model's name, with or without `:latest`. Without a name, the default model is used.
    model: Option<String>,
    /// A text, or an object with one text or one image.
    #[schema(inline)]
    prompt: Item,
    /// Accepted and ignored, as in `/api/embed`.
    #[schema(value_type = Option<serde_json::Value>)]
    #[expect(dead_code, reason = "part of Ollama's request; nothing in it has a meaning here")]
    options: Option<IgnoredAny>,
    /// Accepted and ignored: models stay loaded.
    #[schema(value_type = Option<serde_json::Value>)]
    #[expect(dead_code, reason = "part of Ollama's request; models stay loaded")]
    keep_alive: Option<IgnoredAny>,
}

impl FromPayload for EmbedBody {
    const ACCEPTS: &'static str = "application/json";
}

impl FromPayload for PromptBody {
    const ACCEPTS: &'static str = "application/json";
}

/// One embedding per item, in the order of the request.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaEmbedResponse)]
pub(in crate::rest) struct EmbedAnswer {
    /// The model that was used.
    model: String,
    embeddings: Vec<Vec<f32>>,
    /// Nanoseconds.
    total_duration: u64,
    /// Always 0: models stay loaded.
    load_duration: u64,
    /// Number of token ids of all texts.
    prompt_eval_count: usize,
}

/// One embedding.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaEmbeddingsResponse)]
pub(in crate::rest) struct PromptAnswer {
    embedding: Vec<f32>,
}

/// The served models.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaTags)]
pub(in crate::rest) struct Tags {
    models: Vec<Tag>,
}

/// One served model.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaTag)]
pub(in crate::rest) struct Tag {
    /// The name or alias that requests use.
    name: String,
    /// The same.
    model: String,
    /// When this server started.
    modified_at: String,
}

/// The server's version.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaVersion)]
pub(in crate::rest) struct Version {
    /// The version of this server, not of Ollama.
    #[schema(value_type = String)]
    version: &'static str,
}

/// The name of the model on this server. Ollama's tools add a tag to the configured name.
fn served(state: &AppState, name: Option<String>) -> Option<String> {
    let registry = state.engine().registry();
    name.map(|name| match name.strip_suffix(TAG) {
        Some(bare) if registry.resolve(&name).is_none() => bare.to_owned(),
        _ => name,
    })
}

async fn embedded(
    state: &AppState,
    context: &Context,
    (request, field): (EmbedRequest, &'static str),
) -> Result<(Embedded, usize), Failure> {
    let embedded = state.engine().embed(request, context).await;
    let embedded = embedded.map_err(|error| in_field(error, field))?;
    let values = embedded.embeddings.iter().map(Embedding::dim).sum();
    Ok((embedded, values))
}

fn rows(embedded: &Embedded) -> Vec<Vec<f32>> {
    embedded.embeddings.iter().map(|row| row.as_slice().to_vec()).collect()
}

/// Embeds texts and images, in Ollama's format
///
/// Embeddings have length 1.
#[utoipa::path(
    post,
    path = "/api/embed",
    operation_id = "ollama_embed",
    tag = "compatible",
    params(RequestHeaders),
    request_body = EmbedBody,
    responses((status = 200, description = "The embeddings", body = EmbedAnswer), PlainErrors),
)]
pub(in crate::rest) async fn embed(
    State(state): State<AppState>,
    Ctx(context): Ctx,
    Payload(body): Payload<EmbedBody>,
) -> Result<Response, Failure> {
    let start = Instant::now();
    let request = EmbedRequest {
        dimensions: body.dimensions,
        truncate: body.truncate.unwrap_or(true),
        ..embed_all(served(&state, body.model), content::resolve_all("input", body.input.0)?)
    };
    let (embedded, values) = embedded(&state, &context, (request, "input")).await?;
    let answer = move || EmbedAnswer {
        model: embedded.model.to_string(),
        embeddings: rows(&embedded),
        total_duration: u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX),
        load_duration: 0,
        prompt_eval_count: embedded.usage.text_tokens,
    };
    respond::json(&state, &context, values, answer).await
}

/// Embeds one text, in Ollama's older format
///
/// The embedding has length 1.
#[utoipa::path(
    post,
    path = "/api/embeddings",
    operation_id = "ollama_embeddings",
    tag = "compatible",
    params(RequestHeaders),
    request_body = PromptBody,
    responses((status = 200, description = "The embedding", body = PromptAnswer), PlainErrors),
)]
pub(in crate::rest) async fn prompt(
    State(state): State<AppState>,
    Ctx(context): Ctx,
    Payload(body): Payload<PromptBody>,
) -> Result<Response, Failure> {
    let input = body.prompt.resolve().map_err(|error| error.with_field("prompt"))?;
    let request = embed_all(served(&state, body.model), vec![input]);
    let (embedded, values) = embedded(&state, &context, (request, "prompt")).await?;
    let answer = move || PromptAnswer { embedding: rows(&embedded).pop().unwrap_or_default() };
    respond::json(&state, &context, values, answer).await
}

/// Lists the served models, in Ollama's format
#[utoipa::path(
    get,
    path = "/api/tags",
    operation_id = "ollama_tags",
    tag = "compatible",
    responses((status = 200, description = "The models, the default first, then their aliases", body = Tags)),
)]
pub(in crate::rest) async fn tags(State(state): State<AppState>) -> Json<Tags> {
    let registry = state.engine().registry();
    let started = UNIX_EPOCH + Duration::from_secs(state.0.started);
    let names = registry.names().chain(registry.aliases().map(|(alias, _)| alias));
    let models = names.map(|name| Tag {
        name: name.to_owned(),
        model: name.to_owned(),
        modified_at: humantime::format_rfc3339(started).to_string(),
    });
    Json(Tags { models: models.collect() })
}

/// Returns the version, in Ollama's format
#[utoipa::path(
    get,
    path = "/api/version",
    operation_id = "ollama_version",
    tag = "compatible",
    responses((status = 200, description = "The version", body = Version)),
)]
pub(in crate::rest) async fn version() -> Json<Version> {
    Json(Version { version: build_info::VERSION })
}
