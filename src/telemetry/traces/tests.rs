//! Spans as the collector gets them.

use opentelemetry_sdk::trace::{InMemorySpanExporter, SimpleSpanProcessor, SpanData};

use super::*;

fn traces(share: f64) -> (Traces, InMemorySpanExporter) {
    let kept = InMemorySpanExporter::default();
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share)));
    let provider = SdkTracerProvider::builder()
        .with_span_processor(SimpleSpanProcessor::new(kept.clone()))
        .with_sampler(ByRequest(sampler))
        .build();
    let tracer = provider.tracer("test");
    (Traces { provider, tracer }, kept)
}

fn headers(traceparent: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_static(traceparent))])
}

fn named<'s>(spans: &'s [SpanData], name: &str) -> &'s SpanData {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no span {name}"))
}

#[test]
fn a_request_continues_its_clients_trace() {
    let (traces, kept) = traces(0.0);
    let sampled = headers("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let trace = traces.request("POST /x".to_owned(), &sampled, [("http.route", "/x".to_owned())]);
    assert_eq!(trace.id(), "0af7651916cd43dd8448eb211c80319c");
    let header = trace.header().expect("a header");
    let header = header.to_str().expect("text");
    assert!(header.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && header.ends_with("-01"));
    trace.stage(Stage::Decode, Duration::from_millis(3), Duration::ZERO, None);
    trace.end("ok", Some(("http.response.status_code", 200)), false);
    let spans = kept.get_finished_spans().expect("kept");
    let (request, decode) = (named(&spans, "POST /x"), named(&spans, "decode"));
    assert_eq!(request.parent_span_id.to_string(), "b7ad6b7169203331");
    assert_eq!(decode.parent_span_id, request.span_context.span_id());
    assert_eq!(decode.span_context.trace_id(), request.span_context.trace_id());
    let time = decode.end_time.duration_since(decode.start_time).expect("in order");
    assert_eq!(time, Duration::from_millis(3));
}

#[test]
fn what_is_not_sampled_is_not_sent() {
    let (traces, kept) = traces(0.0);
    let unsampled = headers("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
    for headers in [unsampled, headers("no trace"), HeaderMap::new()] {
        let trace = traces.request("GET /x".to_owned(), &headers, []);
        trace.stage(Stage::Decode, Duration::from_millis(3), Duration::ZERO, None);
        let run = BatchRun { model: "m", tower: "image", rows: 1, forward: Duration::ZERO };
        assert!(run.span([&trace].into_iter()).is_none());
        trace.end("ok", None, false);
        assert_eq!(trace.id().len(), 32, "it has an id for the log all the same");
    }
    assert!(kept.get_finished_spans().expect("kept").is_empty());
}

#[test]
fn a_batch_and_its_requests_link_to_each_other() {
    let (traces, kept) = traces(1.0);
    let requests: Vec<_> =
        (0..2).map(|_| traces.request("POST /x".to_owned(), &HeaderMap::new(), [])).collect();
    let run = BatchRun { model: "m", tower: "text", rows: 3, forward: Duration::from_millis(5) };
    let rows = [&requests[0], &requests[0], &requests[1]];
    let batch = run.span(rows.into_iter()).expect("a request is sampled");
    for request in &requests {
        request.stage(Stage::Forward, Duration::from_millis(5), Duration::ZERO, Some(&batch));
        request.end("ok", None, false);
    }
    let spans = kept.get_finished_spans().expect("kept");
    let span = named(&spans, "batch");
    let linked: Vec<_> = span.links.iter().map(|link| link.span_context.trace_id()).collect();
    let expected: Vec<_> = requests.iter().map(|request| request.0.context.trace_id()).collect();
    assert_eq!(linked, expected);
    assert!(span.attributes.contains(&KeyValue::new("siglip.batch.rows", 3)));
    let forward = spans.iter().filter(|span| span.name == "forward");
    for forward in forward {
        assert_eq!(forward.links[0].span_context, span.span_context);
    }
}

#[test]
fn a_request_has_a_bounded_number_of_spans() {
    let (traces, kept) = traces(1.0);
    let trace = traces.request("POST /x".to_owned(), &HeaderMap::new(), []);
    for _ in 0..MAX_STAGES + 7 {
        trace.stage(Stage::Tokenize, Duration::ZERO, Duration::ZERO, None);
    }
    trace.end("deadline_exceeded", None, true);
    let spans = kept.get_finished_spans().expect("kept");
    assert_eq!(spans.len(), MAX_STAGES + 1);
    let request = named(&spans, "POST /x");
    assert!(request.attributes.contains(&KeyValue::new("siglip.stages_left_out", 7)));
    assert!(request.attributes.contains(&KeyValue::new("error.type", "deadline_exceeded")));
    assert_eq!(request.status, Status::error("deadline_exceeded"));
}
