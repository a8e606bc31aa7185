//! Bodies as clients and libraries really send them.

use reqwest::{
    StatusCode,
    multipart::{Form, Part},
};
use serde_json::{Value, json};

use super::{BLUE, RED, base64, data_uri, png, rows};
use crate::app::{Answer, TestApp};

const PATH: &str = "/v1/embeddings";

async fn sent(app: &TestApp, content_type: Option<&str>, body: impl Into<reqwest::Body>) -> Answer {
    let request = app.request("POST", PATH).body(body);
    let request = match content_type {
        Some(kind) => request.header("content-type", kind),
        None => request,
    };
    Answer::of(request).await
}

async fn row(app: &TestApp, body: Value) -> Value {
    app.post(PATH, body).await.ok()["data"][0]["embedding"].clone()
}

/// Base64 with line breaks.
fn in_lines(text: &str, length: usize, end: &str) -> String {
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(length)
        .map(|line| std::str::from_utf8(line).expect("ascii"))
        .collect();
    lines.join(end) + end
}

#[tokio::test]
async fn every_way_to_write_an_image_is_that_image() {
    let app = TestApp::start().await;
    let expected = row(&app, json!({"input": [{"image": data_uri(RED)}]})).await;
    assert_ne!(expected, row(&app, json!({"input": [{"image": data_uri(BLUE)}]})).await);
    let bytes = png(RED);
    let plain = base64(&bytes);
    let url_safe = plain.replace('+', "-").replace('/', "_");
    let images = [
        plain.clone(),
        plain.trim_end_matches('=').to_owned(),
        url_safe.clone(),
        in_lines(&plain, 76, "\n"),
        in_lines(&plain, 64, "\r\n"),
        format!("  {plain}\t"),
        format!("data:undefined;base64,{plain}"),
        format!("data:;base64,{plain}"),
        format!("data:binary/octet-stream;base64,{plain}"),
        format!("data:application/octet-stream;base64,{plain}"),
        format!("data:text/plain;charset=utf-8;base64,{plain}"),
        format!("data:image/jpeg;base64,{plain}"),
        format!("DATA:IMAGE/PNG;BASE64,{plain}"),
        format!("data: image/png ; base64 , {plain}"),
        format!(" data:image/png;base64,{}", in_lines(&plain, 76, "\r\n")),
        format!("data:image/png;name=\"a,b.png\";base64,{url_safe}"),
    ];
    for image in images {
        for item in [
            json!([{"image": image}]),
            json!([{"type": "image_url", "image_url": {"url": image}}]),
            json!([{"type": "image_url", "image_url": image}]),
            json!([{"url": image}]),
            json!([{"bytes": image}]),
            json!({"image": image}),
        ] {
            assert_eq!(row(&app, json!({"input": item})).await, expected, "{item}");
        }
        let plain = json!({"input": image, "modality": "image"});
        assert_eq!(row(&app, plain).await, expected, "{image}");
        let message = json!({"messages": [{"role": "user", "content": [{"image_url": {"url": image, "detail": "low"}}]}]});
        assert_eq!(row(&app, message).await, expected, "{image}");
    }
}

#[tokio::test]
async fn the_content_says_what_a_body_is() {
    let app = TestApp::start().await;
    let text = row(&app, json!({"input": "red"})).await;
    let image = row(&app, json!({"input": [{"image": data_uri(RED)}]})).await;
    let kinds = [
        None,
        Some("binary/octet-stream"),
        Some("application/octet-stream"),
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("x/y; z=1"),
    ];
    for kind in kinds {
        for json in
            ["{\"input\": \"red\"}", " \r\n{\"input\": \"red\"}", "\u{feff}{\"input\": \"red\"}"]
        {
            let found = sent(&app, kind, json).await.ok();
            assert_eq!(found["data"][0]["embedding"], text, "{kind:?} {json}");
        }
        let found = sent(&app, kind, png(RED)).await.ok();
        assert_eq!(found["data"][0]["embedding"], image, "{kind:?}");
    }
    let marked = sent(&app, Some("application/json"), "\u{feff}{\"input\": \"red\"}").await.ok();
    assert_eq!(marked["data"][0]["embedding"], text);
    for kind in [None, Some("text/plain"), Some("text/html")] {
        let answer = sent(&app, kind, "a cat").await;
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind:?}");
    }
    let utf16: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(sent(&app, Some("application/json"), utf16).await.text.contains("UTF-16"));
    // A route without raw images also reads JSON, and says what it accepts.
    let request = app.request("POST", "/embed").body("{\"inputs\": \"red\"}");
    Answer::of(request).await.ok();
    let answer = Answer::of(app.request("POST", "/embed").body(png(RED))).await;
    assert!(answer.text.contains("application/json"), "{}", answer.text);
}

