//! `POST /v1/multimodalembeddings`.

use super::*;

#[tokio::test]
async fn every_encoding_holds_the_native_vectors() {
    let app = TestApp::start().await;
    let inputs = json!([
        {"content": [{"type": "text", "text": "red"}]},
        {"content": [{"type": "image_base64", "image_base64": data_uri(BLUE)}]},
    ]);
    let expected = native(&app, json!(["red", {"image": data_uri(BLUE)}])).await;
    let post = async |more: Value| {
        let mut body =
            json!({"model": MODEL, "inputs": inputs, "input_type": null, "truncation": true});
        body.as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        app.post("/v1/multimodalembeddings", body).await.ok()
    };
    let answer = post(json!({})).await;
    let data = answer["data"].as_array().expect("data");
    let found: Vec<_> = data.iter().map(|row| floats(&row["embedding"])).collect();
    assert_rows_close(&found, &expected);
    assert_eq!(answer["usage"]["total_tokens"], answer["usage"]["text_tokens"]);

    let answer = post(json!({"encoding_format": "base64"})).await;
    assert_eq!(answer["data"][0]["embedding"], super::super::encoded(&expected[0]));
    let answer = post(json!({"output_dtype": "binary"})).await;
    assert_eq!(answer["data"][0]["embedding"], json!([0b1000_1111 - 128]));
    let answer = post(json!({"output_dtype": "uint8", "encoding_format": "base64"})).await;
    let levels: Vec<u8> = expected[0].iter().map(|v| ((v * 127.0).round() + 128.0) as u8).collect();
    assert_eq!(answer["data"][0]["embedding"], super::super::base64(&levels));
}
