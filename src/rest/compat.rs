//! Routes in the formats of other servers, so that the clients of these servers work unchanged.
//!
//! Each route only converts its request to the engine's request, and the engine's response to its own.
//! `docs/compatibility.md` says what each route supports and where it differs.

pub(super) mod cohere;
pub(super) mod content;
pub(super) mod immich;
pub(super) mod oip;
pub(super) mod ollama;
pub(super) mod rerank;
pub(super) mod score;
pub(super) mod tei;
pub(super) mod voyage;
pub(super) mod weaviate;

use utoipa_axum::{router::OpenApiRouter, routes};

use super::AppState;
use crate::{
    embedding::{Embedding, Encoding},
    engine::{EmbedRequest, Input},
    error::Error,
};

/// Every compatible route.
pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(cohere::embed))
        .routes(routes!(cohere::rerank::rerank))
        .routes(routes!(cohere::v1::embed))
        .routes(routes!(voyage::embed))
        .routes(routes!(tei::embed))
        .routes(routes!(tei::similarity))
        .routes(routes!(tei::endpoint::predict))
        .routes(routes!(tei::health))
        .routes(routes!(rerank::rerank))
        .routes(routes!(rerank::versioned))
        .routes(routes!(score::score))
        .routes(routes!(score::versioned))
        .merge(oip::routes())
        .routes(routes!(ollama::embed))
        .routes(routes!(ollama::prompt))
        .routes(routes!(ollama::tags))
        .routes(routes!(ollama::version))
        .routes(routes!(weaviate::vectorize))
        .routes(routes!(weaviate::meta))
        .routes(routes!(weaviate::live))
        .routes(routes!(weaviate::ready))
        .routes(routes!(immich::predict))
        .routes(routes!(immich::ping))
}

/// A request for normalised embeddings of everything in `inputs`.
fn embed_all(model: Option<String>, inputs: Vec<Input>) -> EmbedRequest {
    EmbedRequest { model, inputs, ..EmbedRequest::default() }
}

/// The engine names items `input[3]`. This replaces the field name with `name`.
fn in_field(error: Error, name: &'static str) -> Error {
    error.map_field(|field| match field.strip_prefix("input") {
        Some(rest) if rest.is_empty() || rest.starts_with('[') => format!("{name}{rest}"),
        _ => field.to_owned(),
    })
}

/// A row as base64 of little-endian 32-bit floats.
fn base64_floats(row: &Embedding) -> String {
    base64_simd::STANDARD.encode_to_string(row.encoded(Encoding::F32))
}
