//! The request id: the client's own if it sent a valid one, otherwise a new one. It is returned in the
//! response.

use axum::{extract::Request, http::HeaderValue, middleware::Next, response::Response};

use crate::edge::{self, REQUEST_ID};

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
    let id = edge::request_id(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}
