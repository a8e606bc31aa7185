//! Requests of the clients: good ones, and bad ones with the expected status and code.

use std::{fs, path::Path};

use image::ImageFormat;
use serde_json::{Value, json};

use crate::hostile::{self, FORMATS};

/// A request and the expected response.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) path: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) body: Vec<u8>,
    /// The status and code of the error. `None` for a request that must succeed.
    pub(crate) fault: Option<(u16, &'static str)>,
}

const EMBED: &str = "/v1/embeddings";
pub(crate) const BULK: &str = "/v1/bulk/embeddings";
const JSON: &str = "application/json";
pub(crate) const LINES: &str = "application/x-ndjson";

fn case(name: impl Into<String>, path: &'static str, body: impl Into<Vec<u8>>) -> Case {
    Case { name: name.into(), path, content_type: JSON, body: body.into(), fault: None }
}

fn base64(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}

/// A form with a file, as clients write it.
fn form(name: &str, bytes: &[u8]) -> Case {
    let head = "--X\r\ncontent-disposition: form-data; name=\"a\"; filename=\"a\"\r\n\r\n";
    let tail =
        "\r\n--X\r\ncontent-disposition: form-data; name=\"text\"\r\n\r\na form\r\n--X--\r\n";
    let body = [head.as_bytes(), bytes, tail.as_bytes()].concat();
    let content_type = "multipart/form-data; boundary=X";
    Case { content_type, ..case(format!("a form with {name}"), EMBED, body) }
}

/// Rows of a bulk stream: good ones and a bad one.
fn bulk(index: usize, name: &str, bytes: &[u8]) -> Case {
    let rows = [
        json!({"id": index, "text": format!("bulk {index}")}),
        json!({"id": name, "image": base64(bytes)}),
        json!({"id": "bad", "image": base64(b"no picture")}),
        json!({"id": "last", "text": "a cat"}),
    ];
    let body: String = rows.iter().map(|row| format!("{row}\n")).collect();
    Case { content_type: LINES, ..case("bulk", BULK, body) }
}

fn raw(name: impl Into<String>, bytes: Vec<u8>) -> Case {
    Case { content_type: "image/png", ..case(name, EMBED, bytes) }
}

fn pictures() -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join("tests/fixtures/images")).expect("pictures") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "md") {
            found.push((path.display().to_string(), fs::read(path).expect("a picture")));
        }
    }
    // Of every kind: CMYK, 16 bits, palettes, animations, one pixel.
    for name in [
        "cmyk.jpeg",
        "deep.png",
        "palette.png",
        "grey-alpha.png",
        "bits.png",
        "progressive.jpeg",
        "animated.gif",
        "animated.webp",
        "turned.jpeg",
        "lzw.tiff",
        "palette.bmp",
        "pixel.webp",
    ] {
        let bytes = fs::read(root.join("fuzz/corpus/image").join(name)).expect("a picture");
        found.push((name.to_owned(), bytes));
    }
    for (name, format) in FORMATS {
        for side in [1, 9, 300] {
            found.push((format!("{name} {side}"), hostile::encoded(format, side, side)));
        }
    }
    let harmless = hostile::impostors().into_iter().filter(|it| it.code.is_none());
    found.extend(harmless.map(|it| (it.name, it.bytes)));
    found
}

/// An image of the colour that marks a row.
fn marked() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = image::RgbImage::from_pixel(8, 8, image::Rgb([1, 2, 3]));
    picture.write_to(&mut bytes, ImageFormat::Png).expect("written to memory");
    bytes.into_inner()
}

/// Rows on which the towers fail, if faults are injected. Other rows in the same batch must succeed.
pub(crate) fn marked_rows() -> Vec<Case> {
    let fault = Some((500, "device_failed"));
    let text = case("a marked text", EMBED, json!({"input": "cat cat cat"}).to_string());
    let picture = raw("a marked picture", marked());
    vec![Case { fault, ..text }, Case { fault, ..picture }]
}

/// Requests that must succeed.
pub(crate) fn good() -> Vec<Case> {
    let mut found = Vec::new();
    let texts = [
        "a cat",
        "강아지",
        "👩‍👩‍👧‍👦🏳️‍🌈",
        "שלום عليكم",
        "\u{202e}cat\u{202c}",
        "e\u{301}\u{301}",
        "",
        "</s><pad>",
    ];
    for index in 0..60 {
        let text = format!("{} {index}", texts[index % texts.len()]);
        let many: Vec<_> = (0..=index % 4).map(|more| format!("{text} {more}")).collect();
        found.push(case("texts", EMBED, json!({ "input": many }).to_string()));
    }
    found.push(case("a long text", EMBED, json!({"input": "a cat ".repeat(10_000)}).to_string()));
    for (index, (name, bytes)) in pictures().into_iter().enumerate() {
        found.push(form(&name, &bytes));
        found.push(bulk(index, &name, &bytes));
        let body = json!({"input": [{"image": base64(&bytes)}, {"text": name}]});
        found.push(case("a picture and a text", EMBED, body.to_string()));
        let body =
            json!({"images": [base64(&bytes)], "texts": ["a cat", name], "scores": ["cosine"]});
        found.push(case("similarity", "/v1/similarity", body.to_string()));
        found.push(raw("a raw picture", bytes));
    }
    found
}

