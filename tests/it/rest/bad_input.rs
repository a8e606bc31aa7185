//! Invalid input of every kind, alone and among good requests.

use futures::{StreamExt as _, future::join_all, stream};
use image::ImageFormat;
use reqwest::{StatusCode, header};
use serde_json::{Value, json};

use super::{RED, base64, data_uri, floats};
use crate::{
    app::{Answer, TestApp},
    hostile::{self, FORMATS, Hostile},
};

const PATH: &str = "/v1/embeddings";

async fn embed_raw(app: &TestApp, bytes: Vec<u8>) -> Answer {
    let request = app.request("POST", PATH).header(header::CONTENT_TYPE, "image/png");
    Answer::of(request.body(bytes)).await
}

/// Sends an image in both ways and checks both responses.
async fn check(app: &TestApp, picture: Hostile) {
    let Hostile { name, bytes, code } = picture;
    let json = json!({"input": ["red", {"image": base64(&bytes)}]});
    for answer in [app.post(PATH, json).await, embed_raw(app, bytes).await] {
        match code {
            None => assert_eq!(answer.status, StatusCode::OK, "{name}: {}", answer.text),
            Some(code) => {
                assert_eq!(answer.json()["error"]["code"], code, "{name}: {}", answer.text);
                assert!(answer.status.is_client_error(), "{name}: {}", answer.status);
            }
        }
    }
}

/// Checks that the server still works normally.
async fn still_well(app: &TestApp) {
    app.post(PATH, json!({"input": ["red", {"image": data_uri(RED)}]})).await.ok();
    let text = app.get("/metrics").await.text;
    for line in text.lines().filter(|line| line.starts_with("siglip_requests_total{")) {
        assert!(!line.contains("code=\"internal\""), "{line}");
    }
}

#[tokio::test]
async fn pictures_that_mean_harm_get_their_code() {
    let app = TestApp::start().await;
    let all = [hostile::bombs(), hostile::without_pixels(), hostile::impostors()];
    for picture in all.into_iter().flatten() {
        check(&app, picture).await;
    }
    still_well(&app).await;
}

#[tokio::test]
async fn data_that_swells_is_not_unpacked() {
    let app = TestApp::start().await;
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes =
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kilobytes.unwrap_or(0) >> 10
    };
    for (index, bytes) in hostile::inflated().into_iter().enumerate() {
        let before = resident();
        let answer = embed_raw(&app, bytes).await;
        let known =
            [StatusCode::OK, StatusCode::UNPROCESSABLE_ENTITY, StatusCode::PAYLOAD_TOO_LARGE];
        assert!(known.contains(&answer.status), "{index}: {} {}", answer.status, answer.text);
        // The peak of the whole test process, so other tests may add to it, but not 256 MiB.
        let grown = resident().saturating_sub(before);
        assert!(grown < 200, "{index}: {grown} MiB for a picture of one pixel");
    }
    still_well(&app).await;
}

#[tokio::test]
async fn one_pixel_is_a_picture_in_every_format() {
    let app = TestApp::start().await;
    for (name, format) in FORMATS {
        let bytes = hostile::encoded(format, 1, 1);
        check(&app, Hostile { name: name.to_owned(), bytes, code: None }).await;
    }
}

#[tokio::test]
async fn what_is_cut_off_is_refused() {
    let app = TestApp::start().await;
    for (name, format) in FORMATS {
        let whole = hostile::encoded(format, 33, 21);
        for length in [1, 7, 20, whole.len() / 4, whole.len() / 2, whole.len() * 9 / 10] {
            let answer = embed_raw(&app, whole[..length].to_vec()).await;
            let code = &answer.json()["error"]["code"];
            assert_eq!(code, "undecodable_image", "{name}, {length} bytes: {}", answer.text);
        }
    }
    still_well(&app).await;
}

