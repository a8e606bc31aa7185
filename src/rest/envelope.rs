//! The formats of error bodies in the compatible APIs.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::{Code, Error};

/// The format of a route's error bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Envelope {
    /// `application/problem+json`.
    Problem,
    /// `{"error": {...}}`, as the clients of OpenAI and vLLM expect.
    OpenAi,
    /// `{"message": ...}`, as Cohere's clients expect.
    Cohere,
    /// `{"detail": ...}`: Voyage and servers that use FastAPI.
    Detail,
    /// `{"error": ..., "error_type": ...}`: text-embeddings-inference.
    Tei,
    /// `{"error": ...}`: the Open Inference Protocol, Ollama and Weaviate.
    Plain,
}

impl Envelope {
    /// The HTTP status of a code. All formats use one table, except text-embeddings-inference, whose clients
    /// depend on its own statuses.
    pub(super) fn status(self, code: Code) -> StatusCode {
        match (self, code) {
            (Self::Tei, Code::InvalidRequest) => StatusCode::UNPROCESSABLE_ENTITY,
            (Self::Tei, Code::DeviceFailed) => StatusCode::FAILED_DEPENDENCY,
            _ => code.spec().status,
        }
    }

    /// The content type of an error body.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Problem => "application/problem+json",
            _ => "application/json",
        }
    }

    /// The schema of an error body in the OpenAPI document.
    pub(super) fn schema(self) -> &'static str {
        match self {
            Self::Problem => "Problem",
            Self::OpenAi => "OpenAiError",
            Self::Cohere => "CohereError",
            Self::Detail => "DetailError",
            Self::Tei => "TeiError",
            Self::Plain => "PlainError",
        }
    }
}

/// An error in Cohere's format.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c9a4-6f0e-7c6b-9f3a-2b1d7c1e5a44",
    "message": "texts: must not be empty",
    "code": "invalid_request"
}))]
pub(super) struct CohereError<'e> {
    /// The request id, which is also in the server's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'e str>,
    /// What is wrong, with the invalid part of the request.
    message: String,
    /// The machine-readable name, as in problem documents. Not in Cohere's format.
    code: &'static str,
}

/// An error in FastAPI's format: Voyage and Immich.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"detail": "inputs: must not be empty", "code": "invalid_request"}))]
pub(super) struct DetailError {
    /// What is wrong, with the invalid part of the request.
    detail: String,
    /// The machine-readable name, as in problem documents. Not in the original format.
    code: &'static str,
}

/// An error in the format of text-embeddings-inference.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "error": "inputs: must not be empty",
    "error_type": "Validation",
    "code": "invalid_request"
}))]
pub(super) struct TeiError {
    /// What is wrong, with the invalid part of the request.
    error: String,
    /// `Unhealthy`, `Backend`, `Overloaded`, `Validation` or `Tokenizer`.
    error_type: &'static str,
    /// The machine-readable name, as in problem documents. Not in the original format.
    code: &'static str,
}

/// An error as one string: the Open Inference Protocol, Ollama and Weaviate's module.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"error": "TEXT: must not be empty", "code": "invalid_request"}))]
pub(super) struct PlainError {
    /// What is wrong, with the invalid part of the request.
    error: String,
    /// The machine-readable name, as in problem documents. Not in the original format.
    code: &'static str,
}

impl<'e> CohereError<'e> {
    pub(super) fn new(error: &Error, id: Option<&'e str>) -> Self {
        Self { id, message: error.to_string(), code: error.code().slug() }
    }
}

impl From<&Error> for DetailError {
    fn from(error: &Error) -> Self {
        Self { detail: error.to_string(), code: error.code().slug() }
    }
}

impl From<&Error> for TeiError {
    fn from(error: &Error) -> Self {
        let error_type = match error.code() {
            Code::NotReady | Code::ShuttingDown => "Unhealthy",
            Code::Internal | Code::DeviceFailed | Code::DeadlineExceeded => "Backend",
            Code::Overloaded => "Overloaded",
            Code::TextTooLong => "Tokenizer",
            _ => "Validation",
        };
        Self { error: error.to_string(), error_type, code: error.code().slug() }
    }
}

impl From<&Error> for PlainError {
    fn from(error: &Error) -> Self {
        Self { error: error.to_string(), code: error.code().slug() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tei_has_statuses_of_its_own() {
        assert_eq!(Envelope::Tei.status(Code::InvalidRequest).as_u16(), 422);
        assert_eq!(Envelope::Tei.status(Code::DeviceFailed).as_u16(), 424);
        assert_eq!(Envelope::Tei.status(Code::Overloaded).as_u16(), 429);
        assert_eq!(Envelope::Cohere.status(Code::InvalidRequest).as_u16(), 400);
    }
}
