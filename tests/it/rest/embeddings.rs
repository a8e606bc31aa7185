//! `POST /v1/embeddings`.

use image::ImageFormat;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use super::{BLUE, GREEN, RED, assert_close, base64, data_uri, encoded, floats, png};
use crate::{
    app::{Answer, MODEL, TestApp},
    fake::DIM,
    hostile,
};

const PATH: &str = "/v1/embeddings";

/// The rows of a response, sorted by index.
fn vectors(answer: &Value) -> Vec<Vec<f32>> {
    let data = answer["data"].as_array().expect("data");
    for (index, object) in data.iter().enumerate() {
        assert_eq!(object["index"], index);
    }
    data.iter().map(|object| floats(&object["embedding"])).collect()
}

#[tokio::test]
async fn texts_come_back_in_the_shape_of_openai() {
    let app = TestApp::start().await;
    let body = json!({"model": MODEL, "input": ["red", "a green tree"], "user": "someone"});
    let mut answer = app.post(PATH, body).await.ok();
    for object in answer["data"].as_array_mut().expect("data") {
        let row = floats(&object["embedding"]);
        assert_eq!(row.len(), DIM);
        assert!((row.iter().map(|value| value * value).sum::<f32>() - 1.0).abs() < 1e-5);
        object["embedding"] = json!("[numbers]");
    }
    insta::assert_json_snapshot!(answer);
}

#[tokio::test]
async fn one_string_is_one_item() {
    let app = TestApp::start().await;
    let one = vectors(&app.post(PATH, json!({"input": "red"})).await.ok());
    let many = vectors(&app.post(PATH, json!({"input": ["red"]})).await.ok());
    assert_eq!(one, many);
    assert_eq!(one.len(), 1);
}

#[tokio::test]
async fn mixed_items_keep_their_order() {
    let app = TestApp::start().await;
    let bare = base64(&png(BLUE));
    let items = json!([
        {"image": data_uri(RED)}, "green", {"text": "blue"}, {"image": data_uri(GREEN)}, {"image": bare}
    ]);
    let answer = app.post(PATH, json!({"input": items})).await.ok();
    let mixed = vectors(&answer);
    assert_eq!(answer["usage"]["images"], 3);
    for (index, colour) in ["red", "green", "blue", "green", "blue"].iter().enumerate() {
        let alone = vectors(&app.post(PATH, json!({"input": colour})).await.ok());
        assert_close(&mixed[index], &alone[0]);
    }
}

#[tokio::test]
async fn base64_holds_the_same_numbers() {
    let app = TestApp::start().await;
    let input = json!(["red", "blue"]);
    let numbers = vectors(&app.post(PATH, json!({"input": input})).await.ok());
    let text = app.post(PATH, json!({"input": input, "encoding_format": "base64"})).await.ok();
    for (index, row) in numbers.iter().enumerate() {
        assert_eq!(text["data"][index]["embedding"], encoded(row));
    }
}

#[tokio::test]
async fn fewer_dimensions_are_normalised_again() {
    let app = TestApp::start().await;
    let raw = app.post(PATH, json!({"input": "red", "normalized": false})).await.ok();
    let raw = vectors(&raw).remove(0);
    assert_close(&raw, &[1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.05, 0.1]);
    let cut = app.post(PATH, json!({"input": "red", "dimensions": 5})).await.ok();
    let norm = 2.0_f32.sqrt();
    assert_close(&vectors(&cut)[0], &[1.0 / norm, 0.0, 0.0, 0.0, 1.0 / norm]);
}

#[tokio::test]
async fn every_way_to_send_a_picture_gives_the_same_vector() {
    let app = TestApp::start().await;
    let tagged = app.post(PATH, json!({"input": {"image": data_uri(RED)}})).await.ok();
    let modality = json!({"input": [data_uri(RED)], "modality": "image"});
    let modality = app.post(PATH, modality).await.ok();
    let raw = app
        .request("POST", &format!("{PATH}?model={MODEL}&encoding_format=float&normalized=true"))
        .header("content-type", "image/png")
        .body(png(RED));
    let raw = Answer::of(raw).await.ok();
    let file = Part::bytes(png(RED)).file_name("red.png");
    let form = Form::new().text("model", MODEL).part("image", file);
    let form = Answer::of(app.request("POST", PATH).multipart(form)).await.ok();
    for answer in [&modality, &raw, &form] {
        assert_eq!(answer, &tagged);
    }
}