#[tokio::test]
async fn what_is_corrupt_is_answered_whatever_it_is() {
    let app = TestApp::start().await;
    // Random numbers with a fixed seed, so that a failure can be repeated.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut cases = Vec::new();
    for (name, format) in FORMATS {
        let whole = hostile::encoded(format, 33, 21);
        for round in 0..60 {
            let mut bytes = whole.clone();
            for _ in 0..=round % 4 {
                let at = next(bytes.len());
                bytes[at] = next(256) as u8;
            }
            cases.push((name, round, bytes));
        }
    }
    let app = &app;
    stream::iter(cases)
        .for_each_concurrent(8, |(name, round, bytes)| async move {
            let answer = embed_raw(app, bytes).await;
            let known = answer.status == StatusCode::OK
                || matches!(
                    answer.json()["error"]["code"].as_str(),
                    Some("undecodable_image" | "too_many_pixels" | "decode_too_large")
                );
            assert!(known, "{name}, round {round}: {} {}", answer.status, answer.text);
        })
        .await;
    still_well(app).await;
}

#[tokio::test]
async fn base64_and_data_uris_that_are_none() {
    let app = TestApp::start().await;
    for (image, code) in [
        ("@@@@", "invalid_request"),
        ("iVBORw0KGgo", "undecodable_image"),
        ("A", "invalid_request"),
        ("AAAA=AAAA", "invalid_request"),
        ("data:image/png;base64,", "undecodable_image"),
        ("data:image/png;base64", "invalid_request"),
        ("data:image/png,%89PNG", "undecodable_image"),
        ("data:text/html;base64,PGI+", "undecodable_image"),
        ("file:///etc/passwd", "fetch_forbidden"),
        ("http://169.254.169.254/latest/meta-data/", "fetch_forbidden"),
        ("\u{1F600}", "invalid_request"),
    ] {
        let answer = app.post(PATH, json!({"input": [{"image": image}]})).await;
        assert_eq!(answer.json()["error"]["code"], code, "{image}");
    }
}

#[tokio::test]
async fn a_large_picture_is_read_however_its_base64_is_escaped() {
    let app = TestApp::start().await;
    let image = image::RgbImage::from_fn(700, 700, |x, y| {
        image::Rgb([x, y, x ^ y].map(|value| (value * 37) as u8))
    });
    let mut bmp = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bmp, ImageFormat::Bmp).expect("a picture");
    let plain = base64(bmp.get_ref());
    assert!(plain.len() > 1 << 20 && plain.contains('+') && plain.contains('/'));
    let expected = app.post(PATH, json!({"input": [{"image": plain}]})).await.ok();
    for (from, to) in [("+", "\\u002B"), ("/", "\\/")] {
        let body = format!(r#"{{"input": [{{"image": "{}"}}]}}"#, plain.replace(from, to));
        let request = app.request("POST", PATH).header(header::CONTENT_TYPE, "application/json");
        let answer = Answer::of(request.body(body)).await.ok();
        assert_eq!(answer["data"], expected["data"], "{to}");
    }
}

