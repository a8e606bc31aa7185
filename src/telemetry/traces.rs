//! Traces: a span for each request, one for each stage of it, and one for each batch, sent over OTLP.
//!
//! Spans are made when their work has ended, from the times that the metrics are made from. So a server without a
//! collector pays nothing, and one with a collector pays for the requests that are sampled.

mod exporter;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context, KeyValue, Value,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{
        Link, Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, TraceId, Tracer as _,
        TracerProvider as _,
    },
};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SamplingResult, SdkTracer, SdkTracerProvider, ShouldSample, Span},
};
use parking_lot::Mutex;

pub use self::exporter::TraceError;
use super::{Metrics, Stage};
use crate::{build_info, config};

/// W3C's header, in requests and in responses.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Most spans of stages in one request: a request of a thousand texts has three thousand.
const MAX_STAGES: usize = 128;
/// Most requests that the span of a batch links to.
const MAX_LINKS: usize = 128;
/// How long the spans that are left may take to be sent when the server ends.
const LAST_EXPORT: Duration = Duration::from_secs(5);
/// The name of a batch's span.
const BATCH: &str = "batch";

/// What makes spans and sends them.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// Batches are sampled with their rows, requests by a share of their trace ids.
#[derive(Debug, Clone)]
struct ByRequest(Sampler);

impl ShouldSample for ByRequest {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let is_batch = parent.is_none() && name == BATCH;
        let sampler = if is_batch { &Sampler::AlwaysOn } else { &self.0 };
        sampler.should_sample(parent, id, name, kind, attributes, links)
    }
}

impl Traces {
    /// Starts to send spans to a collector; none where no collector is configured. It must be called on an async
    /// runtime, which the exporter then uses.
    ///
    /// # Errors
    /// Any [`TraceError`].
    pub fn start(
        config: &config::Trace,
        metrics: &Metrics,
    ) -> Result<Option<Arc<Self>>, TraceError> {
        let Some(endpoint) = &config.endpoint else { return Ok(None) };
        let exporter = exporter::exporter(endpoint, config.protocol)?;
        let processor = exporter::processor(exporter, metrics);
        let sampler = Sampler::TraceIdRatioBased(config.sample.get());
        let version = KeyValue::new("service.version", build_info::VERSION);
        let resource = Resource::builder()
            .with_attributes([version])
            // `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say more, and go first.
            .with_attributes(service_name());
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(ByRequest(Sampler::ParentBased(Box::new(sampler))))
            .with_resource(resource.build())
            .build();
        let tracer = provider.tracer("siglip-server");
        Ok(Some(Arc::new(Self { provider, tracer })))
    }

