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

use utoipa_axum::routes;

use super::{
    envelope::Envelope,
    routes::{Kind, Routes},
};
use crate::{
    embedding::{Embedding, Encoding},
    engine::{EmbedRequest, Input},
    error::Error,
};

/// A route of Cohere's API.
const COHERE: Kind = Kind::of(Envelope::Cohere);
/// A route with FastAPI's errors: Voyage and Immich.
const DETAIL: Kind = Kind::of(Envelope::Detail);
/// A route of text-embeddings-inference.
const TEI: Kind = Kind::of(Envelope::Tei);
/// A route of the rerankers and scorers that vLLM and others have.
const OPENAI: Kind = Kind::of(Envelope::OpenAi);
/// A route whose errors are one string: the Open Inference Protocol, Ollama and Weaviate.
const PLAIN: Kind = Kind::of(Envelope::Plain);

/// Every compatible route.
pub(super) fn routes() -> Routes {
    Routes::default()
        .add(COHERE, routes!(cohere::embed))
        .add(COHERE, routes!(cohere::rerank::rerank))
        .add(COHERE, routes!(cohere::v1::embed))
        .unsupported(Envelope::Cohere, &["/v2/"])
        .add(DETAIL, routes!(voyage::embed))
        .add(TEI, routes!(tei::embed))
        .add(TEI, routes!(tei::similarity))
        .add(TEI, routes!(tei::endpoint::predict))
        .add(TEI.open().probe(), routes!(tei::health))
        .unsupported(Envelope::Tei, &["/embed_all", "/embed_sparse", "/tokenize", "/decode"])
        .add(TEI, routes!(rerank::rerank))
        .add(OPENAI, routes!(rerank::versioned))
        .add(OPENAI, routes!(score::score))
        .add(OPENAI, routes!(score::versioned))
        .merge(oip::routes())
        .add(PLAIN, routes!(ollama::embed))
        .add(PLAIN, routes!(ollama::prompt))
        .add(PLAIN, routes!(ollama::tags))
        .add(PLAIN, routes!(ollama::version))
        .add(PLAIN, routes!(weaviate::vectorize))
        .add(PLAIN, routes!(weaviate::meta))
        .add(PLAIN.open().probe(), routes!(weaviate::live))
        .add(PLAIN.open().probe(), routes!(weaviate::ready))
        // Other routes of Ollama, and of Weaviate's probes.
        .unsupported(Envelope::Plain, &["/api/", "/.well-known/"])
        .add(DETAIL, routes!(immich::predict))
        .add(DETAIL.open().probe(), routes!(immich::ping))
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
