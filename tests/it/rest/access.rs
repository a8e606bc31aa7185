//! API keys, origins and the admin listener.

use std::{io::Write as _, sync::Arc};

use reqwest::{RequestBuilder, StatusCode};
use serde_json::json;
use siglip_server::{
    auth::Keys,
    rest::{Access, Hosts},
};
use tempfile::NamedTempFile;

use crate::app::{Answer, MODEL, TestApp};

const KEYS: &str = "[search]\nkey = \"search-0123456789\"\n\
    [narrow]\nkey = \"narrow-0123456789\"\nmax_concurrent = 1\n";

/// A server with API keys, and the file with the keys.
async fn locked() -> (TestApp, NamedTempFile) {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(KEYS.as_bytes()).expect("written");
    let path = file.path().to_owned();
    let access = move |metrics| Access {
        is_admin: false,
        keys: Some(Arc::new(Keys::load(path, metrics).expect("usable"))),
        origins: vec!["https://app.example".parse().expect("an origin")],
        hosts: Hosts::default(),
        metrics: true,
    };
    let app = TestApp::with_access(|_| {}, access).await;
    app.load().await;
    (app, file)
}

fn embed(app: &TestApp) -> RequestBuilder {
    app.request("POST", "/v1/embeddings").json(&json!({"input": "red"}))
}

#[tokio::test]
async fn without_a_key_there_is_nothing_but_health_and_pages() {
    let (app, _file) = locked().await;
    for path in [
        "/health/live",
        "/health/ready",
        "/",
        "/docs/",
        "/openapi.json",
        "/health",
        "/ping",
        "/v2/health/ready",
        "/.well-known/ready",
    ] {
        assert!(app.get(path).await.status.is_success(), "{path}");
    }
    // The page's path also runs a model for POST requests.
    let answer = app.post("/", json!({"inputs": "red"})).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    for path in ["/metrics", "/info", "/v1/models", "/v1/models/colours", "/nothing", "/v1"] {
        let answer = app.get(path).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"siglip-server\"");
    }
    let refused = Answer::of(embed(&app)).await;
    let error = &refused.json()["error"];
    assert_eq!(
        (&error["code"], &error["type"]),
        (&json!("unauthorized"), &json!("authentication_error"))
    );
    let refused = Answer::of(embed(&app).bearer_auth("search-012345678X")).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert_eq!(app.get("/info").await.json()["code"], "unauthorized");

    Answer::of(embed(&app).bearer_auth("search-0123456789")).await.ok();
    Answer::of(embed(&app).header("x-api-key", "search-0123456789")).await.ok();
    let metrics = Answer::of(app.request("GET", "/metrics").bearer_auth("search-0123456789")).await;
    assert!(
        metrics.text.contains("siglip_key_requests_total{key=\"search\"} 3"),
        "{}",
        metrics.text
    );
    assert!(metrics.text.contains("siglip_key_requests_total{key=\"narrow\"} 0"));
    assert!(!metrics.text.contains("0123456789"));
}

#[tokio::test]
async fn a_missing_key_is_documented_where_it_is_refused() {
    let (app, _file) = locked().await;
    let document = app.get("/openapi.json").await.ok();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let address = path.replace("{model}", MODEL).replace("{version}", "1");
        for (method, operation) in operations.as_object().expect("operations") {
            let answer = Answer::of(app.request(&method.to_uppercase(), &address)).await;
            let case = format!("{method} {path}: {} {}", answer.status, answer.text);
            let is_refused = answer.status == StatusCode::UNAUTHORIZED;
            let documented = &operation["responses"]["401"];
            assert_eq!(is_refused, documented.is_object(), "{case}");
            assert_eq!(is_refused, operation["responses"]["429"].is_object(), "{case}");
            // A route without keys says so with an empty list.
            assert_eq!(is_refused, operation["security"].is_null(), "{case}");
            if is_refused {
                let content = documented["content"].as_object().expect("a body");
                assert!(content.contains_key(answer.header("content-type")), "{case}");
            }
        }
    }
}

#[tokio::test]
async fn a_quota_counts_requests_until_their_answer_is_out() {
    let (app, _file) = locked().await;
    app.gate.set_open(false);
    let narrow = || embed(&app).bearer_auth("narrow-0123456789");
    let held = tokio::spawn(narrow().send());
    let refused = loop {
        let request = narrow().header("x-request-timeout-ms", "20");
        let answer = Answer::of(request).await;
        // If the first request has not arrived yet, this one is held instead.
        if answer.status != StatusCode::GATEWAY_TIMEOUT {
            break answer;
        }
    };
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.header("retry-after"), "1");
    // Other keys are not affected.
    let models = app.request("GET", "/v1/models").bearer_auth("search-0123456789");
    Answer::of(models).await.ok();
    app.gate.set_open(true);
    assert_eq!(held.await.expect("joins").expect("answers").status(), StatusCode::OK);
    while Answer::of(narrow()).await.status != StatusCode::OK {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn listed_origins_may_call_and_read_failures() {
    let (app, _file) = locked().await;
    let preflight = |origin: &str| {
        app.request("OPTIONS", "/v1/embeddings")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type")
    };
    let allowed = Answer::of(preflight("https://app.example")).await;
    assert_eq!(allowed.status, StatusCode::OK);
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example");
    assert!(allowed.header("access-control-allow-headers").contains("authorization"));
    assert_eq!(allowed.header("access-control-allow-credentials"), "");
    let other = Answer::of(preflight("https://other.example")).await;
    assert_eq!(other.header("access-control-allow-origin"), "");

    let refused = Answer::of(embed(&app).header("origin", "https://app.example")).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert_eq!(refused.header("access-control-allow-origin"), "https://app.example");
    assert!(refused.header("access-control-expose-headers").contains("x-request-id"));
}
