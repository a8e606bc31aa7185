//! A request's id: the client's own where it sent a usable one, else a fresh one; echoed in the answer.

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};

const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Long enough for a UUID, a trace id or a path-like id of a proxy; short enough for every log line.
const MAX_LENGTH: usize = 128;

/// The id of this request, as a request extension.
#[derive(Debug, Clone)]
pub(in crate::rest) struct RequestId(HeaderValue);

impl RequestId {
    /// The id. Always printable ASCII.
    pub(in crate::rest) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// Takes or makes the request's id, and sends it back with the answer.
pub(in crate::rest) async fn carry_request_id(mut request: Request, next: Next) -> Response {
    let id = match request.headers().get(HEADER) {
        Some(given) if is_usable(given) => given.clone(),
        _ => fresh(),
    };
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    response.headers_mut().insert(HEADER, id);
    response
}

/// An id goes into logs and problem documents, so it is bounded and printable; others are replaced.
fn is_usable(value: &HeaderValue) -> bool {
    !value.is_empty()
        && value.len() <= MAX_LENGTH
        && value.as_bytes().iter().all(u8::is_ascii_graphic)
}

/// Version 7 sorts by time, so ids in a log stand in the order of the requests.
fn fresh() -> HeaderValue {
    HeaderValue::from_str(&uuid::Uuid::now_v7().to_string())
        .unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}
