//! text-embeddings-inference, and the tasks of an inference endpoint.

use super::*;

#[tokio::test]
async fn one_text_or_several() {
    let app = TestApp::start().await;
    let expected = native(&app, json!(["red", "green"])).await;
    for path in ["/embed", "/"] {
        let many = app.post(path, json!({"inputs": ["red", "green"], "truncate": true})).await.ok();
        assert_rows_close(&rows(&many), &expected);
        let one = app.post(path, json!({"inputs": "red"})).await.ok();
        assert_rows_close(&rows(&one), &expected[..1]);
    }
    let raw = app.post("/embed", json!({"inputs": "red", "normalize": false})).await.ok();
    assert_close(&rows(&raw)[0], &[1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.05, 0.1]);
}

#[tokio::test]
async fn sentences_are_compared_by_their_cosine() {
    let app = TestApp::start().await;
    let vectors = native(&app, json!(["red", "green"])).await;
    let expected = [super::super::cosine(&vectors[0], &vectors[1]) as f32, 1.0];
    let inputs = json!({"source_sentence": "red", "sentences": ["green", "red"]});
    for path in ["/similarity", "/"] {
        let answer = app.post(path, json!({"inputs": inputs, "parameters": {}})).await.ok();
        assert_close(&floats(&answer), &expected);
    }
}

#[tokio::test]
async fn labels_of_a_picture_are_judged_each_on_its_own() {
    let app = TestApp::start().await;
    let parameters = json!({"candidate_labels": ["green", "red"], "hypothesis_template": "{}"});
    let picture = super::super::base64(&png(RED));
    let answer = app.post("/", json!({"inputs": picture, "parameters": parameters})).await.ok();
    assert_eq!((&answer[0]["label"], &answer[1]["label"]), (&json!("red"), &json!("green")));
    let score = answer[0]["score"].as_f64().expect("a number") as f32;
    assert!((score - probability(&app, RED, "red").await).abs() < 1e-5, "{score}");
}

#[tokio::test]
async fn texts_are_ranked_with_scores_raw_or_not() {
    let app = TestApp::start().await;
    let body =
        json!({"query": {"image": data_uri(RED)}, "texts": ["green", "red"], "return_text": true});
    let answer = app.post("/rerank", body).await.ok();
    assert_eq!((&answer[0]["index"], &answer[0]["text"]), (&json!(1), &json!("red")));
    let body = json!({"query": "red", "texts": ["green", "red"], "raw_scores": true});
    let answer = app.post("/rerank", body).await.ok();
    assert_eq!(answer[0].get("text"), None);
    assert!((answer[0]["score"].as_f64().expect("a number") - 1.0).abs() < 1e-5);
}

#[tokio::test]
async fn info_has_the_fields_of_tei_and_health_is_readiness() {
    let app = TestApp::loading(|_| {}).await;
    assert_eq!(app.get("/health").await.status, 503);
    assert_eq!(app.get("/health").await.json()["error_type"], "Unhealthy");
    app.load().await;
    assert_eq!(app.get("/health").await.status, 200);
    let info = app.get("/info").await.ok();
    assert_eq!((&info["model_id"], &info["max_client_batch_size"]), (&json!(MODEL), &json!(1024)));
    assert_eq!(info["max_input_length"], 12);
}
