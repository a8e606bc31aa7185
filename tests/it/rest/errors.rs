//! The table of errors, case by case: status, code, message and field.

use axum::body::Bytes;
use futures::stream;
use reqwest::{Body, RequestBuilder, multipart::Form};
use serde_json::{Value, json};

use super::{RED, base64, data_uri, png};
use crate::app::{Answer, MODEL, TestApp};

/// A server with small limits, so that small requests exceed them.
async fn strict() -> TestApp {
    TestApp::with(|config| {
        config.limits.max_body_bytes = 20_000;
        config.limits.max_items = 4;
        config.limits.max_labels = 3;
        config.limits.max_embeddings = 2;
        config.limits.max_text_bytes = 100;
        config.limits.max_image_bytes = 3000;
        config.limits.max_image_pixels = 100;
    })
    .await
}

/// The status and the document of an error, without the parts that differ from run to run.
async fn refusal(request: RequestBuilder) -> Value {
    let answer = Answer::of(request).await;
    assert!(!answer.status.is_success(), "{}", answer.text);
    assert!(!answer.header("x-request-id").is_empty());
    assert!(answer.header("server-timing").contains("total;dur="));
    let mut body = answer.json();
    if let Some(id) = body.as_object_mut().expect("an object").remove("request_id") {
        assert_eq!(id, answer.header("x-request-id"));
    }
    json!({
        "status": answer.status.as_u16(),
        "type": answer.header("content-type"),
        "body": body,
    })
}

/// Sends each case, which must be refused, and returns the errors by name. The server must still work after
/// them.
async fn refusals(app: &TestApp, cases: Vec<(&str, RequestBuilder)>) -> Value {
    let mut refusals = serde_json::Map::new();
    for (name, request) in cases {
        refusals.insert(name.to_owned(), refusal(request).await);
    }
    app.post("/v1/embeddings", json!({"input": "red"})).await.ok();
    refusals.into()
}

#[tokio::test]
async fn requests_that_contradict_the_api() {
    let app = strict().await;
    let post = |path: &str, body: Value| app.request("POST", path).json(&body);
    let raw = |body: &'static str| {
        app.request("POST", "/v1/similarity").header("content-type", "application/json").body(body)
    };
    let embed = |body: Value| post("/v1/embeddings", body);
    let image = || data_uri(RED);
    let cases = vec![
        ("json_broken", raw("{\"texts\": [")),
        ("json_wrong_type", raw("{\"texts\": [\"a\", 7]}")),
        ("json_unknown_field", raw("{\"text\": [\"a\"]}")),
        ("embeddings_without_input", embed(json!({"model": "colours"}))),
        ("embeddings_empty", embed(json!({"input": []}))),
        ("embeddings_token_ids", embed(json!({"input": [[1, 2, 3]]}))),
        ("embeddings_item_of_two_kinds", embed(json!({"input": [{"text": "a", "image": "b"}]}))),
        ("embeddings_item_of_no_kind", embed(json!({"input": ["a", {"audio": "b"}]}))),
        ("embeddings_dimensions", embed(json!({"input": "a", "dimensions": 9}))),
        ("embeddings_encoding", embed(json!({"input": "a", "encoding_format": "hex"}))),
        ("similarity_one_side", post("/v1/similarity", json!({"texts": ["a"]}))),
        (
            "similarity_both_forms",
            post(
                "/v1/similarity",
                json!({
                    "images": [image()], "texts": ["a"], "text_embeddings": [[1, 2]],
                }),
            ),
        ),
        (
            "similarity_ragged",
            post(
                "/v1/similarity",
                json!({
                    "images": [image()], "text_embeddings": [[1, 2], [1]],
                }),
            ),
        ),
        ("similarity_out_of_range", raw("{\"images\": [], \"text_embeddings\": [[1, 1e39]]}")),
        (
            "similarity_dimension",
            post("/v1/similarity", json!({"images": [image()], "text_embeddings": [[1, 2]]})),
        ),
        (
            "similarity_no_scores",
            post(
                "/v1/similarity",
                json!({
                    "images": [image()], "texts": ["a"], "scores": [],
                }),
            ),
        ),
        ("classify_no_labels", post("/v1/classify", json!({"images": [image()], "labels": []}))),
        (
            "classify_template",
            post(
                "/v1/classify",
                json!({
                    "images": [image()], "labels": ["a"], "templates": ["a photo"],
                }),
            ),
        ),
        (
            "classify_top_k",
            post(
                "/v1/classify",
                json!({
                    "images": [image()], "labels": ["a"], "top_k": 0,
                }),
            ),
        ),
        (
            "form_unknown_field",
            app.request("POST", "/v1/classify").multipart(Form::new().text("lable", "a")),
        ),
        (
            "form_damaged",
            app.request("POST", "/v1/classify")
                .header("content-type", "multipart/form-data; boundary=x")
                .body("--x\r\nnothing"),
        ),
        (
            "raw_image_query",
            app.request("POST", "/v1/embeddings?dimension=3")
                .header("content-type", "image/png")
                .body(png(RED)),
        ),
        ("header_timeout", embed(json!({"input": "a"})).header("x-request-timeout-ms", "soon")),
        ("header_priority", embed(json!({"input": "a"})).header("x-priority", "first")),
    ];
    insta::assert_json_snapshot!(refusals(&app, cases).await);
}

