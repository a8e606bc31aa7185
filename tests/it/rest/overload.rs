//! Deadlines, overload and clients that disconnect.

use futures::future::{Either, select};
use reqwest::StatusCode;
use serde_json::json;

use super::{RED, data_uri};
use crate::app::{Answer, TestApp};

const PATH: &str = "/v1/embeddings";
/// The series with the number of waiting interactive texts.
const WAITING: &str =
    "siglip_queue_rows{model=\"colours\",priority=\"interactive\",tower=\"text\"}";

#[tokio::test]
async fn a_passed_deadline_is_answered_and_harms_nobody() {
    let app = TestApp::start().await;
    app.gate.set_open(false);
    let request = app.request("POST", PATH).json(&json!({"input": "red"}));
    let answer = Answer::of(request.header("x-request-timeout-ms", "30")).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(answer.json()["error"]["code"], "deadline_exceeded");
    assert!(answer.header("server-timing").contains("queue;dur="));
    app.gate.set_open(true);
    app.post(PATH, json!({"input": "red"})).await.ok();
}

#[tokio::test]
async fn a_client_cannot_stretch_the_servers_own_deadline() {
    let limit = std::time::Duration::from_millis(30);
    let app = TestApp::with(|config| config.limits.request_timeout = limit).await;
    app.gate.set_open(false);
    let request = app.request("POST", "/v1/classify").header("x-request-timeout-ms", "600000");
    let body = json!({"images": [data_uri(RED)], "labels": ["red"]});
    let answer = Answer::of(request.json(&body)).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(answer.json()["code"], "deadline_exceeded");
}

#[tokio::test]
async fn work_beyond_the_limit_is_refused_at_once() {
    let app = TestApp::with(|config| config.limits.max_items_in_flight = 1).await;
    app.gate.set_open(false);
    let send = || Box::pin(Answer::of(app.request("POST", PATH).json(&json!({"input": "red"}))));
    // One is admitted and blocked by the gate, so the other gets its response first.
    let (refused, admitted) = match select(send(), send()).await {
        Either::Left(answered) => answered,
        Either::Right(answered) => answered,
    };
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.json()["error"]["code"], "overloaded");
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    assert!(refused.header("retry-after").parse::<u64>().expect("seconds") >= 1);
    app.gate.set_open(true);
    admitted.await.ok();
    assert_eq!(app.metric("siglip_rejected_total{reason=\"overloaded\"}").await, 1.0);
}

#[tokio::test]
async fn a_refusal_tells_how_long_the_queue_needs() {
    let app = TestApp::with(|config| {
        config.batch.max_text_rows = 1;
        config.limits.max_items_in_flight = 41;
        // For a busy machine.
        config.limits.request_timeout = std::time::Duration::from_secs(600);
    })
    .await;
    // One pass of half a second raises the estimated time of a row to at least a tenth of a second, since a new
    // measurement counts for a fifth.
    app.gate.set_open(false);
    let slow = Box::pin(app.post(PATH, json!({"input": "red"})));
    let Either::Right((_, slow)) = select(slow, Box::pin(held_for_half_a_second(&app))).await
    else {
        panic!("the gate is closed");
    };
    app.gate.set_open(true);
    slow.await.ok();
    // Forty rows wait, minus the one that runs.
    app.gate.set_open(false);
    let texts: Vec<_> = (0..40).map(|number| format!("red {number}")).collect();
    let waiting = Box::pin(app.post(PATH, json!({ "input": texts })));
    let refused = async {
        while app.metric(WAITING).await < 39.0 {
            tokio::task::yield_now().await;
        }
        app.post(PATH, json!({"input": ["green", "blue"]})).await
    };
    let Either::Right((refused, waiting)) = select(waiting, Box::pin(refused)).await else {
        panic!("the gate is closed");
    };
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    let seconds = refused.header("retry-after").parse::<u64>().expect("seconds");
    assert!((4..=60).contains(&seconds), "39 rows of a tenth of a second each: {seconds} s");
    app.gate.set_open(true);
    waiting.await.ok();
}

async fn held_for_half_a_second(app: &TestApp) {
    while !app.gate.holds() {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
}

#[tokio::test]
async fn a_request_that_could_never_be_admitted_is_not_told_to_retry() {
    let app = TestApp::with(|config| config.limits.max_bytes_in_flight = 1000).await;
    let answer = app.post(PATH, json!({"input": "a".repeat(2000)})).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer.header("retry-after"), "");
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_and_gives_its_place_back() {
    let app = TestApp::with(|config| config.limits.max_items_in_flight = 1).await;
    app.gate.set_open(false);
    let series = "siglip_requests_total{code=\"client_closed\",route=\"/v1/embeddings\"}";
    // The client gives up. The server notices this when the connection closes.
    let request = app.request("POST", PATH).json(&json!({"input": "red"}));
    let gone = request.timeout(std::time::Duration::from_millis(30)).send().await;
    assert!(gone.expect_err("the gate is closed").is_timeout());
    while app.metric(series).await == 0.0 {
        tokio::task::yield_now().await;
    }
    app.gate.set_open(true);
    app.post(PATH, json!({"input": "green"})).await.ok();
    assert_eq!(app.metric("siglip_requests_in_flight").await, 1.0, "the scrape alone");
}

#[tokio::test]
async fn bulk_work_is_answered_too() {
    let app = TestApp::start().await;
    let request = app.request("POST", PATH).json(&json!({"input": "red"}));
    Answer::of(request.header("x-priority", "bulk")).await.ok();
}

#[tokio::test]
async fn a_response_that_is_too_large_is_refused_before_it_is_computed() {
    let app = TestApp::with(|config| config.limits.max_bytes_in_flight = 1 << 20).await;
    let rows = vec![vec![1, 0, 0, 0, 0, 0, 0, 0]; 500];
    let labels: Vec<_> = (0..100).map(|number| format!("label {number}")).collect();
    let body = |top_k: usize| json!({"image_embeddings": rows, "labels": labels, "top_k": top_k});
    let answer = app.post("/v1/classify", body(100)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", answer.text);
    assert_eq!(answer.json()["code"], "payload_too_large");
    assert_eq!(app.metric("siglip_batch_rows_sum{model=\"colours\",tower=\"text\"}").await, 1.0);
    let answer = app.post("/v1/classify", body(3)).await.ok();
    assert_eq!(answer["results"].as_array().map(Vec::len), Some(500));
}
