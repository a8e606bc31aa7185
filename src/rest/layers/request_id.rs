//! The request id: the client's own if it sent a valid one, otherwise a new one. It is returned in the
//! response.

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};

const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Long enough for a UUID, a trace id or a path-like id of a proxy, and short enough for log lines.
const MAX_LENGTH: usize = 128;

/// The id of this request, as a request extension.
#[derive(Debug, Clone)]
pub(in crate::rest) struct RequestId(HeaderValue);

impl RequestId {
    /// The id, which is always printable ASCII.
    pub(in crate::rest) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// Takes the client's request id or creates one, and returns it with the response.
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

/// Whether an id is valid. It is written to logs and problem documents, so it must be short and printable.
/// Other ids are replaced.
fn is_usable(value: &HeaderValue) -> bool {
    !value.is_empty()
        && value.len() <= MAX_LENGTH
        && value.as_bytes().iter().all(u8::is_ascii_graphic)
}

/// A UUID of version 7, which sorts by time, so that the order of ids in a log is the order of the requests.
fn fresh() -> HeaderValue {
    HeaderValue::from_str(&uuid::Uuid::now_v7().to_string())
        .unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}