#[tokio::test]
async fn what_is_not_here() {
    let app = strict().await;
    let post = |path: &str, body: Value| app.request("POST", path).json(&body);
    let cases = vec![
        ("route_unknown", app.request("GET", "/v1/nothing")),
        ("method_wrong", app.request("GET", "/v1/similarity")),
        ("method_wrong_openai", app.request("DELETE", "/v1/embeddings")),
        ("model_unknown_openai", post("/v1/embeddings", json!({"model": "clip", "input": "a"}))),
        (
            "model_unknown",
            post(
                "/v1/similarity",
                json!({
                    "model": "clip", "images": [data_uri(RED)], "texts": ["a"],
                }),
            ),
        ),
        ("model_unknown_to_look_up", app.request("GET", "/v1/models/clip")),
        ("docs_file_unknown", app.request("GET", "/docs/nothing.js")),
        (
            "content_type_wrong",
            app.request("POST", "/v1/classify").header("content-type", "text/plain").body("a"),
        ),
        ("content_type_missing", app.request("POST", "/v1/embeddings").body("{}")),
        (
            "content_type_raw_image",
            app.request("POST", "/v1/classify").header("content-type", "image/png").body(png(RED)),
        ),
    ];
    insta::assert_json_snapshot!(refusals(&app, cases).await);
    let answer = app.get("/v1/similarity").await;
    assert_eq!(answer.header("allow"), "POST");
}

#[tokio::test]
async fn what_is_too_much() {
    let app = strict().await;
    let embed = |body: Value| app.request("POST", "/v1/embeddings").json(&body);
    let post = |path: &str, body: Value| app.request("POST", path).json(&body);
    let chunks = |count: usize| {
        let chunk = Bytes::from(vec![b' '; 1000]);
        let chunks = std::iter::repeat_n(chunk, count).map(Ok::<_, std::io::Error>);
        Body::wrap_stream(stream::iter(chunks))
    };
    let stream = app.request("POST", "/v1/embeddings").header("content-type", "application/json");
    let noise: Vec<u8> = (0..4000_u32).map(|index| (index * index % 251) as u8).collect();
    let wide = || {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let picture = image::RgbImage::new(101, 1);
        picture.write_to(&mut bytes, image::ImageFormat::Png).expect("PNG is written to memory");
        bytes.into_inner()
    };
    let cases = vec![
        ("too_many_items", embed(json!({"input": ["a", "b", "c", "d", "e"]}))),
        (
            "too_many_labels",
            post(
                "/v1/classify",
                json!({
                    "images": [data_uri(RED)], "labels": ["a", "b", "c", "d"],
                }),
            ),
        ),
        (
            "too_many_embeddings",
            post(
                "/v1/similarity",
                json!({
                    "images": [data_uri(RED)], "text_embeddings": [[1], [2], [3]],
                }),
            ),
        ),
        ("body_announced_too_large", embed(json!({"input": "a".repeat(20_000)}))),
        ("body_turns_out_too_large", stream.body(chunks(21))),
        ("text_too_large", embed(json!({"input": ["a".repeat(101)]}))),
        ("image_too_many_bytes", embed(json!({"input": [{"image": base64(&noise)}]}))),
        ("image_too_many_pixels", embed(json!({"input": [{"image": base64(&wide())}]}))),
    ];
    insta::assert_json_snapshot!(refusals(&app, cases).await);
}

