//! The way of spans to the collector.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use http_body_util::BodyExt as _;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter as Otlp, WithExportConfig as _, WithHttpConfig as _,
    WithTonicConfig as _,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter},
};
use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::runtime::Handle;
use tonic::transport::{ClientTlsConfig, Endpoint};

use crate::{config::TraceProtocol, telemetry::Metrics, tls};

/// Spans that wait to be sent; past that they are dropped. A request has about five.
const MAX_WAITING: usize = 8192;
/// How often they are sent.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long the collector may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer of a collector that is read.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// How often the log says that spans cannot be sent.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// Where a collector takes traces over HTTP.
const HTTP_PATH: &str = "/v1/traces";

/// Why spans cannot be sent to a collector.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The address is none, or its certificates cannot be checked.
    #[error("`{endpoint}` is not the address of a collector")]
    Endpoint {
        /// The address asked for.
        endpoint: String,
        /// What is wrong with it.
        source: tonic::transport::Error,
    },
    /// The client could not be set up.
    #[error("cannot set up the client of the collector")]
    Client(#[from] reqwest::Error),
    /// The exporter could not be set up.
    #[error("cannot set up the exporter of traces")]
    Exporter(#[from] ExporterBuildError),
}

/// The exporter for a collector.
pub(super) fn exporter(endpoint: &str, protocol: TraceProtocol) -> Result<Otlp, TraceError> {
    match protocol {
        TraceProtocol::Grpc => {
            let channel = || {
                let address = Endpoint::from_shared(endpoint.to_owned())?.connect_timeout(TIMEOUT);
                let is_plain = address.uri().scheme_str() != Some("https");
                let address = if is_plain {
                    address
                } else {
                    address.tls_config(ClientTlsConfig::new().with_enabled_roots())?
                };
                Ok(address.connect_lazy())
            };
            let channel = channel()
                .map_err(|source| TraceError::Endpoint { endpoint: endpoint.to_owned(), source })?;
            let exporter = Otlp::builder().with_tonic().with_timeout(TIMEOUT);
            Ok(exporter.with_channel(channel).build()?)
        }
        TraceProtocol::Http => {
            tls::install_provider();
            let client = reqwest::Client::builder().timeout(TIMEOUT);
            let client = client.redirect(reqwest::redirect::Policy::none()).build()?;
            let url = endpoint.trim_end_matches('/');
            let url =
                if url.ends_with(HTTP_PATH) { url.to_owned() } else { format!("{url}{HTTP_PATH}") };
            let exporter = Otlp::builder().with_http().with_protocol(Protocol::HttpBinary);
            let exporter = exporter.with_endpoint(url).with_timeout(TIMEOUT);
            Ok(exporter
                .with_http_client(OnRuntime { client, runtime: Handle::current() })
                .build()?)
        }
    }
}

/// Collects spans on a thread of its own and hands them to the exporter, a second's worth at a time.
pub(super) fn processor(exporter: Otlp, metrics: &Metrics) -> BatchSpanProcessor {
    let counter = |result| metrics.spans.with_label_values(&[result]);
    let exporter = Counted {
        inner: exporter,
        sent: counter("sent"),
        failed: counter("failed"),
        warned: Arc::default(),
    };
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(MAX_WAITING)
        .with_scheduled_delay(INTERVAL)
        .build();
    BatchSpanProcessor::builder(exporter).with_batch_config(batches).build()
}

/// Sends on the server's runtime: the thread that asks has none.
#[derive(Debug)]
struct OnRuntime {
    client: reqwest::Client,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for OnRuntime {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let send = async move {
            let answer = client.execute(reqwest::Request::try_from(request)?).await?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            let body = http_body_util::Limited::new(reqwest::Body::from(answer), MAX_ANSWER_BYTES);
            let bytes = body.collect().await?.to_bytes();
            let mut response = Response::new(bytes);
            (*response.status_mut(), *response.headers_mut()) = (status, headers);
            Ok::<_, HttpError>(response)
        };
        self.runtime.spawn(send).await?
    }
}

/// Counts what is sent, and says in the log when nothing can be.
struct Counted {
    inner: Otlp,
    sent: IntCounter,
    failed: IntCounter,
    warned: Arc<Mutex<Option<Instant>>>,
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counted")
    }
}

impl SpanExporter for Counted {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        let outcome = self.inner.export(batch).await;
        match &outcome {
            Ok(()) => self.sent.inc_by(count),
            Err(error) => {
                self.failed.inc_by(count);
                let mut warned = self.warned.lock();
                if warned.is_none_or(|last| last.elapsed() >= WARN_EVERY) {
                    *warned = Some(Instant::now());
                    tracing::warn!(%error, spans = count, "spans cannot be sent to the collector");
                }
            }
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
