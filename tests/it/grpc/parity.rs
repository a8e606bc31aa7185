//! REST and gRPC of one server, with the embedded checkpoint, give the same numbers.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use siglip_server::{
    app::{App, AppHandle},
    config::Config,
    grpc::{
        oip_proto::{
            self as oip, grpc_inference_service_client::GrpcInferenceServiceClient as OipClient,
        },
        proto,
    },
};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

const TEXTS: [&str; 3] = ["a cat", "a red car", "고양이"];

type Client = proto::embedding_service_client::EmbeddingServiceClient<Channel>;

/// The whole server on free ports.
struct Server {
    handle: AppHandle,
    task: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let mut config = Config::default();
        config.listen.http.set_port(0);
        config.listen.grpc = Some("127.0.0.1:0".parse().expect("an address"));
        let app = App::bind(config).await.expect("free ports");
        let handle = app.handle();
        let task = tokio::spawn(async move { app.serve().await.expect("serves and drains") });
        handle.ready().await;
        Self { handle, task }
    }

    async fn client(&self) -> Client {
        let address = self.handle.grpc_addr().expect("gRPC is served");
        Client::connect(format!("http://{address}")).await.expect("connects")
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let url = format!("http://{}{path}", self.handle.http_addr());
        let answer = crate::app::client().post(url).json(body).send().await.expect("answers");
        answer.error_for_status().expect("succeeds").json().await.expect("JSON")
    }

    /// The message of an error response in any of the error formats.
    async fn refusal(&self, path: &str, content_type: &str, body: Vec<u8>) -> String {
        let url = format!("http://{}{path}", self.handle.http_addr());
        let request = crate::app::client().post(url).header("content-type", content_type);
        let text = request.body(body).send().await.expect("answers").text().await.expect("text");
        // A bulk response has a line for each row.
        let first = text.lines().next().filter(|line| line.ends_with('}')).unwrap_or(&text);
        let answer: Value = serde_json::from_str(first).expect(&text);
        let error = &answer["error"];
        [&error["message"], error, &answer["detail"]]
            .into_iter()
            .find_map(Value::as_str)
            .unwrap_or_else(|| panic!("no message in {text}"))
            .to_owned()
    }

    async fn stop(self) {
        self.handle.stop();
        self.task.await.expect("drains");
    }
}

fn picture(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images");
    std::fs::read(format!("{folder}/{name}")).expect(name)
}

fn image(bytes: &[u8]) -> proto::Image {
    proto::Image { source: Some(proto::image::Source::Encoded(bytes.to_vec().into())) }
}

fn floats(values: &Value) -> Vec<f32> {
    let values = values.as_array().expect("an array");
    values.iter().map(|value| value.as_f64().expect("a number") as f32).collect()
}

/// The batches of two calls may differ, and then the last bits differ.
fn assert_close(ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len());
    let apart = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart < 1e-5, "{apart}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embeddings_and_scores_equal_those_of_the_rest_surface() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (cat, car) = (picture("cat.png"), picture("car.png"));
    let base64 = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);

    let content = [
        proto::input::Content::Text(TEXTS[0].to_owned()),
        proto::input::Content::Image(image(&cat)),
        proto::input::Content::Text(TEXTS[2].to_owned()),
    ];
    let input = content.map(|content| proto::Input { content: Some(content) }).to_vec();
    let request = proto::EmbedRequest { input, ..Default::default() };
    let answer = client.embed(request).await.expect("embeds").into_inner();
    let items = json!([{"text": TEXTS[0]}, {"image": base64(&cat)}, {"text": TEXTS[2]}]);
    let rest = server.post("/v1/embeddings", &json!({"input": items})).await;
    let ours = answer.embeddings.expect("embeddings");
    assert_eq!((ours.rows, answer.model.as_str()), (3, rest["model"].as_str().expect("a name")));
    for (row, item) in ours.values.chunks_exact(ours.columns as usize).zip(0..) {
        assert_close(row, &floats(&rest["data"][item]["embedding"]));
        let norm: f32 = row.iter().map(|value| value * value).sum();
        assert!((norm - 1.0).abs() < 1e-5, "{norm}");
    }
    let usage = answer.usage.expect("usage");
    assert_eq!(usage.images, 1);
    assert_eq!(json!(usage.text_tokens), rest["usage"]["prompt_tokens"]);

    let request = proto::SimilarityRequest {
        images: vec![image(&cat), image(&car)],
        texts: TEXTS.map(str::to_owned).to_vec(),
        ..Default::default()
    };
    let answer = client.similarity(request).await.expect("scores").into_inner();
    let body = json!({"images": [base64(&cat), base64(&car)], "texts": TEXTS});
    let rest = server.post("/v1/similarity", &body).await;
    for (ours, name) in [(answer.cosine, "cosine"), (answer.probability, "probability")] {
        let ours = ours.expect(name);
        assert_eq!((ours.rows, ours.columns), (2, 3));
        for (row, item) in ours.values.chunks_exact(3).zip(0..) {
            assert_close(row, &floats(&rest[name][item]));
        }
    }

    let request = proto::ClassifyRequest {
        images: vec![image(&cat), image(&car)],
        labels: TEXTS.map(str::to_owned).to_vec(),
        templates: vec!["a photo of {label}".to_owned(), "{label}".to_owned()],
        top_k: Some(2),
        min_probability: Some(1e-7),
        ..Default::default()
    };
    let answer = client.classify(request).await.expect("labels").into_inner();
    let body = json!({
        "images": [base64(&cat), base64(&car)], "labels": TEXTS, "top_k": 2,
        "min_probability": 1e-7,
        "templates": ["a photo of {label}", "{label}"],
    });
    let rest = server.post("/v1/classify", &body).await;
    for (ours, item) in answer.images.iter().zip(0..) {
        let theirs = rest["results"][item].as_array().expect("labels");
        assert_eq!((ours.scores.len(), theirs.len()), (2, 2));
        for (ours, theirs) in ours.scores.iter().zip(theirs) {
            assert_eq!(json!(ours.label), theirs["index"]);
            let probability = theirs["probability"].as_f64().expect("a number") as f32;
            assert_close(&[ours.probability], &[probability]);
        }
    }
    drop(client);
    server.stop().await;
}