#[tokio::test]
async fn images_and_addresses_are_never_embedded_as_words() {
    let app = TestApp::start().await;
    let strings = [
        data_uri(RED),
        format!(" {}", data_uri(RED).to_uppercase()),
        base64(&png(RED)),
        in_lines(&base64(&png(RED)), 76, "\n"),
        format!("b'{}'", base64(&png(RED))),
        "\u{89}PNG\r\n\u{1a}\n\0\0\0\rIHDR".to_owned(),
        "https://example.com/cat.png".to_owned(),
        "HTTP://example.com/cat".to_owned(),
        // Longer than a text may be.
        format!("data:image/png;base64,{}", "A".repeat(100_000)),
    ];
    let red = data_uri(RED);
    for text in &strings {
        let requests = [
            (PATH, json!({"input": text})),
            (PATH, json!({"input": ["red", text]})),
            (PATH, json!({"messages": [{"role": "user", "content": text}]})),
            ("/v1/similarity", json!({"images": [red], "texts": ["red", text]})),
            ("/v1/classify", json!({"images": [red], "labels": ["red", text]})),
            ("/v2/embed", json!({"texts": [text]})),
            ("/v2/embed", json!({"inputs": [text]})),
            ("/v2/rerank", json!({"query": text, "documents": ["red"]})),
            ("/v2/rerank", json!({"query": "red", "documents": [text]})),
            ("/v1/multimodalembeddings", json!({"inputs": [{"content": [text]}]})),
            ("/embed", json!({"inputs": text})),
            ("/embed", json!({"inputs": ["red", text]})),
            ("/similarity", json!({"inputs": {"source_sentence": text, "sentences": ["red"]}})),
            ("/", json!({"inputs": text})),
            ("/rerank", json!({"query": "red", "texts": [text]})),
            ("/v1/rerank", json!({"query": text, "documents": ["red"]})),
            ("/score", json!({"queries": text, "documents": "red"})),
            ("/vectorize", json!({"texts": [text]})),
            (
                "/v2/models/colours/infer",
                json!({"inputs": [{"name": "TEXT", "shape": [1], "datatype": "BYTES", "data": [text]}]}),
            ),
        ];
        for (path, body) in requests {
            let answer = app.post(path, body).await;
            let head: String = text.chars().take(40).collect();
            let case = format!("{path} {head}: {} {}", answer.status, answer.text);
            assert!(matches!(answer.status.as_u16(), 400 | 422), "{case}");
            assert!(answer.text.contains("\\\"image\\\": ..."), "{case}");
        }
        if !text.to_ascii_lowercase().starts_with("http") {
            let explicit = app.post(PATH, json!({"input": [{"text": text}]})).await;
            assert_eq!(explicit.status, StatusCode::BAD_REQUEST, "{}", explicit.text);
            let line = json!({"text": text}).to_string();
            let request = app
                .request("POST", "/v1/bulk/embeddings")
                .header("content-type", "application/x-ndjson");
            let answer = Answer::of(request.body(line)).await;
            assert!(answer.text.contains("not a text"), "{}", answer.text);
        }
    }
    // A URL is a text if the request says so, and other texts can have colons too.
    for body in [
        json!({"input": [{"text": "https://example.com/cat.png"}]}),
        json!({"input": "https://example.com is a site about cats"}),
        json!({"input": "data: a plot of the numbers"}),
        json!({"input": "BMW"}),
    ] {
        app.post(PATH, body).await.ok();
    }
    // One by one.
    let body = json!({"input": ["red", data_uri(RED)], "on_error": "item"});
    let answer = app.post(PATH, body).await.ok();
    assert!(answer["data"][0]["embedding"].is_array(), "{answer}");
    assert_eq!(answer["data"][1]["error"]["code"], "invalid_request", "{answer}");
}

