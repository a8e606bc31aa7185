//! Strings that cannot be a text: with half of a surrogate pair, and with bytes that are not UTF-8.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::app::{Answer, TestApp};

const PATH: &str = "/v1/embeddings";

async fn sent(app: &TestApp, body: impl Into<reqwest::Body>) -> Answer {
    let request = app.request("POST", PATH).header("content-type", "application/json");
    Answer::of(request.body(body)).await
}

#[tokio::test]
async fn bytes_that_are_not_utf8_fail_their_item_alone() {
    let app = TestApp::start().await;
    let expected = app.post(PATH, json!({"input": ["red", "gr\u{fc}n"]})).await.ok();
    let body = |on_error: &str| {
        let parts: [&[u8]; 3] = [
            b"{\"input\": [\"red\", \"caf\xe9\", \"gr\xc3\xbcn\", {\"image\": \"\xe2\x82\"}, \"a\xff \\ud83c\"], \"on_error\": \"",
            on_error.as_bytes(),
            b"\"}",
        ];
        parts.concat()
    };
    let answer = sent(&app, body("item")).await.ok();
    for (found, asked) in [(0, 0), (2, 1)] {
        assert_eq!(answer["data"][found]["embedding"], expected["data"][asked]["embedding"]);
    }
    for index in [1, 3, 4] {
        let error = &answer["data"][index]["error"];
        assert_eq!(error["code"], "invalid_request", "{answer}");
        assert!(!error["message"].as_str().expect("a message").contains('\u{fffd}'), "{answer}");
    }
    let error = answer["data"][1]["error"]["message"].as_str().expect("a message");
    assert!(error.contains("not UTF-8"), "{error}");
    let failed = sent(&app, body("fail")).await;
    assert_eq!(failed.status, StatusCode::BAD_REQUEST);
    assert_eq!(failed.json()["error"]["param"], "input[1]", "{}", failed.text);
    assert_eq!(failed.json()["error"]["errors"].as_array().map(Vec::len), Some(3));
    // Elsewhere the request fails with the name of the field.
    for (body, param) in [
        (&b"{\"input\": [\"red\"], \"model\": \"caf\xe9\", \"on_error\": \"item\"}"[..], "model"),
        (b"{\"input\": [\"\xef\xb7\x91\", \"caf\xe9\"], \"on_error\": \"item\"}", "input[1]"),
    ] {
        let answer = sent(&app, body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
        assert_eq!(answer.json()["error"]["param"], param, "{}", answer.text);
        assert!(answer.text.contains("not UTF-8"), "{}", answer.text);
    }
    let body = &b"{\"texts\": [\"red\", \"caf\xe9\"]}"[..];
    let answer = Answer::of(app.request("POST", "/v2/embed").body(body)).await;
    assert!(
        answer.text.contains("texts[1]") && answer.text.contains("not UTF-8"),
        "{}",
        answer.text
    );
}

#[tokio::test]
async fn half_a_surrogate_pair_fails_its_item_alone() {
    let app = TestApp::start().await;
    let expected = app.post(PATH, json!({"input": ["red", "green \u{1f333}"]})).await.ok();
    let expected = [0, 1].map(|index| expected["data"][index]["embedding"].clone());
    for bad in
        ["\"a \\ud83c\"", "\"\\udf33\"", "{\"text\": \"\\uD83C!\"}", "{\"image\": \"\\ud83c\"}"]
    {
        let body = format!(
            "{{\"input\": [\"red\", {bad}, \"green \\ud83c\\udf33\", {bad}], \"on_error\": \"item\"}}"
        );
        let answer = sent(&app, body.clone()).await.ok();
        assert_eq!(answer["data"][0]["embedding"], expected[0], "{bad}");
        assert_eq!(answer["data"][2]["embedding"], expected[1], "{bad}");
        for index in [1, 3] {
            let error = &answer["data"][index]["error"];
            assert!(
                error["message"].as_str().expect("a message").contains("surrogate"),
                "{answer}"
            );
        }
        let failed = sent(&app, body.replace("\"item\"", "\"fail\"")).await;
        assert_eq!(failed.status, StatusCode::BAD_REQUEST);
        assert_eq!(failed.json()["error"]["param"], "input[1]", "{}", failed.text);
        assert_eq!(
            failed.json()["error"]["errors"].as_array().map(Vec::len),
            Some(2),
            "{}",
            failed.text
        );
    }
    // Elsewhere the request fails with the name of the field, and so does a body that already has the
    // replacement character.
    for (body, field) in [
        (
            "{\"input\": [\"red\", \"\\ud83c\"], \"model\": \"\\ud83c\", \"on_error\": \"item\"}",
            "input[1]",
        ),
        ("{\"input\": [\"red\"], \"model\": \"\\ud83c\", \"on_error\": \"item\"}", "model"),
        (
            "{\"messages\": [{\"content\": \"\\ud83c\"}], \"on_error\": \"item\"}",
            "messages[0].content",
        ),
        ("{\"input\": [\"\\ufdd0\", \"\\ud83c\"], \"on_error\": \"item\"}", "input[1]"),
    ] {
        let answer = sent(&app, body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}: {}", answer.text);
        assert_eq!(answer.json()["error"]["param"], field, "{}", answer.text);
        assert!(answer.text.contains("surrogate"), "{}", answer.text);
    }
    for (path, body, field) in [
        ("/v1/classify", "{\"images\": [], \"labels\": [\"a\", \"\\ud83c\"]}", "labels[1]"),
        ("/embed", "{\"inputs\": [\"red\", \"\\ud83c\"]}", "inputs[1]"),
        ("/", "{\"inputs\": [\"red\", \"\\ud83c\"]}", "inputs[1]"),
        ("/v2/embed", "{\"texts\": [\"red\", \"\\ud83c\"]}", "texts[1]"),
    ] {
        let answer = Answer::of(app.request("POST", path).body(body)).await;
        assert!(answer.status.is_client_error(), "{path}: {}", answer.text);
        assert!(
            answer.text.contains(field) && answer.text.contains("surrogate"),
            "{path}: {}",
            answer.text
        );
    }
    let lines = "{\"id\": 1, \"text\": \"\\ud83c\"}\n\u{feff}{\"id\": 2, \"text\": \"red\", \"image\": null}\n";
    let request =
        app.request("POST", "/v1/bulk/embeddings").header("content-type", "application/x-ndjson");
    let answer = Answer::of(request.body(lines)).await.text;
    let found: Vec<Value> =
        answer.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(found[0]["error"]["field"], "text", "{answer}");
    assert_eq!(found[1]["embedding"], expected[0], "{answer}");
}
