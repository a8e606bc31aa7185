//! Immich's smart search.

use reqwest::multipart::{Form, Part};

use super::*;

async fn predict(app: &TestApp, entries: Value, form: Form) -> Answer {
    let form = form.text("entries", entries.to_string());
    Answer::of(app.request("POST", "/predict").multipart(form)).await
}

#[tokio::test]
async fn a_picture_or_a_text_gives_a_vector_in_a_string() {
    let app = TestApp::start().await;
    assert_eq!(app.get("/ping").await.text, "pong");
    let picture = Form::new().part("image", Part::bytes(png(RED)).file_name("blob"));
    let entries = json!({"clip": {"visual": {"modelName": MODEL, "options": {}}}});
    let answer = predict(&app, entries, picture).await.ok();
    assert_eq!((&answer["imageWidth"], &answer["imageHeight"]), (&json!(9), &json!(7)));
    let vector: Vec<f32> =
        serde_json::from_str(answer["clip"].as_str().expect("a string")).expect("JSON");
    assert_close(&vector, &native(&app, json!({"image": data_uri(RED)})).await[0]);

    let entries =
        json!({"clip": {"textual": {"modelName": MODEL, "options": {"language": "de-DE"}}}});
    let answer = predict(&app, entries, Form::new().text("text", "red")).await.ok();
    let vector: Vec<f32> =
        serde_json::from_str(answer["clip"].as_str().expect("a string")).expect("JSON");
    assert_close(&vector, &native(&app, json!("red")).await[0]);
}

#[tokio::test]
async fn other_tasks_and_models_are_refused() {
    let app = TestApp::start().await;
    for (entries, status) in [
        (json!({"facial-recognition": {}}), 400),
        (json!({"clip": {"visual": {"modelName": MODEL}}}), 400),
        (json!({"clip": {"textual": {"modelName": "ViT-B-32__openai"}}}), 404),
    ] {
        let answer = predict(&app, entries, Form::new().text("text", "red")).await;
        assert_eq!(answer.status, status, "{}", answer.text);
        assert!(answer.json()["detail"].is_string());
    }
    let answer = app.post("/predict", json!({})).await;
    assert_eq!(answer.status, 415);
}