/// The same bytes are refused with the same message on every route.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_surface_names_what_came() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let channel = format!("http://{}", server.handle.grpc_addr().expect("gRPC is served"));
    let mut inference = OipClient::connect(channel).await.expect("connects");
    let png = picture("cat.png");
    for (bytes, words) in [
        (&b"8BPS\0\x01\0\0\0\0\0\0\0\x03"[..], "this is a Photoshop document (PSD), "),
        (b"<!DOCTYPE html><html>", "this is an HTML page, "),
        (b"version https://git-lfs.github.com/spec/v1\n", "this is a Git LFS pointer, "),
        (&png[..png.len() / 2], "the image cannot be decoded: the PNG data ends early"),
    ] {
        let text = BASE64_STANDARD.encode(bytes);
        let json = |value: Value| value.to_string().into_bytes();
        let form = [
            &b"--x\r\ncontent-disposition: form-data; name=image; filename=a\r\n\r\n"[..],
            bytes,
            b"\r\n--x--\r\n",
        ];
        let tensor = json!({"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [text]});
        let mut said = Vec::new();
        for (path, content_type, body) in [
            ("/v1/embeddings", "application/json", json(json!({"input": [{"image": text}]}))),
            ("/v1/embeddings", "image/png", bytes.to_vec()),
            ("/v1/embeddings", "multipart/form-data; boundary=x", form.concat()),
            ("/v1/bulk/embeddings", "application/x-ndjson", json(json!({"image": text}))),
            ("/v2/models/demo/infer", "application/json", json(json!({"inputs": [tensor]}))),
        ] {
            let message = server.refusal(path, content_type, body).await;
            said.push(message.trim_start_matches("IMAGE[0]: ").to_owned());
        }
        let content = Some(proto::input::Content::Image(image(bytes)));
        let input = vec![proto::Input { content }];
        let status = client.embed(proto::EmbedRequest { input, ..Default::default() }).await;
        said.push(status.expect_err("refused").message().to_owned());
        let contents = oip::InferTensorContents {
            bytes_contents: vec![bytes.to_vec().into()],
            ..Default::default()
        };
        let tensor = oip::model_infer_request::InferInputTensor {
            name: "IMAGE".to_owned(),
            datatype: "BYTES".to_owned(),
            shape: vec![1],
            contents: Some(contents),
            ..Default::default()
        };
        let request = oip::ModelInferRequest {
            model_name: "demo".to_owned(),
            inputs: vec![tensor],
            ..Default::default()
        };
        let status = inference.model_infer(request).await.expect_err("refused");
        said.push(status.message().trim_start_matches("IMAGE[0]: ").to_owned());
        assert!(said[0].starts_with(words), "{}", said[0]);
        for message in &said {
            assert_eq!(message, &said[0]);
        }
    }
    drop((client, inference));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_picture_that_is_none_fails_by_name_and_the_next_call_is_answered() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let embed = |bytes: &[u8]| {
        let content = Some(proto::input::Content::Image(image(bytes)));
        proto::EmbedRequest { input: vec![proto::Input { content }], ..Default::default() }
    };
    let status = client.embed(embed(b"no picture")).await.expect_err("undecodable");
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert_eq!(status.metadata().get("siglip-code").expect("a code"), "undecodable_image");
    assert_eq!(status.metadata().get("siglip-field").expect("a field"), "input[0]");
    client.embed(embed(&picture("cat.png"))).await.expect("a picture");
    drop(client);
    server.stop().await;
}
