//! Paths that clients build from their base URL, and errors for unknown paths.

use super::*;

#[tokio::test]
async fn a_slash_at_the_end_and_a_missing_prefix_lose_nothing() {
    let app = TestApp::start().await;
    let expected = native(&app, json!(["red", "blue"])).await;
    for path in ["/v1/embeddings/", "/embeddings", "/embeddings/"] {
        let answer = app.post(path, json!({"input": ["red", "blue"]})).await.ok();
        let found = [0, 1].map(|index: usize| floats(&answer["data"][index]["embedding"]));
        assert_rows_close(&found, &expected);
    }
    // The query is kept, and errors have the route's format.
    let raw = app.request("POST", "/embeddings/?dimensions=2");
    let raw = Answer::of(raw.header("content-type", "image/png").body(png(RED))).await.ok();
    assert_eq!(floats(&raw["data"][0]["embedding"]).len(), 2);
    let refused = app.post("/embeddings/", json!({"input": []})).await;
    assert_eq!(refused.json()["error"]["code"], "invalid_request");

    let answer = app.post("/v2/embed/", json!({"texts": ["red"]})).await.ok();
    assert_close(&floats(&answer["embeddings"]["float"][0]), &expected[0]);
    let list = app.get("/v1/models").await.ok();
    for path in ["/models", "/models/", "/v1/models/"] {
        assert_eq!(app.get(path).await.ok(), list, "{path}");
    }
    assert_eq!(app.get(&format!("/models/{MODEL}")).await.ok()["id"], MODEL);
    assert_eq!(app.get("/health/ready/").await.ok()["status"], "ready");
    // They are counted under the intended route.
    let metrics = app.get("/metrics/").await;
    assert!(metrics.text.contains(r#"route="/v1/embeddings""#), "{}", metrics.text);
    assert!(!metrics.text.contains(r#"route="/embeddings""#), "{}", metrics.text);
}

#[tokio::test]
async fn in_a_path_of_azure_the_deployment_is_the_model() {
    let app = TestApp::start().await;
    let expected = native(&app, json!(["red"])).await;
    let embed = |model: &str| format!("/openai/deployments/{model}/embeddings?api-version=1");
    for body in [json!({"input": ["red"]}), json!({"input": ["red"], "model": "unused"})] {
        let answer = app.post(&embed(MODEL), body).await.ok();
        assert_close(&floats(&answer["data"][0]["embedding"]), &expected[0]);
    }
    let refused = app.post(&embed("another"), json!({"input": ["red"], "model": MODEL})).await;
    assert_eq!(refused.status.as_u16(), 404);
    assert_eq!(refused.json()["error"]["code"], "model_not_found");
    let list = app.get("/openai/v1/models?api-version=preview").await.ok();
    assert_eq!(list, app.get("/v1/models").await.ok());
}

#[tokio::test]
async fn what_is_not_here_is_said_in_the_words_of_the_api_that_was_asked_for() {
    let app = TestApp::start().await;
    let mut found = serde_json::Map::new();
    for path in [
        "/v1/v1/embeddings",
        "/v1/embedding",
        "/v1/chat/completions",
        "/chat/completions",
        "/v2/chat",
        "/v2/embeddings",
        "/v2/repository/index",
        "/api/generate",
        "/openai/deployments/demo/completions",
        "/embed_sparse",
        "/nothing",
    ] {
        let answer = app.post(path, json!({})).await;
        let mut body = answer.json();
        for key in ["id", "request_id"] {
            body.as_object_mut().expect("an object").remove(key);
        }
        found.insert(path.to_owned(), json!([answer.status.as_u16(), body]));
    }
    insta::assert_json_snapshot!(found);
}
