//! The life of a server process, from its first line to its exit code.

use std::{process::ExitStatus, time::Duration};

use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::app::client;
use crate::process::{Server, run, stderr, stdout};

/// A request that keeps the worker busy for a while on any machine: a thousand forward passes of one row on one
/// thread.
const SLOW: [&str; 4] = ["--batch-max-text-rows", "1", "--threads", "1"];
/// Long enough for it on a busy machine.
const PATIENT: [&str; 4] = ["--grace-period", "10m", "--limits-request-timeout", "10m"];
const SLOW_TEXTS: usize = 1024;

fn embed(client: &Client, server: &Server) -> JoinHandle<reqwest::Result<Response>> {
    let texts: Vec<_> = (0..SLOW_TEXTS).map(|number| format!("text number {number}")).collect();
    let url = format!("{}/v1/embeddings", server.url);
    tokio::spawn(client.post(url).json(&json!({ "input": texts })).send())
}

/// Waits until rows of the slow request are queued: from here on it is accepted work.
async fn until_queued(client: &Client, server: &Server) {
    let url = format!("{}/metrics", server.url);
    loop {
        let answer = client.get(&url).send().await.expect("answers");
        let metrics = answer.text().await.expect("text");
        let queued = metrics.lines().filter(|line| line.starts_with("siglip_queue_rows{"));
        if queued.into_iter().any(|line| !line.ends_with(" 0")) {
            return;
        }
    }
}

async fn ended(server: Server) -> (ExitStatus, String) {
    tokio::task::spawn_blocking(|| server.wait()).await.expect("waits")
}

#[tokio::test]
async fn what_was_accepted_is_answered_after_a_sigterm() {
    let (client, server) = (client(), Server::start(&[SLOW, PATIENT].concat()));
    let slow = embed(&client, &server);
    until_queued(&client, &server).await;
    server.signal("TERM");

    // Probes fail and new work is refused, while the old work continues.
    let ready = format!("{}/health/ready", server.url);
    let red = loop {
        let answer = client.get(&ready).send().await.expect("still answers while draining");
        if answer.status() != StatusCode::OK {
            break answer;
        }
    };
    assert_eq!(red.status(), StatusCode::SERVICE_UNAVAILABLE);
    let problem: Value = red.json().await.expect("a problem");
    assert_eq!(problem["code"], "shutting_down", "{problem}");
    let refused = client
        .post(format!("{}/v1/embeddings", server.url))
        .json(&json!({"input": "late"}))
        .send()
        .await
        .expect("still answers while draining");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);

    let answer = slow.await.expect("joins").expect("answered");
    assert_eq!(answer.status(), StatusCode::OK);
    let answer: Value = answer.json().await.expect("JSON");
    assert_eq!(answer["data"].as_array().map(Vec::len), Some(SLOW_TEXTS));
    let (status, log) = ended(server).await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("drained"), "{log}");
}

#[tokio::test]
async fn a_grace_period_that_is_over_is_a_failure() {
    let (client, server) =
        (client(), Server::start(&[&SLOW[..], &["--grace-period", "1ms"]].concat()));
    let slow = embed(&client, &server);
    until_queued(&client, &server).await;
    server.signal("TERM");
    let (status, log) = ended(server).await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("the grace period of 1ms is over with 1 requests unanswered"), "{log}");
    assert!(slow.await.expect("joins").is_err());
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let (client, server) = (client(), Server::start(&SLOW));
    let _slow = embed(&client, &server);
    until_queued(&client, &server).await;
    server.signal("TERM");
    // Several pending signals of one kind become one. Signals of two kinds do not.
    server.signal("INT");
    let (status, log) = ended(server).await;
    assert!(matches!(status.code(), Some(130 | 143)), "{status} {log}");
}

/// The log's pipe is never read, or is closed: neither may affect a response.
#[tokio::test]
async fn a_log_that_nobody_reads_holds_no_request_up() {
    let json = ["--log-format", "json"];
    for closed in [false, true] {
        let (client, mut server) = (client(), Server::start(&json));
        let log = server.log().expect("piped");
        let kept = if closed {
            drop(log);
            None
        } else {
            Some(log)
        };
        let url = format!("{}/v1/embeddings", server.url);
        // A pipe holds 64 KiB, and a line has more than 200 bytes.
        for number in 0..400 {
            let request = client.post(&url).json(&json!({"input": format!("text {number}")}));
            let answer = tokio::time::timeout(Duration::from_secs(60), request.send()).await;
            assert_eq!(answer.expect("in time").expect("answers").status(), StatusCode::OK);
        }
        let metrics = client.get(format!("{}/metrics", server.url)).send().await.expect("answers");
        let metrics = metrics.text().await.expect("text");
        assert!(metrics.contains("\nsiglip_log_lines_dropped_total "), "{metrics}");
        server.signal("TERM");
        let ending = tokio::task::spawn_blocking(|| server.wait());
        let ended = tokio::time::timeout(Duration::from_secs(60), ending).await.expect("in time");
        assert_eq!(ended.expect("waits").0.code(), Some(0), "closed: {closed}");
        drop(kept);
    }
}

