//! `POST /v1/bulk/embeddings`.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, channel::mpsc, stream};
use reqwest::{Body, Response, StatusCode};
use serde_json::{Value, json};

use super::{BLUE, RED, assert_close, base64, data_uri, floats, png};
use crate::{
    app::{Answer, TestApp},
    fake::DIM,
};

const PATH: &str = "/v1/bulk/embeddings";
const LINES: &str = "application/x-ndjson";
const FRAMES: &str = "application/vnd.siglip.rows";

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

fn parsed(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect()
}

async fn send(app: &TestApp, query: &str, body: impl Into<Body>) -> Vec<Value> {
    let request = app.request("POST", &format!("{PATH}{query}")).header("content-type", LINES);
    let answer = Answer::of(request.body(body)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(answer.header("content-type"), LINES);
    parsed(&answer.text)
}

/// The rows from the normal route.
async fn alone(app: &TestApp, input: Value) -> Vec<Vec<f32>> {
    let answer = app.post("/v1/embeddings", json!({"input": input})).await.ok();
    let data = answer["data"].as_array().expect("data");
    data.iter().map(|object| floats(&object["embedding"])).collect()
}

#[tokio::test]
async fn rows_come_back_in_order_with_their_ids_and_status() {
    let app = TestApp::start().await;
    let rows = [
        json!({"id": "first", "text": "red"}),
        json!({"id": 2, "image": data_uri(RED)}),
        json!({"id": "bad", "image": base64(b"no picture")}),
        json!({"text": "blue"}),
        json!({"id": "neither"}),
        json!({"id": "url", "image": "file:///etc/passwd"}),
        json!({"id": "last", "image": base64(&png(BLUE))}),
    ];
    let answers = send(&app, "", lines(&rows) + "this is no JSON\n\n").await;
    let expected =
        alone(&app, json!(["red", {"image": data_uri(RED)}, "blue", {"image": data_uri(BLUE)}]))
            .await;
    for (index, answer) in answers[..8].iter().enumerate() {
        assert_eq!(answer["index"], index);
    }
    for (row, at) in expected.iter().zip([0, 1, 3, 6]) {
        assert_close(&floats(&answers[at]["embedding"]), row);
        assert_eq!(answers[at]["id"], rows[at].get("id").cloned().unwrap_or_default());
    }
    for (at, code) in [
        (2, "undecodable_image"),
        (4, "invalid_request"),
        (5, "fetch_forbidden"),
        (7, "invalid_request"),
    ] {
        assert_eq!(answers[at]["error"]["code"], code, "{}", answers[at]);
        assert!(answers[at].get("embedding").is_none());
    }
    assert_eq!((&answers[2]["id"], &answers[7]["id"]), (&json!("bad"), &Value::Null));
    let end = &answers[8];
    assert_eq!((&end["done"], &end["rows"], &end["failed"]), (&json!(true), &json!(8), &json!(4)));
    assert_eq!(end["usage"]["images"], 2);
    assert_eq!(answers.len(), 9);
}

#[tokio::test]
async fn the_options_hold_for_every_row() {
    let app = TestApp::start().await;
    let row = json!({"text": "red"});
    let raw = send(&app, "?normalized=false&dimensions=5", lines(std::slice::from_ref(&row))).await;
    assert_close(&floats(&raw[0]["embedding"]), &[1.0, 0.0, 0.0, 0.0, 1.0]);
    let int8 = send(&app, "?encoding_format=int8", lines(std::slice::from_ref(&row))).await;
    assert_eq!(int8[0]["embedding"].as_array().map(Vec::len), Some(DIM));
    let text = send(&app, "?encoding_format=base64_f16", lines(&[row])).await;
    assert!(text[0]["embedding"].is_string());
}

fn frame(id: u64, kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(9 + payload.len()).expect("short").to_le_bytes();
    [&length[..], &id.to_le_bytes(), &[kind], payload].concat()
}

#[tokio::test]
async fn frames_carry_raw_pictures_in_and_values_out() {
    let app = TestApp::start().await;
    let body =
        [frame(70, 1, b"red"), frame(71, 2, &png(BLUE)), frame(72, 2, b"x"), frame(73, 9, b"")];
    let request = app.request("POST", PATH).header("content-type", FRAMES).body(body.concat());
    let response = request.send().await.expect("answers");
    assert_eq!(response.headers()["content-type"], FRAMES);
    let bytes = response.bytes().await.expect("a body");
    let mut frames = Vec::new();
    let mut rest = &bytes[..];
    while let Some((length, more)) = rest.split_first_chunk::<4>() {
        let (frame, more) = more.split_at(u32::from_le_bytes(*length) as usize);
        let id = u64::from_le_bytes(*frame.first_chunk().expect("an id"));
        frames.push((id, frame[8], frame[9..].to_vec()));
        rest = more;
    }
    let expected = alone(&app, json!(["red", {"image": data_uri(BLUE)}])).await;
    for (row, (frame, id)) in expected.iter().zip(frames.iter().zip(70..)) {
        assert_eq!((frame.0, frame.1), (id, 0));
        let (values, _) = frame.2.as_chunks();
        let values: Vec<f32> = values.iter().map(|&value| f32::from_le_bytes(value)).collect();
        assert_close(&values, row);
    }
    let said = |at: usize| serde_json::from_slice::<Value>(&frames[at].2).expect("JSON");
    assert_eq!((frames[2].0, frames[2].1, &said(2)["code"]), (72, 1, &json!("undecodable_image")));
    assert_eq!((frames[3].0, frames[3].1, &said(3)["code"]), (73, 1, &json!("invalid_request")));
    assert_eq!((frames[4].0, frames[4].1, &said(4)["rows"]), (u64::MAX, 2, &json!(4)));
    assert_eq!(frames.len(), 5);
}

/// A stream that the test writes to while it reads.
struct Live {
    rows: mpsc::Sender<Result<Bytes, std::io::Error>>,
    response: Response,
    buffered: Vec<u8>,
}

impl Live {
    async fn open(app: &TestApp) -> Self {
        let (rows, receiver) = mpsc::channel(16);
        let request = app.request("POST", PATH).header("content-type", LINES);
        let request = request.body(Body::wrap_stream(receiver));
        let response = request.send().await.expect("the head comes before the first row");
        Self { rows, response, buffered: Vec::new() }
    }

    async fn write(&mut self, text: &str) {
        self.rows.send(Ok(Bytes::from(text.to_owned()))).await.expect("the server reads");
    }

    /// The next line. `None` at the end.
    async fn line(&mut self) -> Option<Value> {
        loop {
            if let Some(at) = self.buffered.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffered.drain(..=at).collect();
                return Some(serde_json::from_slice(&line).expect("JSON"));
            }
            self.buffered.extend(self.response.chunk().await.expect("not broken off")?);
        }
    }
}

