//! The layer around every call: id, deadline, limits, panics, metrics and one log line.
//!
//! It is one layer instead of several, because the parts share data: the log line and the metrics need the code
//! of a failure, and failures come from the method, the deadline, a panic or tonic.

use std::{
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code as GrpcCode, Status, body::Body};
use tower::{Layer, Service};
use tracing::{Instrument, info_span};

use super::{
    call::Call,
    inflate,
    observe::{EMBED_STREAM, Exchange, STREAMS, route},
    receive::Received,
    rows::Rows,
    status::{CODE, status},
};
use crate::{
    auth::{Admitted, Keys},
    edge::{self, REQUEST_ID},
    engine::{Engine, RowRoom},
    error::{Code, Error, text},
    telemetry::{Metrics, Trace, Traces, traces::TRACEPARENT},
};

/// Methods that need no key.
const PROBES: [&str; 3] = [
    "/grpc.health.v1.Health/",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
];

/// Maximum number of health watches and reflection streams at once. Each takes some kilobytes and may never
/// end.
const MAX_WATCHES: usize = 1024;
/// The `Retry-After` for a client whose watch is refused.
const RETRY_WATCH: Duration = Duration::from_secs(5);
/// Maximum number of bytes of a status's message as it is sent. Reflection repeats the requested name.
const MAX_MESSAGE_BYTES: usize = 4096;
const MESSAGE: &str = "grpc-message";

/// Wraps the services of the listener.
#[derive(Clone)]
pub(super) struct EdgeLayer(Arc<Shared>);

struct Shared {
    metrics: Arc<Metrics>,
    received: Arc<Received>,
    row_room: RowRoom,
    watches: Arc<Semaphore>,
    keys: Option<Arc<Keys>>,
    traces: Option<Arc<Traces>>,
    request_timeout: Duration,
    max_message_bytes: usize,
}

impl EdgeLayer {
    pub(super) fn new(engine: &Engine, keys: Option<Arc<Keys>>) -> Self {
        let limits = engine.limits();
        let metrics = Arc::clone(engine.metrics());
        for route in super::observe::ROUTES {
            metrics.touch_route(route);
        }
        Self(Arc::new(Shared {
            metrics,
            // A second budget, for messages that are still being received. Admission counts complete requests.
            received: Received::new(limits.max_bytes_in_flight),
            row_room: engine.row_room(),
            watches: Arc::new(Semaphore::new(MAX_WATCHES)),
            keys,
            traces: engine.traces().cloned(),
            request_timeout: limits.request_timeout,
            max_message_bytes: limits.max_body_bytes,
        }))
    }
}

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge { inner, shared: Arc::clone(&self.0) }
    }
}

/// A service wrapped by the [`EdgeLayer`].
#[derive(Clone)]
pub(super) struct Edge<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Service<Request<Body>> for Edge<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        let route = route(request.uri().path());
        let id = edge::request_id(request.headers());
        let trace = shared.traced(&request, route, &id);
        let span = info_span!(
            "request",
            route,
            request_id = id.to_str().unwrap_or_default(),
            trace_id = trace.as_ref().map(Trace::id),
            key = tracing::field::Empty
        );
        let mut exchange = Exchange::begin(Arc::clone(&shared.metrics), route, span.clone());
        exchange.trace = trace.clone();
        let watch = shared.watch(route);
        // The metadata is read here and not in the future: tonic starts its own timer for the same deadline
        // right after, and its status would not have this server's code.
        let call = watch.and_then(|watch| {
            exchange.watch = watch;
            shared.admit(&request)
        });
        let call = call.and_then(|admitted| {
            let mut call = Call::read(request.headers(), shared.request_timeout)?;
            if let Some(admitted) = admitted {
                span.record("key", admitted.name());
                call.key = Some(admitted.name().into());
                let admitted = Arc::new(admitted);
                // The key's place is held until the client has its response and all work of the call has ended.
                call.response.keep(Arc::clone(&admitted) as _);
                call.work.keep(admitted);
            }
            exchange.held = Some(call.response.clone());
            call.trace = trace.clone();
            Ok(call)
        });
        let answer = call.map(|call| {
            request.extensions_mut().insert(call.clone());
            let (max, packed) = (shared.max_message_bytes, inflate::is_packed(&request));
            if route == EMBED_STREAM {
                // A stream is never held as a whole; its rows have their own budget.
                let rows = Rows::new(shared.row_room.for_another());
                request.extensions_mut().insert(rows.clone());
                request = request.map(|body| rows.bound(body, max));
                if packed {
                    request = inflate::inflated(request, max);
                }
            } else {
                // A compressed message and its decompressed bytes are both held until the message is complete.
                let bound =
                    |request: Request<Body>| request.map(|body| shared.received.bound(body));
                request = bound(request);
                if packed {
                    request = bound(inflate::inflated(request, max));
                }
            }
            (call.deadline, shared.received.counting(self.inner.call(request)))
        });
        let work = async move {
            let mut response = match answer {
                Ok((deadline, future)) => shared.answer(deadline, future).await,
                Err(error) => status(error).into_http(),
            };
            response.headers_mut().insert(REQUEST_ID, id);
            if let Some(header) = trace.as_ref().and_then(Trace::header) {
                response.headers_mut().insert(TRACEPARENT, header);
            }
            observed(response, exchange)
        };
        Box::pin(work.instrument(span).map(Ok))
    }
}

