//! What a request may take of the memory, measured on the binary.

// The peak of a process stands in a file of Linux alone.
#![cfg(target_os = "linux")]

use reqwest::header::CONTENT_TYPE;
use serde_json::Value;

use crate::{app::client, process::Server};

/// Every place of a body in which something is read that is not known before: many numbers stand there.
const PLACES: [(&str, &str, &str); 22] = [
    ("/", r#"{"inputs": "a", "unknown": "#, "}"),
    ("/", r#"{"inputs": "a", "parameters": "#, "}"),
    ("/", r#"{"inputs": "a", "parameters": {"candidate_labels": "#, "}}"),
    ("/embed", r#"{"inputs": "a", "unknown": "#, "}"),
    ("/embed", r#"{"inputs": "#, "}"),
    ("/predict", r#"{"text": "a", "entries": "#, "}"),
    ("/rerank", r#"{"query": "a", "documents": "#, "}"),
    ("/rerank", r#"{"query": "a", "documents": [{"image_url": "#, "}]}"),
    ("/score", r#"{"text_1": "a", "text_2": "#, "}"),
    ("/similarity", r#"{"inputs": {"source_sentence": "a", "sentences": "#, "}}"),
    ("/v1/classify", r#"{"images": [], "labels": ["a"], "templates": "#, "}"),
    ("/v1/classify", r#"{"images": [], "labels": "#, "}"),
    ("/v1/embeddings", r#"{"input": "#, "}"),
    ("/v1/embeddings", r#"{"messages": [{"role": "user", "content": [{"image_url": "#, "}]}]}"),
    ("/v1/features", r#"{"images": "#, "}"),
    ("/v1/multimodalembeddings", r#"{"inputs": [{"content": "#, "}]}"),
    ("/v1/similarity", r#"{"texts": ["a"], "image_embeddings": "#, "}"),
    ("/v2/embed", r#"{"texts": ["a"], "embedding_types": "#, "}"),
    ("/v2/models/demo/infer", r#"{"parameters": "#, "}"),
    ("/v2/models/demo/infer", r#"{"inputs": [{"name": "TEXT", "shape": "#, "}]}"),
    ("/v2/models/demo/infer", r#"{"inputs": [{"name": "TEXT", "parameters": "#, "}]}"),
    ("/vectorize", r#"{"texts": "#, "}"),
];
/// Numbers of two bytes each, comma included.
const NUMBERS: usize = 1 << 19;
/// A tree of values takes thirty-two bytes for each; what is read into place takes four at most.
const MOST_KIB: u64 = 10 << 10;

fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
    peak.expect("a peak").parse().expect("a number")
}

#[tokio::test]
async fn numbers_where_none_belong_take_no_more_than_they_are() {
    let (client, server) = (client(), Server::start(&["--log-filter", "off"]));
    let numbers = format!("[{}1]", "1,".repeat(NUMBERS));
    let mut peak = 0;
    for (path, before, after) in PLACES {
        let body = format!("{before}{numbers}{after}");
        let request = client.post(format!("{}{path}", server.url)).body(body);
        let answer = request.header(CONTENT_TYPE, "application/json").send().await.expect(path);
        let status = answer.status();
        // Where unknown fields are let pass, these are.
        assert!(
            status.is_client_error() || before.contains("unknown") || before.contains("parameters"),
            "{path} {status}"
        );
        let _: Value = answer.json().await.expect("JSON");
        let now = peak_kib(server.pid());
        // The first one brings up what all of them need.
        assert!(peak == 0 || now <= peak + MOST_KIB, "{path} {before}: {peak}, then {now}");
        peak = peak.max(now);
    }
}
