//! Faults of the towers in a real server process. Only builds with failpoints can inject faults.
#![cfg(failpoints)]

use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use crate::{app::client, process::Server};

/// The response's status, and its code if it failed.
async fn embed(client: &Client, server: &Server, text: &str) -> Option<(StatusCode, Value)> {
    let url = format!("{}/v1/embeddings", server.url);
    let answer = client.post(url).json(&json!({ "input": text })).send().await.ok()?;
    let status = answer.status();
    let body: Value = answer.json().await.ok()?;
    Some((status, body["error"]["code"].clone()))
}

async fn metric(client: &Client, server: &Server, series: &str) -> String {
    let answer = client.get(format!("{}/metrics", server.url)).send().await.expect("answers");
    let text = answer.text().await.expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(series)).expect("the series");
    line.trim().to_owned()
}

#[tokio::test]
async fn a_broken_tower_is_loaded_again() {
    let broken = [("SIGLIP_FAILPOINT", "broken:6:1")];
    let (client, server) = (client(), Server::start_with(&[], &broken));
    let mut failed = 0;
    for number in 0..12 {
        let (status, code) = embed(&client, &server, &format!("{number}")).await.expect("answers");
        if status != StatusCode::OK {
            assert_eq!((status, code), (StatusCode::INTERNAL_SERVER_ERROR, json!("device_failed")));
            failed += 1;
        }
    }
    assert_eq!(failed, 1, "the row that met the fault, and no other");
    let restarts = metric(&client, &server, "siglip_worker_restarts_total{model=\"demo\"}").await;
    assert_eq!(restarts, "1");
    assert_eq!(metric(&client, &server, "siglip_ready").await, "1");
}

#[tokio::test]
async fn one_that_breaks_again_and_again_ends_the_server() {
    let broken = [("SIGLIP_FAILPOINT", "broken:4")];
    // Nobody reads the log while it runs, so a line for each request must not fill its pipe.
    let filter = "warn,siglip_server::app=info";
    let args = ["--batch-max-restarts", "1", "--log-filter", filter];
    let (client, server) = (client(), Server::start_with(&args, &broken));
    let ends = async {
        let mut number = 0;
        // Until the server no longer responds.
        while embed(&client, &server, &format!("{number}")).await.is_some() {
            number += 1;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), ends).await.expect("it ends");
    let (status, log) = tokio::task::spawn_blocking(|| server.wait()).await.expect("joins");
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("the worker of the model `demo` is gone"), "{log}");
    assert!(log.contains("drained"), "{log}");
}

#[tokio::test]
async fn passes_that_fail_once_harm_only_rows_that_are_alone() {
    for fault in ["error:3", "panic:3", "memory:3", "nan:3"] {
        let faulty = [("SIGLIP_FAILPOINT", fault)];
        let (client, server) = (client(), Server::start_with(&[], &faulty));
        for number in 0..9 {
            let (status, code) =
                embed(&client, &server, &format!("{number}")).await.expect("answers");
            let known = status == StatusCode::OK || code == "device_failed" || code == "internal";
            assert!(known, "{fault}: {status} {code}");
        }
        assert_eq!(metric(&client, &server, "siglip_ready").await, "1", "{fault}");
    }
}