/// Whether a path is a probe's. Probes need no key, come every few seconds, and must be answered under load.
pub(crate) fn is_probe(path: &str) -> bool {
    PROBES.iter().any(|probe| path.starts_with(probe))
}

impl Shared {
    /// The trace of a call, if calls are traced. Probes and streams without an end are not traced.
    fn traced(
        &self,
        request: &Request<Body>,
        route: &'static str,
        id: &HeaderValue,
    ) -> Option<Trace> {
        let is_traced = !is_probe(request.uri().path()) && !STREAMS.contains(&route);
        let traces = self.traces.as_ref().filter(|_| is_traced)?;
        let (service, method) = route.rsplit_once('/').unwrap_or_default();
        let id = id.to_str().unwrap_or_default();
        let attributes = [
            ("rpc.system", "grpc"),
            ("rpc.service", service.trim_start_matches('/')),
            ("rpc.method", method),
            ("siglip.request_id", id),
        ];
        let attributes = attributes.map(|(key, value)| (key, value.to_owned()));
        Some(traces.request(
            route.trim_start_matches('/').to_owned(),
            request.headers(),
            attributes,
        ))
    }

    /// Takes a place for a stream that may stay open without an end; other calls need none.
    fn watch(&self, route: &'static str) -> Result<Option<OwnedSemaphorePermit>, Error> {
        if !STREAMS.contains(&route) {
            return Ok(None);
        }
        Arc::clone(&self.watches).try_acquire_owned().map(Some).map_err(|_| {
            let message =
                "the server has as many health watches and reflection streams as it takes";
            Error::new(Code::Overloaded, message).with_retry_after(RETRY_WATCH)
        })
    }

    /// Admits a call by its key, if keys are required. Health checks need no key, because probes have none.
    fn admit(&self, request: &Request<Body>) -> Result<Option<Admitted>, Error> {
        let keys = self.keys.as_ref().filter(|_| !is_probe(request.uri().path()));
        keys.map(|keys| keys.admit(request.headers())).transpose()
    }

    /// Awaits a method until its deadline, and gives every failure a code.
    async fn answer<F>(&self, deadline: Instant, future: F) -> Response<Body>
    where
        F: Future<Output = Result<Response<Body>, Infallible>>,
    {
        let work = AssertUnwindSafe(future).catch_unwind();
        match tokio::time::timeout_at(deadline.into(), work).await {
            Ok(Ok(Ok(response))) => self.with_code(response),
            Ok(Err(panic)) => {
                let text = text::of_panic(&*panic);
                status(Error::internal(format!("the method panicked: {text}"))).into_http()
            }
            Err(_) => {
                let error = Error::new(Code::DeadlineExceeded, "the answer was not ready in time");
                status(error).into_http()
            }
        }
    }

    /// Gives failures that tonic makes the same code as over REST.
    fn with_code(&self, mut response: Response<Body>) -> Response<Body> {
        if response.headers().contains_key(CODE) {
            return response;
        }
        let Some(failure) = Status::from_header_map(response.headers()) else { return response };
        let error = match failure.code() {
            GrpcCode::OutOfRange => Error::new(
                Code::PayloadTooLarge,
                format!("the message has more than {} bytes", self.max_message_bytes),
            ),
            // A message that does not follow the protocol is the client's fault.
            GrpcCode::Internal => Error::new(Code::InvalidRequest, failure.message().to_owned()),
            GrpcCode::Unimplemented if failure.message().is_empty() => {
                Error::new(Code::MethodNotAllowed, "no such method; see server reflection")
            }
            // The refusal of an unsupported encoding keeps its headers, which name the supported ones.
            GrpcCode::Unimplemented => {
                let slug = HeaderValue::from_static(Code::UnsupportedMediaType.slug());
                response.headers_mut().insert(CODE, slug);
                return response;
            }
            _ => return response,
        };
        status(error).into_http()
    }
}

/// Ends the exchange with the response: at once if it is a failure without a body, otherwise at the end of its
/// body.
fn observed(mut response: Response<Body>, mut exchange: Exchange) -> Response<Body> {
    cut_message(response.headers_mut());
    if let Some(failure) = Status::from_header_map(response.headers()) {
        let cause = response.extensions().get::<Status>().unwrap_or(&failure);
        exchange.end(cause);
        return response;
    }
    response.map(|body| Body::new(ObservedBody { body, exchange }))
}

/// Cuts a long status message, because many clients accept at most 8 KiB for all headers.
fn cut_message(headers: &mut HeaderMap) {
    let Some(message) = headers.get(MESSAGE) else { return };
    let Some(kept) = message.as_bytes().get(..MAX_MESSAGE_BYTES) else { return };
    // The cut must not be inside an escaped byte.
    let end = kept.iter().rposition(|&byte| byte == b'%').filter(|&at| at + 3 > kept.len());
    if let Ok(cut) = HeaderValue::from_bytes(&kept[..end.unwrap_or(kept.len())]) {
        headers.insert(MESSAGE, cut);
    }
}

/// A response body that ends the exchange with its trailers.
struct ObservedBody {
    body: Body,
    exchange: Exchange,
}

impl HttpBody for ObservedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(trailers) = frame.as_mut().and_then(|frame| frame.as_mut().ok()?.trailers_mut())
        {
            cut_message(trailers);
        }
        match &frame {
            Some(Ok(frame)) => {
                if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                    self.exchange.end(&status);
                }
            }
            Some(Err(status)) => self.exchange.end(status),
            None => self.exchange.end(&Status::ok("")),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
