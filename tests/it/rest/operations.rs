//! Probes, metrics, API descriptions, pages, and the headers of every response.

use reqwest::StatusCode;
use serde_json::json;

use crate::app::{Answer, MODEL, TestApp};

#[tokio::test]
async fn readiness_follows_the_model() {
    let app = TestApp::loading(|_| {}).await;
    assert_eq!(app.get("/health/live").await.ok(), json!({"status": "alive"}));
    let red = app.get("/health/ready").await;
    assert_eq!(red.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(red.json()["code"], "not_ready");
    assert_eq!(app.metric("siglip_ready").await, 0.0);
    let early = app.post("/v1/embeddings", json!({"input": "red"})).await;
    assert_eq!(early.json()["error"]["code"], "not_ready");

    app.load().await;
    assert_eq!(app.get("/health/ready").await.ok(), json!({"status": "ready"}));
    assert_eq!(app.metric("siglip_ready").await, 1.0);

    app.engine.registry().close();
    assert_eq!(app.get("/health/ready").await.json()["code"], "shutting_down");
    let late = app.post("/v1/classify", json!({"images": ["AAAA"], "labels": ["a"]})).await;
    assert_eq!(late.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(late.json()["code"], "shutting_down");
    assert_eq!(app.get("/health/live").await.status, StatusCode::OK);
}

#[tokio::test]
async fn metrics_are_complete_before_the_first_request() {
    let app = TestApp::start().await;
    let answer = app.get("/metrics").await;
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    for series in [
        "siglip_requests_total{code=\"ok\",route=\"/v1/embeddings\"} 0",
        "siglip_requests_total{code=\"ok\",route=\"/v1/similarity\"} 0",
        "siglip_requests_total{code=\"ok\",route=\"unmatched\"} 0",
        "siglip_request_duration_seconds_count{route=\"/v1/classify\"} 0",
        "siglip_requests_in_flight 1",
        "siglip_stage_duration_seconds_count{stage=\"encode\"} 0",
        "siglip_rejected_total{reason=\"overloaded\"} 0",
    ] {
        assert!(answer.text.contains(series), "{series} is missing:\n{}", answer.text);
    }
    for line in answer.text.lines().filter(|line| line.contains("/v1/models/")) {
        assert!(line.contains("/v1/models/{model}"), "{line}");
    }
}

#[tokio::test]
async fn requests_are_counted_by_route_and_code() {
    let app = TestApp::start().await;
    app.post("/v1/embeddings", json!({"input": "red"})).await.ok();
    app.post("/v1/embeddings", json!({"input": []})).await;
    app.get("/some/scanner's/path?with=secrets").await;
    app.get("/v1/models/clip").await;
    for (route, code) in [
        ("/v1/embeddings", "ok"),
        ("/v1/embeddings", "invalid_request"),
        ("unmatched", "not_found"),
        ("/v1/models/{model}", "model_not_found"),
    ] {
        let series = format!("siglip_requests_total{{code=\"{code}\",route=\"{route}\"}}");
        assert_eq!(app.metric(&series).await, 1.0, "{series}");
    }
    let text = app.get("/metrics").await.text;
    assert!(!text.contains("scanner"));
    let series = "siglip_request_duration_seconds_count{route=\"/v1/embeddings\"}";
    assert_eq!(app.metric(series).await, 2.0);
    assert_eq!(app.metric("siglip_stage_duration_seconds_count{stage=\"encode\"}").await, 1.0);
}

#[tokio::test]
async fn request_ids_go_in_and_out() {
    let app = TestApp::start().await;
    let ask = async |id: &str| {
        let request = app.request("GET", "/v1/models/clip2").header("x-request-id", id);
        Answer::of(request).await.header("x-request-id").to_owned()
    };
    assert_eq!(ask("trace-7/a:b").await, "trace-7/a:b");
    for unusable in ["with space", &"x".repeat(129), ""] {
        let fresh = ask(unusable).await;
        assert_eq!((fresh.len(), &fresh[14..15]), (36, "7"), "{fresh} is no UUIDv7");
    }
    let request = app.request("GET", "/nothing").header("x-request-id", "mine");
    assert_eq!(Answer::of(request).await.json()["request_id"], "mine");
}

#[tokio::test]
async fn every_answer_says_where_its_time_went() {
    let app = TestApp::start().await;
    let answer = app.post("/v1/embeddings", json!({"input": "red"})).await;
    let timing = answer.header("server-timing");
    let mut stages = timing.split(", ").map(|stage| stage.split(';').next().expect("a name"));
    let names = ["fetch", "decode", "tokenize", "queue", "forward", "encode", "total"];
    assert!(names.iter().all(|&name| stages.next() == Some(name)), "{timing}");
    for path in ["/info", "/metrics", "/health/live", "/nothing", "/"] {
        assert!(app.get(path).await.header("server-timing").contains("total;dur="), "{path}");
    }
}

#[tokio::test]
async fn models_are_listed_in_the_shape_of_openai() {
    let app = TestApp::start().await;
    let list = app.get("/v1/models").await.ok();
    let mut model = app.get(&format!("/v1/models/{MODEL}")).await.ok();
    assert_eq!(list["data"][0], model);
    assert!(model["created"].as_u64().is_some_and(|created| created > 1_700_000_000));
    model["created"] = json!("[seconds]");
    insta::assert_json_snapshot!(json!({"object": list["object"], "data": [model]}));
}

#[tokio::test]
async fn info_names_the_model_and_every_limit() {
    let app = TestApp::start().await;
    let mut info = app.get("/info").await.ok();
    for key in ["version", "commit", "sha"] {
        assert!(info[key].as_str().is_some_and(|text| !text.is_empty()));
        info[key] = json!(format!("[{key}]"));
    }
    let scale = info["models"][0]["scoring"]["logit_scale_exp"].as_f64().expect("a number");
    assert!((scale - 3.0_f64.exp()).abs() < 1e-4);
    info["models"][0]["scoring"]["logit_scale_exp"] = json!("[exp(3)]");
    info["models"][0]["preprocessing_version"] = json!("[version]");
    insta::assert_json_snapshot!(info);
}

#[tokio::test]
async fn the_document_is_served_as_it_is_checked_in() {
    let app = TestApp::start().await;
    let served = app.get("/openapi.json").await.ok();
    let built = serde_json::to_value(siglip_server::rest::openapi()).expect("JSON");
    assert_eq!(served, built);
    for path in served["paths"].as_object().expect("paths").keys() {
        let answer = app.get(&path.replace("{model}", MODEL).replace("{version}", "1")).await;
        assert_ne!(answer.status, StatusCode::NOT_FOUND, "{path} is documented but not there");
    }
}

#[tokio::test]
async fn the_pages_come_out_of_the_binary_and_allow_nothing_else() {
    let app = TestApp::start().await;
    for (path, kind) in [
        ("/", "text/html"),
        ("/page/base.css", "text/css"),
        ("/page/main.js", "text/javascript"),
        ("/page/samples/cat.png", "image/png"),
        ("/docs", "text/html"),
        ("/docs/swagger-ui-bundle.js", "text/javascript"),
    ] {
        let answer = app.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert!(answer.header("content-type").starts_with(kind), "{path}");
        assert!(answer.header("content-security-policy").starts_with("default-src 'none'"));
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("access-control-allow-origin"), "");
    }
    let config = app.get("/docs/swagger-initializer.js").await.text;
    assert!(config.contains("/openapi.json"), "{config}");
    assert_eq!(app.get("/page/none.js").await.status, StatusCode::NOT_FOUND);
    // All URLs of the page are relative, so that it works behind a path prefix, and all files are embedded.
    let mut wanted = vec!["".to_owned()];
    let mut seen = std::collections::HashSet::new();
    let mut size = 0;
    while let Some(path) = wanted.pop() {
        let text = app.get(&format!("/{path}")).await.text;
        assert!(!text.contains("http://") && !text.contains("https://"), "{path}");
        for absolute in ["=\"/", "ask(\"/", "fetch(\"/", "address(\"/", "url(/", "from \"/"] {
            assert!(!text.contains(absolute), "{path} has {absolute}");
        }
        size += text.len();
        let named = text.split('"').filter(|name| name.ends_with(".js") || name.ends_with(".css"));
        for name in named {
            let path =
                format!("page/{}", name.trim_start_matches("page/").trim_start_matches("./"));
            if seen.insert(path.clone()) {
                wanted.push(path);
            }
        }
    }
    assert_eq!(seen.len(), 21, "{seen:?}");
    assert!(size < 120_000, "the page has {size} bytes");
}

#[tokio::test]
async fn head_is_answered_like_get_and_counted_as_answered() {
    let app = TestApp::start().await;
    let answer = Answer::of(app.request("HEAD", "/health/ready")).await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, ""));
    let series = "siglip_requests_total{code=\"ok\",route=\"/health/ready\"}";
    assert_eq!(app.metric(series).await, 1.0);
}
