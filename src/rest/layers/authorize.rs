//! Checks the API key of a request, if the server has keys.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt as _;
use tracing::Span;

use crate::{
    engine::Context,
    fetch::Client,
    rest::{AppState, problem::Failure},
};

/// Paths that need no key: probes, and files that are the same in every installation of this server.
const OPEN: [&str; 5] = ["/", "/docs", "/openapi.json", "/health", "/ping"];
/// Path prefixes that need no key.
const OPEN_BELOW: [&str; 5] = ["/page/", "/docs/", "/health/", "/v2/health/", "/.well-known/"];

/// Whether a request needs no key. Only GET requests can: `GET /` is the web page, but `POST /` runs a model.
pub(in crate::rest) fn is_open(method: &Method, path: &str) -> bool {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    reads && (OPEN.contains(&path) || OPEN_BELOW.iter().any(|below| path.starts_with(below)))
}

/// Refuses a request without a valid key, and a request of a key that already has its maximum number of
/// requests in flight.
pub(in crate::rest) async fn authorize(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    let open = is_open(request.method(), request.uri().path());
    let Some(keys) = state.0.access.keys.as_ref().filter(|_| !open) else {
        return next.run(request).await;
    };
    match keys.admit(request.headers()) {
        Ok(admitted) => {
            Span::current().record("key", admitted.name());
            let admitted = Arc::new(admitted);
            if let Some(context) = request.extensions().get::<Arc<Context>>() {
                // An image that is still being decoded after its client disconnected counts too.
                context.work.keep(Arc::clone(&admitted) as _);
                let _ = context.client.set(Client::Key(admitted.name().into()));
            }
            let response = next.run(request).await;
            // The request counts until its response is sent. Mapping the frames would work too, but hides the
            // body's length.
            response.map(|body| {
                Body::new(body.map_err(move |error| {
                    let _held = &admitted;
                    error
                }))
            })
        }
        Err(error) => Failure(error).into_response(),
    }
}