#[tokio::test]
async fn inputs_that_cannot_be_read() {
    let app = strict().await;
    let embed = |body: Value| app.request("POST", "/v1/embeddings").json(&body);
    let post = |path: &str, body: Value| app.request("POST", path).json(&body);
    let cut = || base64(&png(RED)[..40]);
    let long = "red ".repeat(20);
    let cases = vec![
        (
            "image_not_a_picture",
            post(
                "/v1/similarity",
                json!({
                    "images": [data_uri(RED), base64(b"not a picture")], "texts": ["a"],
                }),
            ),
        ),
        ("image_cut", embed(json!({"input": [{"image": cut()}]}))),
        ("image_not_base64", embed(json!({"input": ["red", {"image": "?"}]}))),
        ("image_empty", embed(json!({"input": [{"image": ""}]}))),
        (
            "image_url",
            post(
                "/v1/classify",
                json!({
                    "images": ["https://example.com/cat.png"], "labels": ["cat"],
                }),
            ),
        ),
        (
            "image_other_media_type",
            embed(json!({"input": [{"image": "data:text/html;base64,PGI+"}]})),
        ),
        ("text_too_long", embed(json!({"input": ["red", long], "truncate": false}))),
        (
            "several_items",
            post(
                "/v1/similarity",
                json!({
                    "images": [cut(), data_uri(RED), base64(b"not a picture")], "texts": ["red"],
                }),
            ),
        ),
    ];
    insta::assert_json_snapshot!(refusals(&app, cases).await);
}

/// Every error of a route has the format in its document, whatever refuses the request.
#[tokio::test]
async fn every_error_has_the_documented_format() {
    let app = TestApp::start().await;
    let document = app.get("/openapi.json").await.ok();
    let mut count = 0;
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let of_model = |name: &str| path.replace("{model}", name).replace("{version}", "1");
        let address = of_model(MODEL);
        for (method, operation) in operations.as_object().expect("operations") {
            let Some((kind, schema)) = error_format(&document, operation) else { continue };
            let invalid = match &**method {
                "post" => {
                    let request = app.request("POST", &address);
                    request
                        .header("content-type", "application/json")
                        .body("{\"no_such_field\": 1}")
                }
                _ => app.request("GET", &format!("{address}?no_such_option=1")),
            };
            let requests = [
                invalid,
                app.request(&method.to_uppercase(), &of_model("no-such-model")),
                app.request("DELETE", &address),
            ];
            for request in requests {
                let answer = Answer::of(request).await;
                let case = format!("{method} {path}: {} {}", answer.status, answer.text);
                if answer.status.is_success() {
                    continue;
                }
                assert_eq!(answer.header("content-type"), kind, "{case}");
                let body = answer.json();
                let body = body.as_object().expect("an object");
                let known = schema["properties"].as_object().expect("properties");
                assert!(body.keys().all(|name| known.contains_key(name)), "{case}");
                let mut needed = schema["required"].as_array().expect("names").iter();
                let has = |name: &Value| body.contains_key(name.as_str().expect("a name"));
                assert!(needed.all(has), "{case}");
                count += 1;
            }
        }
    }
    assert!(count > 70, "{count}");
}

/// The content type and the schema of an operation's errors. `None` if the document has no error.
fn error_format<'d>(document: &'d Value, operation: &'d Value) -> Option<(&'d str, &'d Value)> {
    let responses = operation["responses"].as_object().expect("responses");
    let (_, error) = responses.iter().find(|(status, _)| !status.starts_with('2'))?;
    let (kind, content) = error["content"].as_object().expect("a body").iter().next()?;
    let name = content["schema"]["$ref"].as_str().expect("a name").trim_start_matches('#');
    Some((kind, document.pointer(name).expect("a schema")))
}