#[tokio::test]
async fn answers_come_while_rows_are_still_being_sent() {
    let app = TestApp::start().await;
    let mut live = Live::open(&app).await;
    for id in 0..5 {
        live.write(&lines(&[json!({"id": id, "text": "red"})])).await;
        assert_eq!(live.line().await.expect("an answer")["id"], id);
    }
    live.rows.close_channel();
    assert_eq!(live.line().await.expect("the end")["done"], true);
    assert!(live.line().await.is_none());
}

#[tokio::test]
async fn the_limits_of_one_body_are_those_of_one_row() {
    let app = TestApp::with(|config| {
        config.limits.max_body_bytes = 2000;
        config.limits.max_items = 4;
        config.limits.max_text_bytes = 20;
        config.limits.max_image_bytes = 300;
        // Room for one row of all streams, so all rows take turns.
        config.limits.max_bulk_rows = 1;
        config.limits.max_bulk_bytes = 10;
    })
    .await;
    let mut rows: Vec<_> = (0..500).map(|id| json!({"id": id, "text": "red"})).collect();
    rows.push(json!({"id": "long", "text": "red ".repeat(10)}));
    rows.push(json!({"id": "longer", "text": "red ".repeat(40_000)}));
    rows.push(json!({"id": "after", "text": "blue"}));
    let answers = send(&app, "", lines(&rows)).await;
    assert!(answers[..500].iter().all(|answer| answer["embedding"].is_array()));
    assert_eq!(
        (&answers[500]["id"], &answers[500]["error"]["code"]),
        (&json!("long"), &json!("text_too_large"))
    );
    // The row is not kept in memory, so its id is unknown.
    assert_eq!(
        (&answers[501]["id"], &answers[501]["error"]["code"]),
        (&Value::Null, &json!("payload_too_large"))
    );
    assert!(answers[502]["embedding"].is_array());
    assert_eq!((&answers[503]["rows"], &answers[503]["failed"]), (&json!(503), &json!(2)));
}

