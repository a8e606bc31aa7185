//! Encodings and containers of `/v1/embeddings`, and items that fail one by one.

use half::f16;
use reqwest::{
    StatusCode,
    multipart::{Form, Part},
};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use super::{RED, base64, data_uri, floats, png};
use crate::{
    app::{Answer, MODEL, TestApp},
    fake::DIM,
};

const PATH: &str = "/v1/embeddings";

async fn rows(app: &TestApp, options: Value) -> Vec<Value> {
    let mut body = json!({"input": ["red", "a blue tree", "green"]});
    for (key, value) in options.as_object().expect("options") {
        body[key] = value.clone();
    }
    let answer = app.post(PATH, body).await.ok();
    let data = answer["data"].as_array().expect("data");
    data.iter().map(|object| object["embedding"].clone()).collect()
}

async fn plain(app: &TestApp) -> Vec<Vec<f32>> {
    rows(app, json!({})).await.iter().map(floats).collect()
}

fn integers(row: &Value) -> Vec<i64> {
    serde_json::from_value(row.clone()).expect("whole numbers")
}

/// What numpy's `packbits(row > 0)` gives.
fn packed(row: &[f32]) -> Vec<i64> {
    let byte = |bits: &[f32]| {
        bits.iter().enumerate().map(|(at, &value)| i64::from(value > 0.0) << (7 - at)).sum()
    };
    row.chunks(8).map(byte).collect()
}

#[tokio::test]
async fn integers_and_bits_are_those_of_the_floats() {
    let app = TestApp::start().await;
    let encoded = |format: &'static str| rows(&app, json!({"encoding_format": format}));
    let (int8, uint8) = (encoded("int8").await, encoded("uint8").await);
    let (binary, ubinary) = (encoded("binary").await, encoded("ubinary").await);
    for (index, row) in plain(&app).await.iter().enumerate() {
        let levels: Vec<i64> = row.iter().map(|value| (value * 127.0).round() as i64).collect();
        assert_eq!(integers(&int8[index]), levels);
        let shifted: Vec<i64> = levels.iter().map(|level| level + 128).collect();
        assert_eq!(integers(&uint8[index]), shifted);
        assert_eq!(integers(&ubinary[index]), packed(row));
        let signed: Vec<i64> = packed(row).iter().map(|byte| byte - 128).collect();
        assert_eq!(integers(&binary[index]), signed);
    }
    // Bits of a truncated embedding: five values, three zeros.
    let cut = rows(&app, json!({"encoding_format": "ubinary", "dimensions": 5})).await;
    assert_eq!(integers(&cut[0]), packed(&plain(&app).await[0][..5]));
}

#[tokio::test]
async fn half_floats_are_the_nearest() {
    let app = TestApp::start().await;
    let halves = rows(&app, json!({"encoding_format": "base64_f16"})).await;
    for (text, row) in halves.iter().zip(plain(&app).await) {
        let bytes: Vec<u8> = row.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        assert_eq!(text, &json!(base64(&bytes)));
    }
}

async fn binary(app: &TestApp, accept: &str, format: &str) -> (String, Vec<u8>) {
    let body = json!({"input": ["red", "a blue tree", "green"], "encoding_format": format});
    let request = app.request("POST", PATH).json(&body).header("accept", accept);
    let response = request.send().await.expect("answers");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["x-siglip-model"], MODEL);
    assert!(response.headers().contains_key("server-timing"));
    let content_type = response.headers()["content-type"].to_str().expect("printable").to_owned();
    (content_type, response.bytes().await.expect("a body").to_vec())
}

#[tokio::test]
async fn accept_chooses_the_container_and_the_format_its_values() {
    let app = TestApp::start().await;
    let plain = plain(&app).await.concat();
    let little: Vec<u8> = plain.iter().flat_map(|value| value.to_le_bytes()).collect();
    for accept in ["application/x-npy", "text/html, application/octet-stream+npy;q=0.9"] {
        let (content_type, body) = binary(&app, accept, "float").await;
        assert_eq!(content_type, "application/x-npy");
        let (head, values) = body.split_at(body.len() - little.len());
        assert_eq!(values, little);
        let head = String::from_utf8_lossy(head);
        assert!(
            head.contains(&format!("'descr': '<f4', 'fortran_order': False, 'shape': (3, {DIM})"))
        );
    }
    for (format, dtype, columns) in [
        ("base64", Dtype::F32, DIM),
        ("base64_f16", Dtype::F16, DIM),
        ("int8", Dtype::I8, DIM),
        ("ubinary", Dtype::U8, DIM.div_ceil(8)),
    ] {
        let (content_type, body) = binary(&app, "application/vnd.safetensors", format).await;
        assert_eq!(content_type, "application/vnd.safetensors");
        let file = SafeTensors::deserialize(&body).expect("a valid file");
        let tensor = file.tensor("embeddings").expect("the one tensor");
        assert_eq!((tensor.dtype(), tensor.shape()), (dtype, &[3, columns][..]));
        if dtype == Dtype::F32 {
            assert_eq!(tensor.data(), little);
        }
    }
}

