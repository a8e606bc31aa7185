//! Checks the API key of a request, if the server has keys.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt as _;
use tracing::Span;

use crate::{
    engine::Context,
    fetch::Client,
    rest::{AppState, problem::Failure, routes},
};

/// Refuses a request without a valid key, and a request of a key that already has its maximum number of
/// requests in flight.
pub(in crate::rest) async fn authorize(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let open = route.is_some_and(|route| routes::table().is_open(request.method(), route.as_str()));
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