#[tokio::test]
async fn an_idle_server_goes_at_once() {
    let server = Server::start(&["--log-format", "json", "--grpc-listen", "127.0.0.1:0"]);
    // An idle connection must not delay the shutdown.
    let client = client();
    let live = client.get(format!("{}/health/live", server.url)).send().await.expect("answers");
    assert_eq!(live.status(), StatusCode::OK);
    server.signal("INT");
    assert!(server.announcement.contains("gRPC     http://127.0.0.1:"), "{}", server.announcement);
    let (status, log) = ended(server).await;
    assert_eq!(status.code(), Some(0), "{log}");
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        assert!(line["level"].is_string() && line["message"].is_string(), "{line}");
    }
}

#[tokio::test]
async fn a_running_server_is_healthy_and_its_own_example_works() {
    let server = Server::start(&[]);
    let addr = server.url.trim_start_matches("http://").to_owned();
    let healthy = run(&["healthcheck", "--listen", &addr]);
    assert_eq!(healthy.status.code(), Some(0), "{}", stderr(&healthy));

    let example = server.announcement.lines().find_map(|line| line.strip_prefix("try"));
    let (command, rest) = example.and_then(|text| text.split_once(" -H '")).expect("an example");
    let url = command.trim().strip_prefix("curl -s ").expect("curl with an address");
    let (header, body) = rest.split_once("' -d '").expect("a header and a body");
    let (name, value) = header.split_once(": ").expect("a header");
    let body = body.trim_end_matches('\'').to_owned();
    let answer = client().post(url).header(name, value).body(body).send().await;
    let answer: Value = answer.expect("answers").json().await.expect("JSON");
    assert!(answer["data"][0]["embedding"].is_array(), "{answer}");
}

#[test]
fn texts_and_images_are_embedded_and_scored_without_a_server() {
    let image = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images/cat.png");
    let lines = |args: &[&str]| -> Vec<Value> {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let parse = |line: &str| serde_json::from_str(line).expect("JSON");
        stdout(&output).lines().map(parse).collect()
    };
    let embedded = lines(&["embed", image, "--text", "a cat"]);
    assert_eq!(embedded.len(), 2);
    assert_eq!((&embedded[0]["image"], &embedded[1]["text"]), (&json!(image), &json!("a cat")));
    for line in &embedded {
        let row = line["embedding"].as_array().expect("a row");
        let norm: f64 = row.iter().filter_map(Value::as_f64).map(|value| value * value).sum();
        assert!((norm - 1.0).abs() < 1e-4, "{norm}");
    }
    let scored = lines(&["score", image, "--text", "a cat", "--text", "a dog"]);
    assert_eq!(scored[0]["scores"].as_array().map(Vec::len), Some(2));
    assert!(
        scored[0]["scores"][0]["probability"].as_f64().is_some_and(|p| (0.0..=1.0).contains(&p))
    );
}

/// Input from a client must not appear in the log, neither as content nor as an injected line.
#[tokio::test]
async fn the_log_holds_nothing_that_a_client_wrote() {
    let secret = "a private text \u{202e}\u{1b}[2J";
    let forged = "x\n2026-01-01T00:00:00.000000Z ERROR siglip_server: FORGED";
    for format in ["human", "json"] {
        let (client, server) = (client(), Server::start(&["--log-format", format]));
        for (path, body) in [
            ("/v1/similarity", json!({"images": ["aGk="], "texts": secret})),
            ("/v1/similarity", json!({"images": [secret], "texts": ["a cat"]})),
            ("/v1/embeddings", json!({"model": forged, "input": "a cat"})),
            ("/v1/embeddings", json!({"input": "a cat", "dimensions": secret})),
            ("/v1/embeddings", json!({"input": "a cat", forged: 1})),
            (
                "/v1/embeddings",
                json!({"input": [{"image": "https://a.example/i?signature=private"}]}),
            ),
            ("/v1/classify", json!({"images": ["aGk="], "labels": ["a"], "templates": [forged]})),
            ("/rerank", json!({"query": secret, "documents": [1]})),
        ] {
            let url = format!("{}{path}", server.url);
            let answer = client.post(url).json(&body).send().await.expect("answers");
            assert!(answer.status().is_client_error(), "{body}: {}", answer.status());
        }
        let method =
            reqwest::Method::from_bytes("PRIVATE".repeat(100).as_bytes()).expect("a token");
        let request = client.request(method, format!("{}/info", server.url));
        assert_eq!(request.send().await.expect("answers").status(), StatusCode::METHOD_NOT_ALLOWED);
        server.signal("TERM");
        let (status, log) = ended(server).await;
        assert_eq!(status.code(), Some(0), "{log}");
        assert_eq!(log.matches("request refused").count(), 9, "{log}");
        for absent in ["private", "PRIVATE", "FORGED", "\u{1b}[2J", "\u{202e}"] {
            assert!(!log.contains(absent), "{format}: {absent:?} in {log}");
        }
        assert!(log.contains("invalid_request"), "{log}");
    }
}

#[tokio::test]
async fn a_terminal_that_goes_away_leaves_the_server_up() {
    let (client, server) = (client(), Server::start(&[]));
    for name in ["HUP", "USR1", "USR2"] {
        server.signal(name);
    }
    let live = client.get(format!("{}/health/live", server.url)).send().await.expect("answers");
    assert_eq!(live.status(), StatusCode::OK);
    server.signal("QUIT");
    let (status, log) = ended(server).await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("drained"), "{log}");
}