#[tokio::test]
async fn texts_of_every_kind_are_read_or_refused() {
    let app = TestApp::start().await;
    for text in [
        "",
        " ",
        "\0",
        "\u{feff}red",
        "\u{202e}der\u{202c} red",
        "שלום עולם",
        "مرحبا",
        "👩‍👩‍👧‍👦🏳️‍🌈",
        "e\u{301}\u{301}\u{301}",
        "\u{1b}[31m",
        "'; DROP TABLE models;--",
        "<script>",
        "{{7*7}}",
        "\u{10ffff}\u{fffd}",
        "a\r\nx-injected: 1",
    ] {
        let answer = app.post(PATH, json!({"input": text})).await;
        assert_eq!(answer.status, StatusCode::OK, "{text:?}: {}", answer.text);
    }
    let long = app.post(PATH, json!({"input": ["red", "a".repeat(1 << 20)]})).await;
    assert_eq!(long.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(long.json()["error"]["code"], "text_too_large");
    assert_eq!(long.json()["error"]["param"], "input[1]");
    // Characters that take longest to quote, in a text field and where no text is allowed.
    for text in ["\u{1f600}", "\u{301}", "\u{7f}"] {
        let text = text.repeat((1 << 20) + 1);
        let long = app.post(PATH, json!({"input": ["red", text]})).await;
        assert_eq!(long.json()["error"]["code"], "text_too_large");
        assert_eq!(long.json()["error"]["param"], "input[1]");
        let misplaced = app.post(PATH, json!({"input": ["red"], "model": [text]})).await;
        assert_eq!(misplaced.status, StatusCode::BAD_REQUEST);
        assert_eq!(misplaced.json()["error"]["param"], "model");
        assert!(misplaced.text.len() < 1000, "{}", misplaced.text.len());
    }
    let zalgo = app.post(PATH, json!({"input": "\u{301}".repeat(30_000)})).await;
    assert_eq!(zalgo.status, StatusCode::OK, "{}", zalgo.text);
    still_well(&app).await;
}

/// Sends bytes as JSON and reads the code.
async fn code_of(app: &TestApp, path: &str, body: Vec<u8>) -> Value {
    let request = app.request("POST", path).header(header::CONTENT_TYPE, "application/json");
    let answer = Answer::of(request.body(body)).await;
    assert!(answer.status.is_client_error(), "{}: {}", answer.status, answer.text);
    let json = answer.json();
    json.get("error").map_or_else(|| json["code"].clone(), |error| error["code"].clone())
}

#[tokio::test]
async fn json_that_is_none_or_too_deep() {
    let app = TestApp::start().await;
    let deep = |open: &str, close: &str, levels: usize| {
        let nested = open.repeat(levels) + "1" + &close.repeat(levels);
        format!("{{\"input\": \"a\", \"more\": {nested}}}").into_bytes()
    };
    for (body, code) in [
        (b"".to_vec(), "invalid_request"),
        (b"{".to_vec(), "invalid_request"),
        (b"null".to_vec(), "invalid_request"),
        (b"[]".to_vec(), "invalid_request"),
        (b"{\"input\": \"a\"} x".to_vec(), "invalid_request"),
        (b"{\"input\": \"a\", \"input\": \"b\"}".to_vec(), "invalid_request"),
        (b"{\"input\": \"\\ud800\"}".to_vec(), "invalid_request"),
        (b"{\"input\": \"\\udc00\\ud800\"}".to_vec(), "invalid_request"),
        (b"{\"input\": \"\xff\xfe\"}".to_vec(), "invalid_request"),
        (b"{\"input\": \"\xed\xa0\x80\"}".to_vec(), "invalid_request"),
        (b"\xff\xfe{\0}\0".to_vec(), "invalid_request"),
        (b"{\"input\": NaN}".to_vec(), "invalid_request"),
        (b"{\"input\": \"a\", \"dimensions\": 1e400}".to_vec(), "invalid_request"),
        (b"{\"input\": \"a\", \"dimensions\": -1}".to_vec(), "invalid_request"),
        (deep("[", "]", 33), "json_too_deep"),
        (deep("[", "]", 1_000_000), "json_too_deep"),
        (deep("{\"a\":", "}", 100_000), "json_too_deep"),
        (b"[".repeat(100_000), "json_too_deep"),
        // Brackets in a text do not count as nesting.
        (
            format!("{{\"input\": 1, \"x\": \"{}\\\"[\"}}", "[".repeat(99)).into_bytes(),
            "invalid_request",
        ),
    ] {
        let head = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        assert_eq!(code_of(&app, PATH, body).await, code, "{head}");
    }
    still_well(&app).await;
}

#[tokio::test]
async fn lists_without_an_end_are_refused_before_they_are_parsed() {
    let app = TestApp::start().await;
    let list = |item: &str| format!("[{}{item}]", format!("{item},").repeat(10_000_000));
    let strings = list("\"\"");
    for (path, body) in [
        (PATH, format!("{{\"input\": {strings}}}")),
        (PATH, format!("{{\"input\": {}}}", list("[]"))),
        ("/v1/classify", format!("{{\"images\": [], \"labels\": {strings}}}")),
        ("/v1/similarity", format!("{{\"images\": [], \"texts\": {strings}}}")),
    ] {
        assert_eq!(code_of(&app, path, body.into_bytes()).await, "too_many_items", "{path}");
    }
    still_well(&app).await;
}

#[tokio::test]
async fn labels_that_swell_in_their_templates_are_refused_before_they_are_written() {
    let app = TestApp::start().await;
    let classify = async |labels: Value, templates: Value| {
        let body = json!({"images": [data_uri(RED)], "labels": labels, "templates": templates});
        app.post("/v1/classify", body).await.json()["code"].clone()
    };
    let (long, many) = ("a".repeat(60_000), "{}".repeat(1000));
    assert_eq!(classify(json!(vec![long; 100]), json!([many])).await, "text_too_large");
    // 1024 prompts of 60 kB are accepted, nine times as many are not.
    let (short, wide) = ("a".repeat(60), "{}".repeat(1000));
    let found = classify(json!(vec![short; 1024]), json!(vec![wide; 7])).await;
    assert_eq!(found, "payload_too_large");
    let found = classify(json!(vec!["red"; 1000]), json!(vec!["{}"; 1000])).await;
    assert_eq!(found, "payload_too_large");
    still_well(&app).await;
}

#[tokio::test]
async fn numbers_that_are_none_are_refused() {
    let app = TestApp::start().await;
    let mut not_a_number = [0.5_f32; 8];
    not_a_number[3] = f32::NAN;
    let mut infinite = [0.5_f32; 8];
    infinite[7] = f32::NEG_INFINITY;
    let packed = |row: &[f32]| super::encoded(row);
    for row in [
        json!([1, 0, 0, 0, 0, 0, 0, 1e39]),
        json!([0, 0, 0, 0, 0, 0, 0, 0]),
        json!(["NaN", 0, 0, 0, 0, 0, 0, 0]),
        json!([null, 0, 0, 0, 0, 0, 0, 0]),
        json!(packed(&not_a_number)),
        json!(packed(&infinite)),
        json!(packed(&[1.0])),
        json!("AAA="),
        json!([]),
    ] {
        let body = json!({"image_embeddings": [row], "texts": ["red"]});
        let answer = app.post("/v1/similarity", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{row}: {}", answer.text);
        assert_eq!(answer.json()["code"], "invalid_request");
    }
    let text = "{\"image_embeddings\": [[1e999,0,0,0,0,0,0,0]], \"texts\": [\"red\"]}";
    assert_eq!(code_of(&app, "/v1/similarity", text.into()).await, "invalid_request");
}

#[tokio::test]
async fn a_hundred_megabytes_are_refused_before_they_are_read() {
    let app = TestApp::start().await;
    let announced = app
        .request("POST", PATH)
        .header(header::CONTENT_TYPE, "application/json")
        .body(format!("{{\"input\": \"{}\"}}", "a".repeat(100 << 20)));
    // This server does not read the rest of a refused body, so it may close while the client still writes.
    if let Ok(answer) = announced.send().await {
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
    let series = format!("siglip_requests_total{{code=\"payload_too_large\",route=\"{PATH}\"}}");
    assert_eq!(app.metric(&series).await, 1.0);
    still_well(&app).await;
}

#[tokio::test]
async fn a_form_of_very_many_parts_is_refused() {
    let app = TestApp::start().await;
    let part = "--X\r\ncontent-disposition: form-data; name=\"text\"\r\n\r\nred\r\n";
    for (parts, code) in [(100_000, "payload_too_large"), (1025, "too_many_items")] {
        let request = app.request("POST", PATH);
        let request = request.header(header::CONTENT_TYPE, "multipart/form-data; boundary=X");
        let answer = Answer::of(request.body(part.repeat(parts) + "--X--\r\n")).await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", answer.text);
        assert_eq!(answer.json()["error"]["code"], code, "{}", answer.text);
    }
    still_well(&app).await;
}

#[tokio::test]
async fn good_requests_among_bad_ones_are_answered_rightly() {
    let app = TestApp::start().await;
    let good =
        json!({"input": ["red", {"image": base64(&hostile::encoded(ImageFormat::Png, 9, 7))}]});
    let expected = app.post(PATH, good.clone()).await.ok()["data"].clone();
    let all = [hostile::bombs(), hostile::without_pixels(), hostile::impostors()];
    let (app, good) = (&app, &good);
    let bad = join_all(all.into_iter().flatten().map(|picture| check(app, picture)));
    let well = join_all((0..64).map(|_| async move { app.post(PATH, good.clone()).await.ok() }));
    let (_, answers) = futures::future::join(bad, well).await;
    for answer in answers {
        for item in 0..2 {
            let (found, expected) = (&answer["data"][item], &expected[item]);
            assert_eq!(floats(&found["embedding"]), floats(&expected["embedding"]));
        }
    }
    still_well(app).await;
}
