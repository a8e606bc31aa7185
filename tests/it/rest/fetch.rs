//! Images by URL, on a server that fetches from loopback addresses.

use axum::{Router, http::header, routing::get};
use reqwest::StatusCode;
use serde_json::json;
use tokio::net::TcpListener;

use super::{GREEN, RED, data_uri, floats, png};
use crate::app::TestApp;

/// A site with a red image, a page, and a redirect to an address that is not allowed.
async fn site() -> String {
    let redirect = [(header::LOCATION, "http://127.0.0.9/")];
    let router = Router::new()
        .route("/red.png", get(|| async { png(RED) }))
        .route("/page.png", get(|| async { ([(header::CONTENT_TYPE, "image/png")], "<html>") }))
        .route("/inside", get(move || async move { (StatusCode::FOUND, redirect) }));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
    format!("http://{address}")
}

async fn fetching() -> TestApp {
    TestApp::with(|config| {
        config.fetch.enabled = true;
        config.fetch.allow_http = true;
        config.fetch.allow_networks = "127.0.0.1".parse().expect("a network");
    })
    .await
}

#[tokio::test]
async fn a_url_is_a_picture_like_any_other() {
    let (app, site) = (fetching().await, site().await);
    let url = format!("{site}/red.png");
    let body = json!({"input": [{"image": url}, {"image": data_uri(RED)}, "red"]});
    let answer = app.post("/v1/embeddings", body).await;
    let data = answer.ok()["data"].clone();
    assert_eq!(floats(&data[0]["embedding"]), floats(&data[1]["embedding"]));
    assert!(!answer.header("server-timing").contains("fetch;dur=0.00"));
    let body = json!({"images": [url, data_uri(GREEN)], "labels": ["red"]});
    let labels = app.post("/v1/classify", body).await.ok();
    assert!(labels["results"][0][0]["probability"].as_f64() > Some(0.9), "{labels}");
    // The formats of other servers have URLs too.
    let part = json!({"type": "image_url", "image_url": {"url": url}});
    let rows = app.post("/v2/embed", json!({"images": [url]})).await.ok();
    assert_eq!(floats(&rows["embeddings"]["float"][0]), floats(&data[0]["embedding"]));
    let body = json!({"query": "red", "documents": [{"image": data_uri(GREEN)}, part]});
    assert_eq!(app.post("/v1/rerank", body).await.ok()["results"][0]["index"], 1);
    assert_eq!(app.metric("siglip_stage_duration_seconds_count{stage=\"fetch\"}").await, 4.0);
    let info = app.get("/info").await.ok();
    assert_eq!(info["fetch"]["schemes"], json!(["https", "http"]));
}

#[tokio::test]
async fn each_failure_has_its_code_and_names_its_item() {
    let (app, site) = (fetching().await, site().await);
    for (url, status, code) in [
        (format!("{site}/page.png"), StatusCode::UNPROCESSABLE_ENTITY, "undecodable_image"),
        (format!("{site}/inside"), StatusCode::UNPROCESSABLE_ENTITY, "fetch_forbidden"),
        ("http://127.0.0.2/a.png".to_owned(), StatusCode::UNPROCESSABLE_ENTITY, "fetch_forbidden"),
        (format!("{site}/missing.png"), StatusCode::BAD_GATEWAY, "fetch_failed"),
    ] {
        let body = json!({"input": ["red", {"image": url}]});
        let answer = app.post("/v1/embeddings", body).await;
        assert_eq!(answer.status, status, "{url}");
        let error = &answer.json()["error"];
        assert_eq!(
            (&error["code"], &error["param"]),
            (&json!(code), &json!("input[1]")),
            "{error}"
        );
        if code == "undecodable_image" {
            let message = error["message"].as_str().expect("a message");
            let start = "what the URL leads to cannot be used: this is an HTML page, ";
            assert!(message.starts_with(start), "{message}");
        }
    }
}

#[tokio::test]
async fn what_is_fetched_is_bounded_by_the_requests_deadline() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let silent = listener.local_addr().expect("bound");
    let app = fetching().await;
    let body = json!({"input": [{"image": format!("http://{silent}/")}]});
    let request = app.request("POST", "/v1/embeddings").json(&body);
    let answer = request.header("x-request-timeout-ms", "50").send().await.expect("answers");
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
}
