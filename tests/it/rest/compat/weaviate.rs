//! Weaviate's `multi2vec-clip` module.

use super::*;

#[tokio::test]
async fn each_side_has_its_vectors() {
    let app = TestApp::start().await;
    let body = json!({"texts": ["red", "green"], "images": [super::super::base64(&png(BLUE))]});
    let answer = app.post("/vectorize", body).await.ok();
    assert_rows_close(&rows(&answer["textVectors"]), &native(&app, json!(["red", "green"])).await);
    let picture = native(&app, json!([{"image": data_uri(BLUE)}])).await;
    assert_rows_close(&rows(&answer["imageVectors"]), &picture);
    let one_side = app.post("/vectorize", json!({"texts": ["red"], "images": null})).await.ok();
    assert_eq!(one_side["imageVectors"], json!([]));
    let bad = app.post("/vectorize", json!({"texts": ["red"], "images": ["aGVsbG8="]})).await;
    let message = bad.json()["error"].as_str().expect("a text").to_owned();
    assert!(message.starts_with("images[0]: "), "{message}");
}

#[tokio::test]
async fn the_module_can_wait_until_it_is_ready() {
    let app = TestApp::loading(|_| {}).await;
    assert_eq!(app.get("/.well-known/live").await.status, 204);
    assert_eq!(app.get("/.well-known/ready").await.status, 503);
    assert_eq!(app.get("/meta").await.ok()["model"], Value::Null);
    app.load().await;
    assert_eq!(app.get("/.well-known/ready").await.status, 204);
    assert_eq!(app.get("/meta").await.ok()["model"], MODEL);
}
