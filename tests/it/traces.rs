//! Traces as a collector gets them, over both protocols.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::State, routing};
use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value as AnyValue,
    trace::v1::{Span, span::SpanKind},
};
use parking_lot::Mutex;
use prost::Message as _;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tonic::{Request, Status};

use crate::process::Server;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// What a collector was sent: spans, and attributes of their source.
#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<(Vec<Span>, Vec<String>)>>);

impl Collector {
    fn take(&self, sent: ExportTraceServiceRequest) {
        let (spans, sources) = &mut *self.0.lock();
        for of_source in sent.resource_spans {
            let attributes = of_source.resource.map(|resource| resource.attributes);
            sources.extend(attributes.into_iter().flatten().map(|attribute| {
                format!("{}={:?}", attribute.key, attribute.value.and_then(|value| value.value))
            }));
            spans.extend(of_source.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }

    /// Every span, once the server has ended: by then they are all sent.
    fn spans(&self) -> Vec<Span> {
        self.0.lock().0.clone()
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, Status> {
        self.take(request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A collector over gRPC, and its address.
async fn over_grpc() -> (Collector, SocketAddr) {
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let service = TraceServiceServer::new(collector.clone());
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming),
    );
    (collector, address)
}

/// The same over HTTP.
async fn over_http() -> (Collector, SocketAddr) {
    async fn take(State(collector): State<Collector>, body: Bytes) -> Vec<u8> {
        collector.take(ExportTraceServiceRequest::decode(body).expect("protobuf"));
        ExportTraceServiceResponse::default().encode_to_vec()
    }
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let router = Router::new().route("/v1/traces", routing::post(take));
    let router = router.with_state(collector.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (collector, address)
}

fn client() -> Client {
    siglip_server::tls::install_provider();
    Client::new()
}

async fn embeds(server: &Server, body: Value, traceparent: Option<String>) -> Response {
    let request = client().post(format!("{}/v1/embeddings", server.url)).json(&body);
    let request = match traceparent {
        Some(traceparent) => request.header("traceparent", traceparent),
        None => request,
    };
    request.send().await.expect("a response")
}

/// Ends a server, which sends what is left of its spans first. Gives its log.
async fn ended(server: Server) -> String {
    server.signal("TERM");
    let (status, log) = tokio::task::spawn_blocking(|| server.wait()).await.expect("waits");
    assert!(status.success(), "{log}");
    log
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn named<'s>(spans: &'s [Span], name: &str) -> Vec<&'s Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn attribute(span: &Span, key: &str) -> Option<AnyValue> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key);
    found.and_then(|attribute| attribute.value.clone()?.value)
}

/// One embedding of an image and a text in the client's trace: what the collector must have then.
fn check_tree(spans: &[Span]) {
    let [request] = named(spans, "POST /v1/embeddings")[..] else { panic!("{spans:#?}") };
    assert_eq!(
        (hex(&request.trace_id), hex(&request.parent_span_id)),
        (TRACE.into(), PARENT.into())
    );
    assert_eq!(request.kind, SpanKind::Server as i32);
    assert_eq!(attribute(request, "http.response.status_code"), Some(AnyValue::IntValue(200)));
    let children: Vec<_> =
        spans.iter().filter(|span| span.parent_span_id == request.span_id).collect();
    for (stage, count) in
        [("decode", 1), ("tokenize", 1), ("queue", 2), ("forward", 2), ("encode", 1)]
    {
        let stages: Vec<_> = children.iter().filter(|span| span.name == stage).collect();
        assert_eq!(stages.len(), count, "{stage}: {spans:#?}");
        for span in stages {
            assert_eq!(span.trace_id, request.trace_id);
            assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
            // The clocks of a span's ends are read one after the other.
            assert!(span.end_time_unix_nano <= request.end_time_unix_nano + 1_000_000, "{stage}");
        }
    }
    let batches = named(spans, "batch");
    for forward in children.iter().filter(|span| span.name == "forward") {
        let [link] = &forward.links[..] else { panic!("{forward:#?}") };
        let batch = batches.iter().find(|batch| batch.span_id == link.span_id);
        let batch = batch.expect("the batch's span is sent too");
        assert!(matches!(attribute(batch, "siglip.batch.rows"), Some(AnyValue::IntValue(1))));
        assert!(batch.links.iter().any(|link| link.span_id == request.span_id));
    }
}

async fn a_tree_is_sent(collector: Collector, endpoint: String, protocol: &str) {
    let args =
        ["--trace-endpoint", &endpoint, "--trace-protocol", protocol, "--log-format", "json"];
    let server = Server::start_with(
        &args,
        &[("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")],
    );
    let body = json!({"input": ["a cat", {"image": crate::rest::data_uri([200, 30, 30])}]});
    let answer = embeds(&server, body, Some(format!("00-{TRACE}-{PARENT}-01"))).await;
    assert_eq!(answer.status(), 200);
    let header = answer.headers()["traceparent"].to_str().expect("text").to_owned();
    let log = ended(server).await;
    let spans = collector.spans();
    check_tree(&spans);
    let request = named(&spans, "POST /v1/embeddings")[0];
    assert_eq!(header, format!("00-{TRACE}-{}-01", hex(&request.span_id)));
    let logged = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let logged = logged.filter(|line| line["span"]["trace_id"] == TRACE).count();
    assert_eq!(logged, 1, "{log}");
    let sources = collector.0.lock().1.join(" ");
    assert!(sources.contains("service.name=Some(StringValue(\"siglip-server\"))"), "{sources}");
    assert!(sources.contains("deployment.environment.name"), "{sources}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_spans_is_sent_over_grpc() {
    let (collector, address) = over_grpc().await;
    a_tree_is_sent(collector, format!("http://{address}"), "grpc").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_spans_is_sent_over_http() {
    let (collector, address) = over_http().await;
    a_tree_is_sent(collector, format!("http://{address}"), "http").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_their_trace_and_the_share_is_kept() {
    let (collector, address) = over_grpc().await;
    let endpoint = format!("http://{address}");
    let server = Server::start(&[
        "--trace-endpoint",
        &endpoint,
        "--trace-sample",
        "0",
        "--limits-max-items",
        "1",
    ]);
    let both = json!({"input": ["a", "b"]});
    let classify =
        client().post(format!("{}/v1/classify", server.url)).json(&json!({"labels": []}));
    let problem: Value = classify.send().await.expect("a response").json().await.expect("JSON");
    assert_eq!(problem["trace_id"].as_str().map(str::len), Some(32), "{problem}");
    // A client that asks for a trace gets one, whatever the share.
    let answer = embeds(&server, both.clone(), Some(format!("00-{TRACE}-{PARENT}-01"))).await;
    assert_eq!(answer.status(), 413);
    assert_eq!(embeds(&server, both, None).await.status(), 413);
    ended(server).await;
    let spans = collector.spans();
    let [request] = &spans[..] else { panic!("{spans:#?}") };
    assert_eq!(hex(&request.trace_id), TRACE);
    let code = attribute(request, "error.type");
    assert_eq!(code, Some(AnyValue::StringValue("too_many_items".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_gone_harms_nothing() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", nobody.local_addr().expect("bound"));
    drop(nobody);
    let server = Server::start(&["--trace-endpoint", &endpoint]);
    for _ in 0..3 {
        assert_eq!(embeds(&server, json!({"input": "a cat"}), None).await.status(), 200);
    }
    let end = tokio::time::timeout(Duration::from_secs(60), ended(server)).await;
    let log = end.expect("the server does not wait for the collector");
    assert!(log.contains("spans cannot be sent to the collector"), "{log}");
}
