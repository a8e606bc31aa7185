//! The engine's context of a request: deadline, priority and timings.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt as _;

use crate::{
    edge,
    engine::Context,
    error::{Code, Error},
    rest::{AppState, problem::Failure},
    telemetry::Trace,
};

pub(super) const TIMEOUT: &str = "x-request-timeout-ms";
/// The number of truncated texts in the request. Absent if there are none.
const TRUNCATED_TEXTS: HeaderName = HeaderName::from_static("x-siglip-truncated-texts");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Extracts the engine's context of this request.
pub(in crate::rest) struct Ctx(pub(in crate::rest) Arc<Context>);

impl FromRequestParts<AppState> for Ctx {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Failure> {
        parts.extensions.get::<Arc<Context>>().cloned().map(Self).ok_or_else(|| {
            Failure(Error::internal("a route that asks for a context stands outside of its layer"))
        })
    }
}

/// Reads deadline and priority from the headers, waits for the response head until the deadline, and writes the
/// times of the stages to `Server-Timing`.
pub(in crate::rest) async fn set_context(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let start = Instant::now();
    let read = read(request.headers(), state.limits().request_timeout);
    let mut timing = String::new();
    let mut response = match read {
        Ok(context) => {
            let context = Arc::new(context);
            if let Some(trace) = request.extensions().get::<Trace>() {
                context.timings.follow(trace.clone());
            }
            request.extensions_mut().insert(Arc::clone(&context));
            let mut response = within_deadline(context.deadline, next.run(request)).await;
            timing = context.timings.header() + ", ";
            let truncated = context.truncated_texts.load(Ordering::Relaxed);
            if truncated > 0 && response.status().is_success() {
                response.headers_mut().insert(TRUNCATED_TEXTS, truncated.into());
            }
            // The response's share of the budget is released when the response is sent.
            let held = context.response.clone();
            response.map(|body| {
                Body::new(body.map_err(move |error| {
                    let _held = &held;
                    error
                }))
            })
        }
        Err(error) => Failure(error).into_response(),
    };
    timing += &format!("total;dur={:.2}", start.elapsed().as_secs_f64() * 1e3);
    if let Ok(timing) = HeaderValue::from_str(&timing) {
        response.headers_mut().insert(SERVER_TIMING, timing);
    }
    response
}

/// The response, or 504. Dropping the handler removes its rows from the queues, so a late request costs no
/// forward pass.
async fn within_deadline(deadline: Instant, answer: impl Future<Output = Response>) -> Response {
    let answered = tokio::time::timeout_at(deadline.into(), answer).await;
    answered.unwrap_or_else(|_| {
        Failure(Error::new(Code::DeadlineExceeded, "the answer was not ready in time"))
            .into_response()
    })
}

fn read(headers: &HeaderMap, longest: Duration) -> Result<Context, Error> {
    let mut timeout = longest;
    if let Some(value) = headers.get(TIMEOUT) {
        let millis = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
        let millis = millis.filter(|&millis| millis > 0).ok_or_else(|| {
            Error::invalid(TIMEOUT, "must be a whole number of milliseconds, 1 or more")
        })?;
        // A client can shorten the server's own limit, but not extend it.
        timeout = timeout.min(Duration::from_millis(millis));
    }
    Ok(Context { priority: edge::priority(headers)?, ..Context::with_timeout(timeout) })
}
