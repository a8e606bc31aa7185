//! Writes one log line and records the metrics for every exchange (request and response), from the head to the
//! last byte.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::{
    body::{Body, HttpBody},
    extract::{MatchedPath, Request, State},
    http::{Method, StatusCode},
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tracing::{Instrument, Span, debug, error, info, info_span};

use super::{request_id::RequestId, set_context::TIMEOUT};
use crate::{
    error::{Code, Error, text},
    rest::{AppState, problem::Failure, routes},
    telemetry::{Metrics, Trace, traces::TRACEPARENT},
};

/// The route label of requests that match no route. Their paths are never labels, because a scanner would
/// create a series for each path.
pub(in crate::rest) const UNMATCHED: &str = "unmatched";

/// The code of a successful exchange.
const OK: &str = "ok";
/// The code of an exchange that the client ended early.
const CLIENT_CLOSED: &str = "client_closed";

/// Counts, times and logs the exchange, and opens its tracing span.
pub(in crate::rest) async fn observe(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| UNMATCHED.to_owned(), |path| path.as_str().to_owned());
    let id = request.extensions().get::<RequestId>().cloned();
    let trace = traced(&state, &request, &route, id.as_ref());
    let span = info_span!(
        "request",
        method = method(request.method()),
        route,
        request_id = id.as_ref().map(RequestId::as_str),
        trace_id = trace.as_ref().map(Trace::id),
        // Set by the layer that checks keys.
        key = tracing::field::Empty,
    );
    if route == UNMATCHED {
        // A client wrote the path, so it is logged for those only who look for a wrong URL, and without its query.
        debug!(parent: &span, path = request.uri().path(), "no such route");
    }
    let mut exchange =
        Exchange::begin(Arc::clone(state.metrics()), request.method().clone(), route, span.clone());
    exchange.has_own_deadline = request.headers().contains_key(TIMEOUT);
    if let Some(trace) = &trace {
        request.extensions_mut().insert(trace.clone());
    }
    let mut response = next.run(request).instrument(span).await;
    if let Some(header) = trace.as_ref().and_then(Trace::header) {
        response.headers_mut().insert(TRACEPARENT, header);
    }
    exchange.trace = trace;
    exchange.head(&response);
    response.map(|inner| Body::new(ObservedBody { inner, exchange }))
}

/// The trace of a request, if requests are traced.
fn traced(
    state: &AppState,
    request: &Request,
    route: &str,
    id: Option<&RequestId>,
) -> Option<Trace> {
    let traces = state.engine().traces().filter(|_| !routes::table().is_quiet(route))?;
    let method = method(request.method()).to_owned();
    let name = format!("{method} {route}");
    let attributes = [
        ("http.request.method", Some(method)),
        ("http.route", Some(route.to_owned())),
        ("siglip.request_id", id.map(|id| id.as_str().to_owned())),
    ];
    let attributes = attributes.into_iter().filter_map(|(key, value)| Some((key, value?)));
    Some(traces.request(name, request.headers(), attributes))
}

/// The name of a method for the log. Non-standard methods are left out, because they can have any length.
fn method(method: &Method) -> &str {
    let name = method.as_str();
    let defined = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    if defined.contains(&name) { name } else { "other" }
}

/// An exchange in progress. It ends when it is dropped: after the last byte, when the body fails, or when the
/// client disconnects.
struct Exchange {
    metrics: Arc<Metrics>,
    method: Method,
    route: String,
    span: Span,
    start: Instant,
    status: Option<StatusCode>,
    code: &'static str,
    cause: Option<Error>,
    trace: Option<Trace>,
    complete: bool,
    /// Whether the request set a shorter deadline than the server's.
    has_own_deadline: bool,
}

impl Exchange {
    fn begin(metrics: Arc<Metrics>, method: Method, route: String, span: Span) -> Self {
        metrics.requests_in_flight.inc();
        Self {
            metrics,
            method,
            route,
            span,
            start: Instant::now(),
            status: None,
            code: OK,
            cause: None,
            trace: None,
            complete: false,
            has_own_deadline: false,
        }
    }

    fn head(&mut self, response: &Response) {
        self.status = Some(response.status());
        if let Some(Failure(error)) = response.extensions().get() {
            self.code = error.code().slug();
            self.cause = Some(error.clone());
        }
        // A body without content (a response to HEAD, a redirect) is never polled.
        self.complete = response.body().is_end_stream();
    }

    /// Whether the deadline that passed was set by the client, which may choose any short time.
    fn was_hurried(&self, cause: &Error) -> bool {
        self.has_own_deadline && cause.code() == Code::DeadlineExceeded
    }

    fn broken(&mut self, error: &axum::Error) {
        self.complete = true;
        self.code = Code::Internal.slug();
        self.cause = Some(Error::internal(error.to_string()));
    }

    /// Writes the log line about the exchange, without path, bodies and keys.
    fn log(&self, duration_ms: f64) {
        let _entered = self.span.enter();
        let status = self.status.map(|status| status.as_u16());
        let code = self.code;
        match (&self.cause, self.status) {
            (Some(cause), Some(status))
                if status.is_server_error()
                    && !is_a_state(cause.code())
                    && !self.was_hurried(cause) =>
            {
                let cause = text::chain(cause);
                let status = status.as_u16();
                error!(status, code, duration_ms, cause, "request failed");
            }
            (Some(cause), _) => {
                let cause = cause.without_quotations();
                info!(status, code, duration_ms, cause, "request refused");
            }
            // Probes and metrics requests come every few seconds and would fill the log at level `info`.
            (None, _) if routes::table().is_quiet(&self.route) => {
                debug!(status, code, duration_ms, "request answered");
            }
            (None, _) => info!(status, code, duration_ms, "request answered"),
        }
    }
}

/// Errors that only report the state of the server. For example, a probe while the model loads is not a
/// failure.
fn is_a_state(code: Code) -> bool {
    matches!(code, Code::NotReady | Code::ShuttingDown)
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // The body of a response to HEAD is not sent, so it is never read to the end.
        if !self.complete && self.code == OK && self.method != Method::HEAD {
            self.code = CLIENT_CLOSED;
        }
        let duration = self.start.elapsed();
        self.metrics.requests_in_flight.dec();
        self.metrics.requests.with_label_values(&[self.route.as_str(), self.code]).inc();
        self.metrics
            .request_duration
            .with_label_values(&[self.route.as_str()])
            .observe(duration.as_secs_f64());
        self.log((duration.as_secs_f64() * 1e5).round() / 1e2);
        if let Some(trace) = &self.trace {
            let status =
                self.status.map(|status| ("http.response.status_code", status.as_u16().into()));
            let failed = self.status.is_some_and(|status| status.is_server_error());
            trace.end(self.code, status, failed);
        }
    }
}

/// A response body that ends the exchange when it is dropped.
struct ObservedBody {
    inner: Body,
    exchange: Exchange,
}

impl HttpBody for ObservedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Err(error)) => self.exchange.broken(error),
            // A body of known length is not polled again after its last frame.
            Some(Ok(_)) => self.exchange.complete = self.inner.is_end_stream(),
            None => self.exchange.complete = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