#[tokio::test]
async fn a_stream_that_idles_is_ended_and_says_why() {
    let app =
        TestApp::with(|config| config.limits.bulk_idle_timeout = Duration::from_millis(50)).await;
    let mut live = Live::open(&app).await;
    live.write(&lines(&[json!({"id": 1, "text": "red"})])).await;
    assert!(live.line().await.expect("an answer")["embedding"].is_array());
    let end = live.line().await.expect("the end");
    assert_eq!((&end["done"], &end["rows"]), (&json!(false), &json!(1)));
    assert_eq!(end["error"]["code"], "deadline_exceeded");
    assert!(live.line().await.is_none());
}

#[tokio::test]
async fn a_server_that_drains_answers_what_it_read_and_says_so() {
    let app = TestApp::start().await;
    let mut live = Live::open(&app).await;
    app.gate.set_open(false);
    live.write(&lines(&[json!({"id": 1, "text": "a new red text"})])).await;
    // The worker has taken the first row, so the second one stays in the queue. This shows that it was read.
    while !app.gate.holds() {
        tokio::task::yield_now().await;
    }
    live.write(&lines(&[json!({"id": 2, "text": "blue"})])).await;
    let waiting = "siglip_queue_rows{model=\"colours\",priority=\"bulk\",tower=\"text\"}";
    while app.metric(waiting).await < 1.0 {}
    app.engine.registry().close();
    app.gate.set_open(true);
    for id in 1..=2 {
        let answer = live.line().await.expect("an answer");
        assert!(answer["id"] == id && answer["embedding"].is_array(), "{answer}");
    }
    let end = live.line().await.expect("the end");
    assert_eq!((&end["done"], &end["rows"]), (&json!(false), &json!(2)));
    assert_eq!(end["error"]["code"], "shutting_down");
    assert!(live.line().await.is_none());
}

#[tokio::test]
async fn a_place_is_taken_by_each_stream_and_given_back() {
    let app = TestApp::with(|config| config.limits.max_bulk_streams = 1).await;
    let first = Live::open(&app).await;
    let second = app.request("POST", PATH).header("content-type", LINES).body("");
    let refused = Answer::of(second).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.json()["code"], "overloaded");
    assert!(!refused.header("retry-after").is_empty());
    // The client disconnects. Its place is free as soon as the server notices this.
    drop(first);
    loop {
        let request = app.request("POST", PATH).header("content-type", LINES);
        let answer = Answer::of(request.body(lines(&[json!({"text": "red"})]))).await;
        if answer.status == StatusCode::OK {
            assert_eq!(parsed(&answer.text).len(), 2);
            return;
        }
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_costs_nobody_anything() {
    let app = TestApp::start().await;
    let broken = stream::iter([
        Ok(Bytes::from("{\"id\": 1, \"text\": \"red\"}\n{\"id\": 2,")),
        Err(std::io::Error::other("gone")),
    ]);
    let request = app.request("POST", PATH).header("content-type", LINES);
    // The client breaks its own connection, so it gets no response.
    let _ = request.body(Body::wrap_stream(broken)).send().await;
    assert_eq!(send(&app, "", lines(&[json!({"text": "red"})])).await.len(), 2);
}

#[tokio::test]
async fn what_is_no_stream_is_refused() {
    let app = TestApp::start().await;
    for (content_type, query, status, field) in [
        ("application/json", "", 415, "content-type"),
        (LINES, "?dimensions=9", 400, "dimensions"),
        (LINES, "?dimensions=x", 400, "dimensions"),
        (LINES, "?encoding_format=int8&normalized=false", 400, "encoding_format"),
        (LINES, "?model=clip", 404, "model"),
    ] {
        let request = app.request("POST", &format!("{PATH}{query}"));
        let answer = Answer::of(request.header("content-type", content_type).body("")).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["field"]), (status, &json!(field)));
    }
    let end = send(&app, "", "").await;
    assert_eq!((end.len(), &end[0]["rows"], &end[0]["done"]), (1, &json!(0), &json!(true)));
}