#[tokio::test]
async fn options_of_a_form_stand_once_in_the_form() {
    let app = TestApp::start().await;
    let image = || Part::bytes(png(RED)).file_name("red.png");
    let form = |path: &str, form: Form| app.request("POST", path).multipart(form);
    for (request, field, message) in [
        (form("/v1/features?layer=-2", Form::new().part("image", image())), "layer", "form"),
        (form("/v1/classify?top_k=1", Form::new().part("image", image())), "top_k", "form"),
        (form(PATH, Form::new().text("image", "cat.png")), "image", "-F image=@cat.png"),
        (
            form("/v1/classify", Form::new().text("images", "cat.png")),
            "images",
            "-F images=@cat.png",
        ),
        (form(PATH, Form::new().text("text", "[\"a\", \"b\"]")), "text", "JSON array"),
        (form("/v1/classify", Form::new().text("labels", "[\"a\",\"b\"]")), "labels", "JSON array"),
        (form(PATH, Form::new().text("dimension", "3")), "dimension", "did you mean `dimensions`"),
        (
            form(PATH, Form::new().text("dimensions", "3").text("dimensions", "4")),
            "dimensions",
            "twice",
        ),
        (form(PATH, Form::new().text("dimensions", "2.5")), "dimensions", "whole number"),
    ] {
        let answer = Answer::of(request).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
        let json = answer.json();
        let found = json.get("error").map_or(&json["field"], |error| &error["param"]);
        assert_eq!(found, field, "{}", answer.text);
        assert!(answer.text.contains(message), "{}", answer.text);
    }
    // What a script writes if nothing was chosen.
    let absent =
        Form::new().text("text", "red").text("dimensions", "null").text("encoding_format", "null");
    let answer = Answer::of(form(PATH, absent)).await.ok();
    assert_eq!(answer["data"][0]["embedding"], row(&app, json!({"input": "red"})).await);
}

#[tokio::test]
async fn messages_say_what_to_write() {
    let app = TestApp::start().await;
    for (path, body, field, message) in [
        (PATH, json!({"input": "a", "dimension": 4}), "dimension", "did you mean `dimensions`"),
        (PATH, json!({"input": "a", "dimensions": "4"}), "dimensions", "must be a whole number"),
        (PATH, json!({"input": "a", "dimensions": 1.5}), "dimensions", "must be a whole number"),
        (
            PATH,
            json!({"input": "a", "dimensions": -1}),
            "dimensions",
            "must be a whole number of 0 or more, not -1",
        ),
        (
            PATH,
            json!({"input": "a", "encoding_format": 5}),
            "encoding_format",
            "must be one format",
        ),
        (
            PATH,
            json!({"input": "a", "encoding_format": {}}),
            "encoding_format",
            "must be one format",
        ),
        (
            PATH,
            json!({"input": "a", "encoding_format": "flaot"}),
            "encoding_format",
            "did you mean `float`",
        ),
        (PATH, json!({"input": "a", "normalized": "yes"}), "normalized", "must be true or false"),
        (PATH, json!({"input": [{"audio": "b"}]}), "input[0].audio", "unknown field"),
        (PATH, json!({"input": [{"type": "audio"}]}), "input[0]", "not `audio`"),
        (PATH, json!({"input": [[137, 80, 78, 71]]}), "input[0]", "base64"),
        (PATH, json!({"input": [{"image": "/home/me/cat.png"}]}), "input[0]", "reads no files"),
        (
            PATH,
            json!({"input": [{"image": "data:image/png;base64,iVBOR..."}]}),
            "input[0]",
            "unexpected `.` at position 27",
        ),
        ("/v1/classify", json!({"images": [], "label": ["a"]}), "label", "did you mean `labels`"),
        (
            "/v1/classify",
            json!({"images": [data_uri(RED)], "labels": ["[\"a\", \"b\"]"]}),
            "labels[0]",
            "JSON array",
        ),
        ("/v1/classify", json!({"images": [], "labels": "a"}), "labels", "must be an array"),
        (
            "/v2/rerank",
            json!({"query": "a", "documents": ["b"], "top_k": 1}),
            "",
            "did you mean `top_n`",
        ),
        ("/v1/similarity", json!(["a"]), "", "must be a JSON object"),
    ] {
        let answer = app.post(path, body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
        let json = answer.json();
        let found = json.get("error").map_or(&json["field"], |error| &error["param"]);
        assert_eq!(found.as_str().unwrap_or_default(), field, "{}", answer.text);
        assert!(answer.text.contains(message), "{message}: {}", answer.text);
    }
    let endpoint = json!({"inputs": data_uri(RED), "candidate_labels": ["red"]});
    let answer = app.post("/", endpoint).await;
    assert!(
        answer.text.contains("candidate_labels") && answer.text.contains("`parameters`"),
        "{}",
        answer.text
    );
    let grouped =
        app.post("/embed", json!({"inputs": "red", "parameters": {"normalize": false}})).await.ok();
    let flat = app.post("/embed", json!({"inputs": "red", "normalize": false})).await.ok();
    assert_eq!(rows(&grouped), rows(&flat));
    let twice = json!({"inputs": "red", "normalize": true, "parameters": {"normalize": false}});
    assert!(app.post("/embed", twice).await.text.contains("twice"));
}
