use std::time::Instant;

use http_body_util::BodyExt;
use tower::service_fn;

use super::*;

const EMBED: &str = "/siglip.v1.EmbeddingService/Embed";

fn shared(metrics: &Arc<Metrics>) -> Arc<Shared> {
    Arc::new(Shared {
        metrics: Arc::clone(metrics),
        received: Received::new(100),
        row_room: RowRoom::of(&crate::config::Limits::default()),
        watches: Arc::new(Semaphore::new(1)),
        keys: None,
        traces: None,
        request_timeout: Duration::from_secs(60),
        max_message_bytes: 100,
    })
}

fn request(headers: &[(&'static str, &str)]) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = http::Uri::from_static(EMBED);
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().expect("a header value"));
    }
    request
}

/// Calls a method that returns `work`, and reads the response to its end.
async fn call<W>(
    metrics: &Arc<Metrics>,
    request: Request<Body>,
    work: impl FnOnce(Request<Body>) -> W,
) -> Response<Body>
where
    W: Future<Output = Response<Body>> + Send + 'static,
{
    let mut work = Some(work);
    let inner = service_fn(move |request| {
        work.take().expect("called once")(request).map(Ok::<_, Infallible>)
    });
    let mut edge = Edge { inner, shared: shared(metrics) };
    let Ok(response) = edge.call(request).await;
    response
}

fn failed(status: Status) -> impl FnOnce(Request<Body>) -> futures::future::Ready<Response<Body>> {
    |_| futures::future::ready(status.into_http())
}

fn status_of(response: &Response<Body>) -> Status {
    Status::from_header_map(response.headers()).expect("a failure")
}

fn counted(metrics: &Metrics, code: &str) -> u64 {
    metrics.requests.with_label_values(&[EMBED, code]).get()
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_method_that_does_not_answer() {
    let metrics = Arc::new(Metrics::new());
    let started = tokio::time::Instant::now();
    let response = call(&metrics, request(&[("grpc-timeout", "250m")]), |request| async move {
        let call = request.extensions().get::<Call>().cloned().expect("the edge's reading");
        assert!(call.deadline <= Instant::now() + Duration::from_millis(250));
        std::future::pending().await
    })
    .await;
    assert_eq!(status_of(&response).code(), GrpcCode::DeadlineExceeded);
    assert_eq!(response.headers()[CODE], "deadline_exceeded");
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(counted(&metrics, "deadline_exceeded"), 1);
}

#[tokio::test]
async fn a_panic_is_an_internal_error_and_nothing_more() {
    let metrics = Arc::new(Metrics::new());
    let response = call(&metrics, request(&[]), |_| async { panic!("a secret") }).await;
    let status = status_of(&response);
    assert_eq!(status.code(), GrpcCode::Internal);
    assert!(!status.message().contains("secret"));
    assert_eq!(counted(&metrics, "internal"), 1);
}

#[tokio::test]
async fn failures_of_the_transport_get_a_code_of_the_table() {
    for (given, code, slug) in [
        (Status::out_of_range("too large"), GrpcCode::ResourceExhausted, "payload_too_large"),
        (Status::internal("failed to decode"), GrpcCode::InvalidArgument, "invalid_request"),
        (Status::unimplemented(""), GrpcCode::Unimplemented, "method_not_allowed"),
        (Status::unimplemented("gzip"), GrpcCode::Unimplemented, "unsupported_media_type"),
    ] {
        let metrics = Arc::new(Metrics::new());
        let response = call(&metrics, request(&[]), failed(given)).await;
        assert_eq!(status_of(&response).code(), code);
        assert_eq!(response.headers()[CODE], slug);
        assert_eq!(counted(&metrics, slug), 1);
    }
}

#[tokio::test]
async fn ids_are_echoed_and_bad_metadata_never_reaches_the_method() {
    let metrics = Arc::new(Metrics::new());
    let bad = request(&[("x-request-id", "abc"), ("x-priority", "urgent")]);
    let response = call(&metrics, bad, |_| async { unreachable!("refused before") }).await;
    assert_eq!(status_of(&response).code(), GrpcCode::InvalidArgument);
    assert_eq!(response.headers()["siglip-field"], "x-priority");
    assert_eq!(response.headers()[REQUEST_ID], "abc");
}

#[tokio::test]
async fn a_call_ends_with_its_body_or_when_the_client_leaves() {
    let metrics = Arc::new(Metrics::new());
    let answer = |_| async {
        let body = http_body_util::Full::new(Bytes::from_static(b"message"));
        Response::new(Body::new(body))
    };
    let response = call(&metrics, request(&[]), answer).await;
    assert_eq!(metrics.requests_in_flight.get(), 1);
    response.into_body().collect().await.expect("the whole body");
    assert_eq!((counted(&metrics, "ok"), metrics.requests_in_flight.get()), (1, 0));

    drop(call(&metrics, request(&[]), answer).await);
    assert_eq!((counted(&metrics, "client_closed"), metrics.requests_in_flight.get()), (1, 0));
}

#[test]
fn an_open_stream_is_no_request_in_flight() {
    let metrics = Arc::new(Metrics::new());
    let watch = route("/grpc.health.v1.Health/Watch");
    let open = Exchange::begin(Arc::clone(&metrics), watch, tracing::Span::none());
    assert_eq!(metrics.requests_in_flight.get(), 0);
    drop(open);
    assert_eq!(metrics.requests_in_flight.get(), 0);
}

#[test]
fn only_methods_become_labels() {
    assert_eq!(route(EMBED), EMBED);
    assert_eq!(route("/wp-admin"), "unmatched");
}

#[tokio::test]
async fn watches_have_places_and_give_them_back() {
    let metrics = Arc::new(Metrics::new());
    let shared = shared(&metrics);
    let watch = shared.watch(STREAMS[0]).expect("there is a place");
    assert!(watch.is_some());
    assert_eq!(shared.watch(STREAMS[1]).expect_err("the only one").code(), Code::Overloaded);
    assert!(shared.watch(EMBED).expect("needs none").is_none());
    drop(watch);
    assert!(shared.watch(STREAMS[1]).is_ok());
}

#[test]
fn long_messages_are_cut_between_bytes() {
    for (message, expected) in [
        ("a".repeat(10), 10),
        ("a".repeat(MAX_MESSAGE_BYTES), MAX_MESSAGE_BYTES),
        ("a".repeat(5000), MAX_MESSAGE_BYTES),
        ("%00".repeat(1667), MAX_MESSAGE_BYTES / 3 * 3),
        ("a".to_owned() + &"%00".repeat(1700), MAX_MESSAGE_BYTES / 3 * 3 + 1),
        ("aa".to_owned() + &"%00".repeat(1700), MAX_MESSAGE_BYTES / 3 * 3 - 1),
    ] {
        let value = HeaderValue::from_str(&message).expect("a value");
        let mut headers = HeaderMap::from_iter([(http::HeaderName::from_static(MESSAGE), value)]);
        cut_message(&mut headers);
        let cut = headers[MESSAGE].as_bytes();
        assert_eq!(cut.len(), expected, "{message:.5}");
        assert!(message.as_bytes().starts_with(cut));
    }
}
