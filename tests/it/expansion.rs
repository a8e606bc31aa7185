//! Measures the memory of parsed requests on the binary: no parser uses more memory than the server counts for
//! the body.

// Only Linux has a file with the peak memory of a process.
#![cfg(target_os = "linux")]

use std::fs;

use bytes::Bytes;
use futures::StreamExt as _;
use reqwest::{
    Body, Client,
    header::{CONTENT_TYPE, HeaderValue},
};

use crate::{app, process::Server, waiting::until};

/// Bytes that the server counts for a string, an array or an object of a JSON body, in addition to its text.
const PART_BYTES: usize = 576;
/// The same for a comma outside of strings.
const NUMBER_BYTES: usize = 8;
/// The same for a field of a gRPC message, and for a whole number of a list.
const FIELD_BYTES: usize = 640;
const PACKED_BYTES: usize = 24;
/// One more than a power of two: a list that doubles its capacity has just been copied.
const COUNT: usize = (1 << 16) + 1;
/// Memory that any request takes, including the copies of the body while it is received and read.
const SLACK_BYTES: usize = 2 << 20;
const BODIES: usize = 4;

/// Every list of a JSON body.
const LISTS: [(&str, &str, &str); 41] = [
    ("/", r#"{"inputs": "#, "}"),
    ("/", r#"{"inputs": "a", "parameters": {"candidate_labels": "#, "}}"),
    ("/", r#"{"inputs": {"image": "a", "candidate_labels": "#, "}}"),
    ("/api/embed", r#"{"input": "#, "}"),
    ("/api/embeddings", r#"{"prompt": "#, "}"),
    ("/embed", r#"{"inputs": "#, "}"),
    ("/predict", r#"{"inputs": "#, "}"),
    ("/rerank", r#"{"query": "a", "documents": "#, "}"),
    ("/rerank", r#"{"query": "a", "texts": "#, "}"),
    ("/rerank", r#"{"query": "a", "documents": [{"content": "#, "}]}"),
    ("/score", r#"{"text_1": "a", "text_2": "#, "}"),
    ("/score", r#"{"text_1": "#, "}"),
    ("/score", r#"{"queries": "a", "documents": {"content": "#, "}}"),
    ("/similarity", r#"{"inputs": {"source_sentence": "a", "sentences": "#, "}}"),
    ("/tokenize", r#"{"inputs": "#, "}"),
    ("/v1/classify", r#"{"images": "#, "}"),
    ("/v1/classify", r#"{"image_embeddings": "#, "}"),
    ("/v1/classify", r#"{"image_embeddings": ["#, "]}"),
    ("/v1/classify", r#"{"images": [], "labels": ["a"], "templates": "#, "}"),
    ("/v1/classify", r#"{"images": [], "labels": "#, "}"),
    ("/v1/embed", r#"{"texts": "#, "}"),
    ("/v1/embeddings", r#"{"input": "#, "}"),
    ("/v1/embeddings", r#"{"messages": "#, "}"),
    ("/v1/embeddings", r#"{"messages": [{"role": "user", "content": "#, "}]}"),
    ("/v1/features", r#"{"images": "#, "}"),
    ("/v1/multimodalembeddings", r#"{"inputs": "#, "}"),
    ("/v1/multimodalembeddings", r#"{"inputs": [{"content": "#, "}]}"),
    ("/v1/rerank", r#"{"query": {"content": "#, "}}"),
    ("/v1/similarity", r#"{"images": "#, "}"),
    ("/v1/similarity", r#"{"texts": "#, "}"),
    ("/v1/similarity", r#"{"text_embeddings": "#, "}"),
    ("/v1/similarity", r#"{"texts": ["a"], "scores": "#, "}"),
    ("/v2/embed", r#"{"inputs": "#, "}"),
    ("/v2/embed", r#"{"inputs": [{"content": "#, "}]}"),
    ("/v2/embed", r#"{"images": "#, "}"),
    ("/v2/embed", r#"{"texts": ["a"], "embedding_types": "#, "}"),
    ("/v2/models/demo/infer", r#"{"inputs": "#, "}"),
    (
        "/v2/models/demo/infer",
        r#"{"inputs": [{"name": "TEXT", "shape": [1], "datatype": "BYTES", "data": "#,
        "}]}",
    ),
    ("/v2/models/demo/infer", r#"{"inputs": [{"name": "TEXT", "shape": "#, "}]}"),
    ("/v2/models/demo/infer", r#"{"outputs": "#, "}"),
    ("/vectorize", r#"{"images": "#, "}"),
];
/// Their elements.
const ELEMENTS: [&str; 9] = [
    "{}",
    "[]",
    "\"\"",
    "0",
    "[\"\",[]]",
    "{\"text\":\"\"}",
    "{\"type\":\"text\"}",
    "{\"content\":[]}",
    "{\"role\":\"user\",\"content\":\"\"}",
];

/// A server whose allocator returns freed memory at once.
fn start() -> Server {
    let args = ["--log-filter", "off", "--grpc-listen", "127.0.0.1:0"];
    Server::start_with(&args, &[("_RJEM_MALLOC_CONF", "dirty_decay_ms:0,muzzy_decay_ms:0")])
}

fn status_bytes(server: &Server, name: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).expect("a line");
    kib.parse::<usize>().expect("a number") << 10
}

/// By how much the server's peak memory grows during a request.
async fn taken(server: &Server, request: reqwest::RequestBuilder) -> usize {
    let clear = format!("/proc/{}/clear_refs", server.pid());
    // Reset the peak.
    fs::write(clear, "5").expect("its own user's");
    let before = status_bytes(server, "VmRSS");
    let answer = request.send().await.expect("answers");
    answer.bytes().await.expect("a body");
    status_bytes(server, "VmHWM").saturating_sub(before)
}

/// `None` if the memory is within what is counted, otherwise a message.
fn check(what: &str, taken: usize, body: usize, counted: usize) -> Option<String> {
    let most = BODIES * body + counted + SLACK_BYTES;
    (taken > most).then(|| format!("{what}: {taken} taken, {counted} counted, a body of {body}"))
}

#[tokio::test]
async fn json_takes_no_more_than_is_counted() {
    let (client, server) = (app::client(), start());
    let mut wrong = Vec::new();
    for (path, before, after) in LISTS {
        for element in ELEMENTS {
            let body = format!("{before}[{}{element}]{after}", format!("{element},").repeat(COUNT));
            let count = |mark| body.matches(mark).count();
            let parts = count('"') / 2 + count('[') + count('{');
            let counted = parts * PART_BYTES + count(',') * NUMBER_BYTES;
            let length = body.len();
            let request = client.post(format!("{}{path}", server.url)).body(body);
            let request = request.header(CONTENT_TYPE, "application/json");
            let taken = taken(&server, request).await;
            wrong.extend(check(&format!("{path} {before}{element}"), taken, length, counted));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every list of a message: the method, the fields around the list, the list's own, whether it is one of numbers.
const FIELDS: [(&str, &[u8], u8, bool); 22] = [
    ("siglip.v1.EmbeddingService/Embed", &[], 2, false),
    ("siglip.v1.EmbeddingService/Similarity", &[], 2, false),
    ("siglip.v1.EmbeddingService/Similarity", &[], 4, false),
    ("siglip.v1.EmbeddingService/Similarity", &[], 6, true),
    ("siglip.v1.EmbeddingService/Classify", &[], 2, false),
    ("siglip.v1.EmbeddingService/Classify", &[], 4, false),
    ("siglip.v1.EmbeddingService/Classify", &[], 5, false),
    ("siglip.v1.EmbeddingService/Features", &[], 2, false),
    ("siglip.v1.EmbeddingService/Features", &[], 8, false),
    ("siglip.v1.EmbeddingService/Caption", &[], 2, false),
    ("siglip.v1.EmbeddingService/CaptionStream", &[], 2, false),
    ("inference.GRPCInferenceService/ModelInfer", &[], 4, false),
    ("inference.GRPCInferenceService/ModelInfer", &[], 5, false),
    ("inference.GRPCInferenceService/ModelInfer", &[], 6, false),
    ("inference.GRPCInferenceService/ModelInfer", &[], 7, false),
    ("inference.GRPCInferenceService/ModelInfer", &[5], 3, true),
    ("inference.GRPCInferenceService/ModelInfer", &[5], 4, false),
    ("inference.GRPCInferenceService/ModelInfer", &[5, 5], 1, true),
    ("inference.GRPCInferenceService/ModelInfer", &[5, 5], 2, true),
    ("inference.GRPCInferenceService/ModelInfer", &[5, 5], 3, true),
    ("inference.GRPCInferenceService/ModelInfer", &[5, 5], 5, true),
    ("inference.GRPCInferenceService/ModelInfer", &[5, 5], 8, false),
];

/// A length-delimited field.
fn field(number: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = payload.len();
    while length > 127 {
        bytes.push((length & 127) as u8 | 128);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(payload);
    bytes
}

#[tokio::test]
async fn a_message_takes_no_more_than_is_counted() {
    // The client installs the cryptography provider.
    let (_, server) = (app::client(), start());
    let client = Client::builder().http2_prior_knowledge().build().expect("a client");
    let mut wrong = Vec::new();
    for (method, around, number, packed) in FIELDS {
        // An empty item, and one whose first field is empty.
        for payload in [&[][..], &[10, 0]] {
            let mut message = match packed {
                true => field(number, &vec![1; COUNT]),
                false => field(number, payload).repeat(COUNT),
            };
            for &number in around.iter().rev() {
                message = field(number, &message);
            }
            let counted = if packed { PACKED_BYTES } else { FIELD_BYTES } * COUNT;
            let length = u32::try_from(message.len()).expect("short").to_be_bytes();
            let body = [&[0], &length[..], &message].concat();
            let url = format!("{}/{method}", server.announced("gRPC").trim_end_matches('/'));
            let request = client.post(url).body(body);
            let grpc = HeaderValue::from_static("application/grpc");
            let taken =
                taken(&server, request.header(CONTENT_TYPE, grpc).header("te", "trailers")).await;
            let what = format!("{method} {around:?} {number} {payload:?}");
            wrong.extend(check(&what, taken, message.len(), counted));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Many simultaneous requests whose parsed values are a hundred times as large as their bodies. Half of the
/// clients disconnect.
#[tokio::test]
async fn many_at_once_take_no_more_than_the_budget() {
    let (client, server) = (app::client(), start());
    let body = format!("{{\"inputs\":[{}{{}}]}}", "{},".repeat(3 * COUNT));
    let clear = format!("/proc/{}/clear_refs", server.pid());
    fs::write(clear, "5").expect("its own user's");
    let before = status_bytes(&server, "VmRSS");
    let sent = (0..24).map(|number| {
        let request = client.post(format!("{}/v2/embed", server.url)).body(body.clone());
        let request = request.header(CONTENT_TYPE, "application/json");
        let timeout = if number % 2 == 0 { "20" } else { "60000" };
        async move { request.header("x-request-timeout-ms", timeout).send().await }
    });
    let mut refused = 0;
    for answer in futures::future::join_all(sent).await {
        let status = answer.expect("answers").status();
        assert!([400, 429, 504].contains(&status.as_u16()), "{status}");
        refused += usize::from(status == 429);
    }
    assert!(refused > 0);
    let taken = status_bytes(&server, "VmHWM") - before;
    // `limits.max_bytes_in_flight`, and the bodies of refused requests.
    assert!(taken < (256 << 20) + 25 * body.len() + SLACK_BYTES, "{taken}");
}

/// A body that never ends: a part of a row, and then nothing.
fn unfinished(piece: Bytes) -> Body {
    let pieces = futures::stream::iter([Ok::<_, std::io::Error>(piece)]);
    Body::wrap_stream(pieces.chain(futures::stream::pending()))
}

/// Rows of bulk streams that are never finished.
#[tokio::test]
async fn unfinished_rows_take_no_more_than_the_room_of_bulk_streams() {
    let (_, server) = (app::client(), start());
    fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").expect("its own user's");
    let before = status_bytes(&server, "VmRSS");
    let line = Bytes::from(format!("{{\"text\": \"{}", "a".repeat(24 << 20)));
    let length = u32::try_from(60 << 20).expect("short").to_be_bytes();
    let message = Bytes::from([&[0], &length[..], &line].concat());
    let grpc = server.announced("gRPC").trim_end_matches('/');
    let mut streams = tokio::task::JoinSet::new();
    for number in 0..40 {
        // A separate connection.
        let client = Client::builder().http2_prior_knowledge().build().expect("a client");
        let request = match number % 2 {
            0 => client
                .post(format!("{}/v1/bulk/embeddings", server.url))
                .header(CONTENT_TYPE, "application/x-ndjson")
                .body(unfinished(line.clone())),
            _ => client
                .post(format!("{grpc}/siglip.v1.EmbeddingService/EmbedStream"))
                .header(CONTENT_TYPE, "application/grpc")
                .header("te", "trailers")
                .body(unfinished(message.clone())),
        };
        streams.spawn(request.send());
    }
    // Only as many streams as allowed are accepted. The others are refused at once.
    let mut refused = 0;
    while refused < 24 {
        let answer = streams.join_next().await.expect("a stream").expect("joins").expect("answers");
        refused +=
            usize::from(answer.status() == 429 || answer.headers().contains_key("grpc-status"));
    }
    // The server does not read from streams that wait for room, so its memory stops growing.
    let mut rests = (0, 0);
    until("the memory stops growing", async || {
        let now = status_bytes(&server, "VmRSS");
        rests = (now, if now == rests.0 { rests.1 + 1 } else { 0 });
        rests.1 == 50
    })
    .await;
    let taken = status_bytes(&server, "VmHWM") - before;
    // `limits.max_bulk_bytes`, the bytes that each stream may have without waiting, and the connections'
    // buffers.
    assert!(taken < (128 << 20) + 16 * (2 << 20) + SLACK_BYTES, "{taken}");
}