    /// Begins a request: in the trace that its headers name, else in a new one.
    ///
    /// * `name`: what its span is called; few different ones
    pub fn request(
        &self,
        name: String,
        headers: &HeaderMap,
        attributes: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Trace {
        let parent =
            TraceContextPropagator::new().extract_with_context(&Context::new(), &In(headers));
        let span = self.tracer.span_builder(name).with_kind(SpanKind::Server);
        let attributes = attributes.into_iter().map(|(key, value)| KeyValue::new(key, value));
        let span = span.with_attributes(attributes).start_with_context(&self.tracer, &parent);
        let context = span.span_context().clone();
        let tracer = self.tracer.clone();
        let stages = AtomicUsize::new(0);
        Trace(Arc::new(Request { tracer, context, span: Mutex::new(Some(span)), stages }))
    }

    /// Sends the spans that are left.
    pub fn shut_down(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(LAST_EXPORT) {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}

fn service_name() -> Option<KeyValue> {
    let is_set = |name: &str| std::env::var(name).is_ok_and(|value| !value.is_empty());
    let named = is_set("OTEL_SERVICE_NAME")
        || std::env::var("OTEL_RESOURCE_ATTRIBUTES")
            .is_ok_and(|attributes| attributes.contains("service.name="));
    (!named).then(|| KeyValue::new("service.name", "siglip-server"))
}

/// Headers as the propagator reads them.
struct In<'h>(&'h HeaderMap);

impl Extractor for In<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

/// The trace of one request. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Trace(Arc<Request>);

#[derive(Debug)]
struct Request {
    tracer: SdkTracer,
    context: SpanContext,
    /// None once the request has ended.
    span: Mutex<Option<Span>>,
    /// Spans of stages so far.
    stages: AtomicUsize,
}

impl Trace {
    /// The trace's id, for logs and errors.
    #[must_use]
    pub fn id(&self) -> String {
        self.0.context.trace_id().to_string()
    }

    /// The value of the header `traceparent` of the response.
    #[must_use]
    pub fn header(&self) -> Option<HeaderValue> {
        let context = &self.0.context;
        let flags = context.trace_flags().to_u8();
        let text = format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id());
        HeaderValue::try_from(text).ok()
    }

    fn is_sampled(&self) -> bool {
        self.0.context.is_sampled()
    }

    /// Adds a stage of the request.
    ///
    /// * `ended`: how long ago it ended
    /// * `batch`: the span of the batch that did it
    pub(super) fn stage(
        &self,
        stage: Stage,
        time: Duration,
        ended: Duration,
        batch: Option<&BatchSpan>,
    ) {
        // Relaxed: the count guards no other memory.
        if !self.is_sampled() || self.0.stages.fetch_add(1, Ordering::Relaxed) >= MAX_STAGES {
            return;
        }
        let end = SystemTime::now() - ended;
        let parent = Context::new().with_remote_span_context(self.0.context.clone());
        let span = self.0.tracer.span_builder(stage.name()).with_start_time(end - time);
        let span = match batch {
            Some(BatchSpan(context)) => span.with_links(vec![Link::with_context(context.clone())]),
            None => span,
        };
        span.start_with_context(&self.0.tracer, &parent).end_with_timestamp(end);
    }

    /// Ends the request. Only the first end counts.
    ///
    /// * `code`: `ok`, or the code of the error
    /// * `status`: of the response, where it has one as a number
    /// * `failed`: whether the server is to blame
    pub fn end(&self, code: &'static str, status: Option<(&'static str, i64)>, failed: bool) {
        let Some(mut span) = self.0.span.lock().take() else { return };
        if let Some((key, status)) = status {
            span.set_attribute(KeyValue::new(key, status));
        }
        let stages = self.0.stages.load(Ordering::Relaxed);
        if let Some(left_out) = stages.checked_sub(MAX_STAGES).filter(|&count| count > 0) {
            span.set_attribute(number("siglip.stages_left_out", left_out));
        }
        if code != "ok" {
            span.set_attribute(KeyValue::new("error.type", code));
        }
        if failed {
            span.set_status(Status::error(code));
        }
        span.end();
    }
}

fn number(key: &'static str, value: usize) -> KeyValue {
    KeyValue::new(key, Value::I64(i64::try_from(value).unwrap_or(i64::MAX)))
}

/// The span of a batch, for links to it.
#[derive(Debug, Clone)]
pub struct BatchSpan(SpanContext);

/// A batch that ran.
#[derive(Debug)]
pub struct BatchRun<'r> {
    /// The model's name.
    pub model: &'r str,
    /// The tower's name.
    pub tower: &'static str,
    /// Its rows.
    pub rows: usize,
    /// How long the forward pass took, which has just ended.
    pub forward: Duration,
}

impl BatchRun<'_> {
    /// The span of a batch, with a link to each traced request in it; none where no request of it is sampled.
    pub fn span<'t>(&self, traces: impl Iterator<Item = &'t Trace>) -> Option<BatchSpan> {
        let mut tracer = None;
        let mut links = Vec::<Link>::new();
        for trace in traces.filter(|trace| trace.is_sampled()) {
            let is_known = |link: &Link| link.span_context == trace.0.context;
            // The rows of a request stand side by side.
            if links.len() < MAX_LINKS && !links.last().is_some_and(is_known) {
                links.push(Link::with_context(trace.0.context.clone()));
            }
            tracer = Some(&trace.0.tracer);
        }
        let tracer = tracer?;
        let end = SystemTime::now();
        let attributes = [
            KeyValue::new("siglip.model", self.model.to_owned()),
            KeyValue::new("siglip.tower", self.tower),
            number("siglip.batch.rows", self.rows),
        ];
        let span = tracer.span_builder(BATCH).with_kind(SpanKind::Internal);
        let span = span.with_start_time(end - self.forward).with_attributes(attributes);
        let mut span = span.with_links(links).start_with_context(tracer, &Context::new());
        span.end_with_timestamp(end);
        Some(BatchSpan(span.span_context().clone()))
    }
}

#[cfg(test)]
mod tests;
