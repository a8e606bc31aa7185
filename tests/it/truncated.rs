//! Texts that are longer than the model reads are truncated, and every response says which.

use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use siglip_server::grpc::proto::{
    self, embed_stream_request::Message, embedding_service_client::EmbeddingServiceClient,
    input::Content,
};

use crate::{
    app::client,
    process::{Server, run, stderr, stdout},
};

const HEADER: &str = "x-siglip-truncated-texts";

fn long() -> String {
    "a cat and a dog ".repeat(50)
}

async fn ok(request: RequestBuilder) -> Response {
    let response = request.send().await.expect("answers");
    assert!(response.status().is_success(), "{}", response.text().await.expect("text"));
    response
}

fn header(response: &Response) -> Option<&str> {
    response.headers().get(HEADER).map(|value| value.to_str().expect("text"))
}

#[tokio::test]
async fn every_route_says_which_texts_were_cut() {
    let server = Server::start(&[]);
    let post = |path: &str| client().post(format!("{}{path}", server.url));
    let inputs = json!(["a cat", long(), "a dog", long()]);

    let response = ok(post("/v1/embeddings").json(&json!({"input": inputs}))).await;
    assert_eq!(header(&response), Some("2"));
    let body: Value = response.json().await.expect("JSON");
    let flags: Vec<_> = (0..4).map(|at| body["data"][at].get("truncated").cloned()).collect();
    assert_eq!(flags, [None, Some(json!(true)), None, Some(json!(true))]);
    assert_eq!(body["usage"]["truncated_texts"], 2);

    // If nothing was truncated, the response is unchanged.
    let response = ok(post("/v1/embeddings").json(&json!({"input": ["a cat"]}))).await;
    assert_eq!(header(&response), None);
    let body: Value = response.json().await.expect("JSON");
    assert!(body["usage"].get("truncated_texts").is_none(), "{body}");

    let form = json!({"input": inputs});
    for accept in ["application/x-npy", "application/vnd.safetensors"] {
        let response = ok(post("/v1/embeddings").header("accept", accept).json(&form)).await;
        assert_eq!(header(&response), Some("2"), "{accept}");
        let bytes = response.bytes().await.expect("a body");
        if accept.ends_with("safetensors") {
            let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).expect("valid");
            assert_eq!(metadata.metadata().as_ref().expect("metadata")["truncated"], "1,3");
        }
    }

    // Routes of other servers have their own formats, so a header has the number.
    for (path, body) in [
        ("/embed", json!({"inputs": inputs})),
        ("/v1/similarity", json!({"images": [image()], "texts": inputs})),
        (
            "/v1/classify",
            json!({"images": [image()], "labels": ["a cat", long(), "b", format!("{} c", long())]}),
        ),
        (
            "/v2/embed",
            json!({"texts": inputs, "model": "demo", "input_type": "search_document", "embedding_types": ["float"]}),
        ),
    ] {
        assert_eq!(header(&ok(post(path).json(&body)).await), Some("2"), "{path}");
    }

    let rows: String =
        [json!({"text": "a cat"}), json!({"text": long()})].map(|row| format!("{row}\n")).concat();
    let bulk =
        post("/v1/bulk/embeddings").header("content-type", "application/x-ndjson").body(rows);
    let lines = ok(bulk).await.text().await.expect("text");
    let lines: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines[0].get("truncated").is_none() && lines[1]["truncated"] == true, "{lines:?}");
    assert_eq!(lines[2]["usage"]["truncated_texts"], 1);

    // The texts of this test, whether one was in the cache or not.
    let metrics = client().get(format!("{}/metrics", server.url));
    let metrics = ok(metrics).await.text().await.expect("text");
    assert!(metrics.contains("\nsiglip_truncated_texts_total 15\n"), "{metrics}");
}

/// An image in base64.
fn image() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images/cat.png");
    base64_simd::STANDARD.encode_to_string(std::fs::read(path).expect("a sample image"))
}

#[tokio::test]
async fn so_do_calls() {
    let server = Server::start(&["--grpc-listen", "127.0.0.1:0"]);
    let channel = tonic::transport::Endpoint::from_shared(server.announced("gRPC").to_owned());
    let mut client = EmbeddingServiceClient::new(channel.expect("a URI").connect_lazy());
    let input = |text: String| proto::Input { content: Some(Content::Text(text)) };
    let inputs = ["a cat".to_owned(), long(), "a dog".to_owned(), long()];
    let request =
        proto::EmbedRequest { input: inputs.clone().map(input).to_vec(), ..Default::default() };
    let response = client.embed(request).await.expect("answers").into_inner();
    assert_eq!(response.truncated, [1, 3]);
    assert_eq!(response.usage.expect("usage").truncated_texts, 2);
    let rows = inputs.map(|text| {
        let row = proto::EmbedStreamRow { id: String::new(), input: Some(input(text)) };
        proto::EmbedStreamRequest { message: Some(Message::Row(row)) }
    });
    let mut stream =
        client.embed_stream(futures::stream::iter(rows)).await.expect("a stream").into_inner();
    let mut flags = Vec::new();
    while let Some(row) = stream.message().await.expect("answers") {
        flags.push(row.truncated);
    }
    assert_eq!(flags, [false, true, false, true]);
}

#[test]
fn so_do_commands() {
    let output = run(&["embed", "--text", "a cat", "--text", &long()]);
    let lines: Vec<Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines[0].get("truncated").is_none() && lines[1]["truncated"] == true);
    let image = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images/cat.png");
    let output = run(&["score", image, "--text", &long()]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        stderr(&output).contains("longer than the model reads, and was cut"),
        "{}",
        stderr(&output)
    );
}