#[tokio::test]
async fn a_form_carries_many_files_and_texts_in_order() {
    let app = TestApp::start().await;
    let file = |colour| Part::bytes(png(colour)).file_name("picture");
    let form = Form::new()
        .part("a", file(GREEN))
        .text("text", "red")
        .part("b", file(BLUE))
        .text("dimensions", "6")
        .text("normalized", "false");
    let answer = Answer::of(app.request("POST", PATH).multipart(form)).await.ok();
    let rows = vectors(&answer);
    assert_close(&rows[0], &[0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
    assert_close(&rows[1], &[1.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
    assert_close(&rows[2], &[0.0, 0.0, 1.0, 1.0, 1.0, 0.0]);
}

#[tokio::test]
async fn a_form_may_be_as_large_as_any_body() {
    let app = TestApp::start().await;
    // Three megabytes.
    let picture = hostile::encoded(ImageFormat::Bmp, 1000, 1000);
    let form = Form::new().part("a", Part::bytes(picture).file_name("picture"));
    let answer = Answer::of(app.request("POST", PATH).multipart(form)).await.ok();
    assert_eq!(vectors(&answer).len(), 1);
}

#[tokio::test]
async fn a_large_answer_is_whole() {
    let app = TestApp::with(|config| config.limits.max_items = 4096).await;
    let input: Vec<_> =
        (0..3000).map(|index| if index % 2 == 0 { "red" } else { "blue" }).collect();
    let rows = vectors(&app.post(PATH, json!({"input": input})).await.ok());
    assert_eq!(rows.len(), 3000);
    assert_ne!(rows[2998], rows[2999]);
    assert_eq!(rows[0], rows[2998]);
}

#[tokio::test]
async fn one_message_is_one_embedding() {
    let app = TestApp::start().await;
    let picture = json!({"type": "image_url", "image_url": {"url": data_uri(RED)}});
    let message = |content: Value| json!({"role": "user", "content": content});
    let one = app.post(PATH, json!({"messages": [message(json!([picture]))]})).await.ok();
    let expected = app.post(PATH, json!({"input": {"image": data_uri(RED)}})).await.ok();
    assert_close(&vectors(&one)[0], &vectors(&expected)[0]);
    let text = app.post(PATH, json!({"messages": [message(json!("red"))]})).await.ok();
    assert_close(
        &vectors(&text)[0],
        &vectors(&app.post(PATH, json!({"input": "red"})).await.ok())[0],
    );
    let several = json!([
        [message(json!("red"))],
        [message(json!([{"type": "text", "text": ""}, picture]))],
        [message(json!([{"type": "text", "text": "red"}, {"type": "text", "text": "green"}]))],
    ]);
    let several = vectors(&app.post(PATH, json!({"messages": several})).await.ok());
    let expected = json!({"input": ["red", {"image": data_uri(RED)}, "red\ngreen"]});
    assert_eq!(several, vectors(&app.post(PATH, expected).await.ok()));
    // Each may fail alone.
    let one_bad = json!([[message(json!([picture, picture]))], [message(json!("red"))]]);
    let answer = app.post(PATH, json!({"messages": one_bad, "on_error": "item"})).await.ok();
    assert_eq!(answer["data"][0]["error"]["code"], "invalid_request", "{answer}");
    assert!(answer["data"][1]["embedding"].is_array(), "{answer}");
    let answer = app.post(PATH, json!({"messages": one_bad})).await;
    assert_eq!(answer.json()["error"]["param"], "messages[0]", "{}", answer.text);
    for messages in [
        json!([]),
        json!([message(json!("red")), message(json!("blue"))]),
        json!([message(json!([picture, {"type": "text", "text": "red"}]))]),
    ] {
        let answer = app.post(PATH, json!({"messages": messages})).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
    }
}

#[tokio::test]
async fn the_options_of_jina_and_voyage_are_read() {
    let app = TestApp::start().await;
    let expected = app.post("/v1/embeddings", json!({"input": ["red"]})).await.ok();
    for options in [
        json!({"task": "retrieval.query", "late_chunking": false, "embedding_type": "float"}),
        json!({"return_multivector": false}),
        json!({"embedding_type": ["float"], "truncate": true, "normalized": true}),
        json!({"encoding_type": "float"}),
        json!({"input_type": "query", "truncation": true, "output_dtype": "float"}),
    ] {
        let mut body = options.clone();
        body["input"] = json!(["red"]);
        let answer = app.post("/v1/embeddings", body).await.ok();
        assert_eq!(answer["data"], expected["data"], "{options}");
    }
    let integers = json!({"input": ["red"], "output_dtype": "int8", "output_dimension": 2});
    let answer = app.post("/v1/embeddings", integers).await.ok();
    let same = json!({"input": ["red"], "encoding_format": "int8", "dimensions": 2});
    assert_eq!(answer["data"], app.post("/v1/embeddings", same).await.ok()["data"]);
    for (options, param) in [
        (json!({"late_chunking": true}), "late_chunking"),
        (json!({"encoding_format": "base64", "output_dtype": "int8"}), "output_dtype"),
    ] {
        let mut body = options;
        body["input"] = json!(["red"]);
        let refused = app.post("/v1/embeddings", body).await;
        assert_eq!(
            (refused.status.as_u16(), &refused.json()["error"]["param"]),
            (400, &json!(param))
        );
    }
    let two = json!({"input": ["red"], "embedding_type": ["float", "int8"]});
    assert_eq!(app.post("/v1/embeddings", two).await.status.as_u16(), 400);
}
