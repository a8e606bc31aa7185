//! Error responses: RFC 9457 problem documents, or the error format of the API that a route follows. All come
//! from the one table in [`crate::error`].

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    docs,
    envelope::{CohereError, DetailError, Envelope, PlainError, TeiError},
    respond::json_line,
};
use crate::error::{Code, Error};

/// An error on its way out of a handler or a layer.
///
/// As a response it has the right status and no body. [`super::layers::render_failures`] writes the body,
/// because only that layer knows the format and the request id.
#[derive(Debug, Clone)]
pub(super) struct Failure(pub(super) Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = self.0.code().spec().status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// An RFC 9457 problem document.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "type": "/docs/errors#undecodable_image",
    "title": "Undecodable image",
    "status": 422,
    "code": "undecodable_image",
    "detail": "the image cannot be decoded: the PNG data ends early",
    "field": "images[1]",
    "request_id": "0198c9a4-6f0e-7c6b-9f3a-2b1d7c1e5a44",
    "errors": [{
        "code": "undecodable_image",
        "detail": "the image cannot be decoded: the PNG data ends early",
        "field": "images[1]"
    }]
}))]
pub(super) struct Problem<'e> {
    /// A link to the explanation: the entry of the code on this server's page about errors.
    #[serde(rename = "type")]
    kind: String,
    /// A short summary, which is the same for every occurrence.
    title: &'static str,
    /// The HTTP status, again.
    status: u16,
    /// The machine-readable name, which does not change.
    code: &'static str,
    /// What is wrong with this request.
    detail: &'e str,
    /// The invalid part of the request, as a path (`input[3].image`).
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'e str>,
    /// The request id, which is also in the server's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'e str>,
    /// The id of the request's trace, if requests are traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'e str>,
    /// Every item that failed, if the request has several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ItemProblem<'e>>,
}

/// The ids that identify a failed request in the log and among the traces.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ids<'i> {
    pub(super) request: Option<&'i str>,
    pub(super) trace: Option<&'i str>,
}

/// One failed item of a request.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ItemProblem<'e> {
    /// The machine-readable name, which does not change.
    code: &'static str,
    /// What is wrong with the item.
    detail: &'e str,
    /// The item, as a path into the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'e str>,
}

/// OpenAI's error format.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "error": {
        "message": "the model `clip` is not served here; it serves: demo",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found"
    }
}))]
pub(super) struct OpenAiError<'e> {
    error: OpenAiErrorBody<'e>,
}

/// The content of OpenAI's error format.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OpenAiErrorBody<'e> {
    /// What is wrong with this request.
    message: &'e str,
    /// OpenAI's error type.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The invalid part of the request, as a path.
    param: Option<&'e str>,
    /// The machine-readable name, as in problem documents.
    code: &'static str,
    /// Every item that failed, if the request has several. Not in OpenAI's format. Its clients ignore it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ItemProblem<'e>>,
}

impl<'e> From<&'e Error> for OpenAiErrorBody<'e> {
    fn from(error: &'e Error) -> Self {
        Self {
            message: error.message(),
            kind: openai_kind(error.code()),
            param: error.field(),
            code: error.code().slug(),
            errors: items(error),
        }
    }
}

/// OpenAI's error type for a code. Its clients map it to exception types.
fn openai_kind(code: Code) -> &'static str {
    match code.spec().status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "server_error",
    }
}

fn items(error: &Error) -> Vec<ItemProblem<'_>> {
    error
        .items()
        .iter()
        .map(|item| ItemProblem {
            code: item.code().slug(),
            detail: item.message(),
            field: item.field(),
        })
        .collect()
}

/// An error body as JSON.
fn body(error: &Error, envelope: Envelope, ids: Ids<'_>) -> Vec<u8> {
    let spec = error.code().spec();
    let written = match envelope {
        Envelope::Problem => json_line(&Problem {
            kind: docs::problem_type(error.code()),
            title: spec.title,
            status: spec.status.as_u16(),
            code: spec.slug,
            detail: error.message(),
            field: error.field(),
            request_id: ids.request,
            trace_id: ids.trace,
            errors: items(error),
        }),
        Envelope::OpenAi => json_line(&OpenAiError { error: error.into() }),
        Envelope::Cohere => json_line(&CohereError::new(error, ids.request)),
        Envelope::Detail => json_line(&DetailError::from(error)),
        Envelope::Tei => json_line(&TeiError::from(error)),
        Envelope::Plain => json_line(&PlainError::from(error)),
    };
    // Writing strings and numbers to memory cannot fail.
    written.unwrap_or_default()
}

/// An error body without a request id, as an example for the OpenAPI document.
pub(super) fn document(error: &Error, envelope: Envelope) -> serde_json::Value {
    serde_json::from_slice(&body(error, envelope, Ids::default())).unwrap_or_default()
}

/// An error response: status, headers and body.
pub(super) fn render(error: &Error, envelope: Envelope, ids: Ids<'_>) -> Response {
    let mut response = (
        envelope.status(error.code()),
        [(header::CONTENT_TYPE, envelope.content_type())],
        body(error, envelope, ids),
    )
        .into_response();
    if error.code() == Code::Unauthorized {
        let challenge = HeaderValue::from_static("Bearer realm=\"siglip-server\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    if let Some(after) = error.retry_after() {
        // Whole seconds, rounded up: a client that retries too early is refused again.
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    response
}

/// The table of errors for `docs/api.md`, in Markdown.
#[must_use]
pub fn error_table() -> String {
    let mut table = String::from(
        "| code | HTTP | gRPC | retry | title | OpenAI type |\n|---|---|---|---|---|---|\n",
    );
    for code in Code::ALL {
        let spec = code.spec();
        let retry = if spec.retryable { "yes" } else { "no" };
        table += &format!(
            "| `{}` | {} | {:?} | {retry} | {} | `{}` |\n",
            spec.slug,
            spec.status.as_u16(),
            tonic::Code::from_i32(spec.grpc),
            spec.title,
            openai_kind(code),
        );
    }
    table
}
