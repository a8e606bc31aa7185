//! Ollama's routes for embeddings.

use super::*;

#[tokio::test]
async fn texts_and_images_are_embedded_whatever_steers_a_language_model() {
    let app = TestApp::start().await;
    let expected = native(&app, json!(["red", "blue", {"image": data_uri(GREEN)}])).await;
    let body = json!({
        "model": MODEL, "input": ["red", {"text": "blue"}, {"image": data_uri(GREEN)}],
        "truncate": true, "options": {"num_ctx": 512, "temperature": 0.5}, "keep_alive": "5m",
    });
    let answer = app.post("/api/embed", body).await.ok();
    assert_eq!(answer["model"], MODEL);
    assert_rows_close(&rows(&answer["embeddings"]), &expected);
    assert!(answer["prompt_eval_count"].as_u64() > Some(0));

    let one = json!({"model": format!("{MODEL}:latest"), "input": "red", "keep_alive": -1});
    let answer = app.post("/api/embed", one).await.ok();
    assert_rows_close(&rows(&answer["embeddings"]), &expected[..1]);
    let answer = app.post("/api/embeddings", json!({"model": MODEL, "prompt": "blue"})).await.ok();
    assert_close(&floats(&answer["embedding"]), &expected[1]);
}

#[tokio::test]
async fn failures_are_one_text() {
    let app = TestApp::start().await;
    let unknown = app.post("/api/embed", json!({"model": "clip:latest", "input": "red"})).await;
    assert_eq!(
        (unknown.status.as_u16(), &unknown.json()["code"]),
        (404, &json!("model_not_found"))
    );
    let broken = json!({"input": ["red", {"image": "?"}]});
    let broken = app.post("/api/embed", broken).await;
    let said = broken.json()["error"].as_str().map(str::to_owned).expect("a text");
    assert!(said.starts_with("input[1]"), "{said}");
    let empty = app.post("/api/embeddings", json!({"prompt": {}})).await;
    let said = empty.json()["error"].as_str().map(str::to_owned).expect("a text");
    assert!(said.starts_with("prompt"), "{said}");
    let long = json!({"input": "red ".repeat(20), "truncate": false});
    assert_eq!(app.post("/api/embed", long).await.json()["code"], "text_too_long");
}

#[tokio::test]
async fn models_and_version_are_told() {
    let app = TestApp::start().await;
    let tags = app.get("/api/tags").await.ok();
    assert_eq!(tags["models"][0]["model"], MODEL);
    assert!(tags["models"][0]["modified_at"].as_str().expect("a time").ends_with('Z'));
    assert_eq!(app.get("/api/version").await.ok()["version"], env!("CARGO_PKG_VERSION"));
}
