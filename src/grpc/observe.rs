//! One log line and one set of metrics for every call, in the same terms as over REST.

use std::{error::Error as StdError, sync::Arc, time::Instant};

use tokio::sync::OwnedSemaphorePermit;
use tonic::{Code as GrpcCode, Status};
use tracing::{Span, debug, error, info};

use super::status::CODE;
use crate::{
    engine::Shares,
    error::{Code, Error, text},
    telemetry::{Metrics, Trace},
};

/// The methods that are counted and timed, by their route label.
pub(super) const ROUTES: [&str; 9] = [
    EMBED,
    SIMILARITY,
    CLASSIFY,
    FEATURES,
    CAPTION,
    CAPTION_STREAM,
    EMBED_STREAM,
    INFER,
    HEALTH_CHECK,
];
const EMBED: &str = "/siglip.v1.EmbeddingService/Embed";
const SIMILARITY: &str = "/siglip.v1.EmbeddingService/Similarity";
const CLASSIFY: &str = "/siglip.v1.EmbeddingService/Classify";
/// The bytes of this method are limited row by row, not as one message.
pub(super) const EMBED_STREAM: &str = "/siglip.v1.EmbeddingService/EmbedStream";
const FEATURES: &str = "/siglip.v1.EmbeddingService/Features";
const CAPTION: &str = "/siglip.v1.EmbeddingService/Caption";
const CAPTION_STREAM: &str = "/siglip.v1.EmbeddingService/CaptionStream";
const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// Unknown paths never become labels, because a scanner would create a series for each.
const UNMATCHED: &str = "unmatched";
/// Streams that may stay open without an end. They are not timed, because their duration would hide the latency
/// of the methods, and not counted as requests in flight.
pub(super) const STREAMS: [&str; 3] = [
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// The code of a successful call.
const OK: &str = "ok";
/// The code of a call whose client has left.
const CLIENT_CLOSED: &str = "client_closed";

/// The label of a method.
pub(super) fn route(path: &str) -> &'static str {
    let known = ROUTES.into_iter().chain(STREAMS);
    known.into_iter().find(|&route| route == path).unwrap_or(UNMATCHED)
}

/// A call in progress. Dropping it before its end means that the client has left.
pub(super) struct Exchange {
    metrics: Arc<Metrics>,
    route: &'static str,
    span: Span,
    start: Instant,
    ended: bool,
    /// Permits that the call holds until its client has the response.
    pub(super) held: Option<Shares>,
    /// The place of a stream that stays open.
    pub(super) watch: Option<OwnedSemaphorePermit>,
    /// The call's trace, where calls are traced.
    pub(super) trace: Option<Trace>,
}

impl Exchange {
    pub(super) fn begin(metrics: Arc<Metrics>, route: &'static str, span: Span) -> Self {
        if STREAMS.contains(&route) {
            metrics.watches.inc();
        } else {
            metrics.requests_in_flight.inc();
        }
        let start = Instant::now();
        Self { metrics, route, span, start, ended: false, held: None, watch: None, trace: None }
    }

    /// Ends the call with its status. Only the first end counts.
    pub(super) fn end(&mut self, status: &Status) {
        let cause = status.source().and_then(|source| source.downcast_ref::<Error>());
        self.finish(code(status), cause);
    }

    fn finish(&mut self, code: &'static str, cause: Option<&Error>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let seconds = self.start.elapsed().as_secs_f64();
        if STREAMS.contains(&self.route) {
            self.metrics.watches.dec();
        } else {
            self.metrics.requests_in_flight.dec();
            self.metrics.requests.with_label_values(&[self.route, code]).inc();
            self.metrics.request_duration.with_label_values(&[self.route]).observe(seconds);
        }
        self.log(code, cause, (seconds * 1e5).round() / 1e2);
        if let Some(trace) = &self.trace {
            let failed = cause.is_some_and(|cause| cause.code().spec().status.is_server_error());
            trace.end(code, None, failed);
        }
    }

    /// Writes the log line of the call, which has no path, messages or keys.
    fn log(&self, code: &'static str, cause: Option<&Error>, duration_ms: f64) {
        let _entered = self.span.enter();
        match cause {
            Some(cause)
                if cause.code().spec().status.is_server_error()
                    && !matches!(cause.code(), Code::NotReady | Code::ShuttingDown) =>
            {
                let cause = text::chain(cause);
                error!(code, duration_ms, cause, "request failed");
            }
            Some(cause) => {
                let cause = cause.without_quotations();
                info!(code, duration_ms, cause, "request refused");
            }
            // Probes come every few seconds and would fill the log at `info`.
            None if self.route != HEALTH_CHECK && ROUTES.contains(&self.route) => {
                info!(code, duration_ms, "request answered");
            }
            None => debug!(code, duration_ms, "request answered"),
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.finish(CLIENT_CLOSED, None);
    }
}

/// The metrics' label of a status: its own code if it has one, or else the nearest one of the table.
fn code(status: &Status) -> &'static str {
    let slug = status.metadata().get(CODE).and_then(|value| value.to_str().ok());
    let known = Code::ALL.into_iter().map(Code::slug).find(|&known| Some(known) == slug);
    known.unwrap_or_else(|| match status.code() {
        GrpcCode::Ok => OK,
        GrpcCode::Cancelled | GrpcCode::Unknown => CLIENT_CLOSED,
        GrpcCode::Unimplemented => Code::UnsupportedMediaType.slug(),
        GrpcCode::InvalidArgument => Code::InvalidRequest.slug(),
        GrpcCode::NotFound => Code::NotFound.slug(),
        _ => Code::Internal.slug(),
    })
}