fn bad_json() -> Vec<(Vec<u8>, u16, &'static str)> {
    let deep = |levels: usize| format!("{{\"input\": {}1", "[".repeat(levels)).into_bytes();
    let text = |value: Value| value.to_string().into_bytes();
    vec![
        (Vec::new(), 400, "invalid_request"),
        (b"{\"input\": \"a\", ".to_vec(), 400, "invalid_request"),
        (b"{\"input\": \"\\ud800\"}".to_vec(), 400, "invalid_request"),
        (b"{\"input\": \"\xff\xfe\"}".to_vec(), 400, "invalid_request"),
        (b"{\"input\": NaN}".to_vec(), 400, "invalid_request"),
        (deep(100), 400, "json_too_deep"),
        (deep(500_000), 400, "json_too_deep"),
        (text(json!({"input": "a".repeat(1 << 20)})), 413, "text_too_large"),
        (text(json!({"input": vec!["a"; 1025]})), 413, "too_many_items"),
        (text(json!({"input": [{"image": "@@@@"}]})), 400, "invalid_request"),
        (text(json!({"input": [{"image": "file:///etc/passwd"}]})), 422, "fetch_forbidden"),
        (text(json!({"input": [{"image": "http://169.254.169.254/"}]})), 422, "fetch_forbidden"),
        (text(json!({"input": "a", "model": "none"})), 404, "model_not_found"),
        (text(json!({"input": "a ".repeat(99), "truncate": false})), 422, "text_too_long"),
        (
            text(json!({"input": [{"image": "data:text/html;base64,PGI+"}]})),
            422,
            "undecodable_image",
        ),
    ]
}

/// Requests that must fail, each with its own error.
pub(crate) fn bad() -> Vec<Case> {
    let fault = |case: Case, status, code| Case { fault: Some((status, code)), ..case };
    let status = |code| if code == "undecodable_image" { 422 } else { 413 };
    let mut found = Vec::new();
    let all = [hostile::bombs(), hostile::without_pixels(), hostile::impostors()];
    for picture in all.into_iter().flatten() {
        let Some(code) = picture.code else { continue };
        let body = json!({"input": ["red", {"image": base64(&picture.bytes)}]}).to_string();
        found.push(fault(case(picture.name.clone(), EMBED, body), status(code), code));
        found.push(fault(raw(picture.name, picture.bytes), status(code), code));
    }
    for (name, format) in FORMATS {
        let whole = hostile::encoded(format, 33, 21);
        for length in [7, whole.len() / 2] {
            let cut = raw(format!("{name} cut at {length}"), whole[..length].to_vec());
            found.push(fault(cut, 422, "undecodable_image"));
        }
    }
    for (body, status, code) in bad_json() {
        let head = String::from_utf8_lossy(&body[..body.len().min(30)]).into_owned();
        found.push(fault(case(head, EMBED, body), status, code));
    }
    for row in ["[1e999]", "[0,0]", "[\"NaN\"]", "\"AADAfwAAwH8=\"", "[]"] {
        let body = format!("{{\"image_embeddings\": [{row}], \"texts\": [\"a\"]}}");
        found.push(fault(case(row, "/v1/similarity", body), 400, "invalid_request"));
    }
    let wrong = |kind, body: &str| Case { content_type: kind, ..case(kind, EMBED, body) };
    found.push(fault(wrong("text/html", "<p>"), 415, "unsupported_media_type"));
    found.push(fault(wrong("image/png", "{\"input\": \"a\"}"), 422, "undecodable_image"));
    found.push(fault(wrong("multipart/form-data", "x"), 400, "invalid_request"));
    found.push(fault(
        wrong("multipart/form-data; boundary=X", "--X\r\n\r\n"),
        400,
        "invalid_request",
    ));
    found.push(fault(case("no route", "/v1/nothing", "{}"), 404, "not_found"));
    let large = hostile::encoded(ImageFormat::Bmp, 3000, 2500);
    found.push(fault(raw("22 MB", large), 413, "image_too_large"));
    let huge = format!("{{\"input\": \"{}\"}}", "a".repeat(100 << 20));
    found.push(fault(case("100 MB", EMBED, huge), 413, "payload_too_large"));
    found
}