#[tokio::test]
async fn what_cannot_be_encoded_is_refused() {
    let app = TestApp::start().await;
    let body = json!({"input": "red", "encoding_format": "int8", "normalized": false});
    let answer = app.post(PATH, body).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["param"]),
        (StatusCode::BAD_REQUEST, &json!("encoding_format"))
    );
    let body = json!({"input": "red", "on_error": "item"});
    let request = app.request("POST", PATH).json(&body).header("accept", "application/x-npy");
    let answer = Answer::of(request).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["param"]),
        (StatusCode::BAD_REQUEST, &json!("on_error"))
    );
}

#[tokio::test]
async fn a_bad_item_fails_alone_where_that_is_asked_for() {
    let app = TestApp::start().await;
    let input = json!([
        "red",
        {"image": base64(b"no picture")},
        {"image": data_uri(RED)},
        {"image": "data:text/html;base64,AAAA"},
        {"image": "file:///etc/passwd"},
        "blue",
    ]);
    let whole = app.post(PATH, json!({"input": input})).await;
    assert!(whole.status.is_client_error());

    let answer = app.post(PATH, json!({"input": input, "on_error": "item"})).await.ok();
    let data = answer["data"].as_array().expect("data");
    assert_eq!(data.len(), 6);
    let alone =
        app.post(PATH, json!({"input": ["red", {"image": data_uri(RED)}, "blue"]})).await.ok();
    for (at, good) in [0, 2, 5].into_iter().enumerate() {
        assert_eq!(data[good]["index"], good);
        assert_eq!(data[good]["embedding"], alone["data"][at]["embedding"]);
    }
    for (bad, code) in [(1, "undecodable_image"), (3, "undecodable_image"), (4, "fetch_forbidden")]
    {
        assert_eq!((&data[bad]["object"], &data[bad]["index"]), (&json!("error"), &json!(bad)));
        let error = &data[bad]["error"];
        assert_eq!(
            (&error["code"], &error["param"]),
            (&json!(code), &json!(format!("input[{bad}]")))
        );
    }
    assert_eq!(answer["usage"]["images"], 1);

    // Every item failed, but the request succeeds.
    let body = json!({"input": [{"image": "AAAA"}], "on_error": "item"});
    assert_eq!(app.post(PATH, body).await.ok()["data"][0]["object"], "error");
}

#[tokio::test]
async fn forms_and_raw_bodies_fail_by_item_too() {
    let app = TestApp::start().await;
    let file = |bytes: Vec<u8>| Part::bytes(bytes).file_name("picture");
    let form = Form::new()
        .part("a", file(png(RED)))
        .part("b", file(b"no picture".to_vec()))
        .text("on_error", "item");
    let answer = Answer::of(app.request("POST", PATH).multipart(form)).await.ok();
    assert!(answer["data"][0]["embedding"].is_array());
    assert_eq!(answer["data"][1]["error"]["code"], "undecodable_image");
    let raw = app
        .request("POST", &format!("{PATH}?on_error=item"))
        .header("content-type", "image/png")
        .body("no picture");
    assert_eq!(Answer::of(raw).await.ok()["data"][0]["object"], "error");
}

#[tokio::test]
async fn an_item_is_not_blamed_for_what_is_not_its_fault() {
    let app = TestApp::start().await;
    // The worker has ended: no item can be embedded.
    for model in app.engine.registry().loaded() {
        model.handle.close();
        model.handle.stopped().await;
    }
    let answer =
        app.post(PATH, json!({"input": ["a new text", "another"], "on_error": "item"})).await;
    assert!(answer.status.is_server_error(), "{}", answer.text);
}
