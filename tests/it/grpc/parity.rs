//! Both surfaces of one server, on the embedded checkpoint, give the same numbers.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use siglip_server::{
    app::{App, AppHandle},
    config::Config,
    grpc::proto,
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

/// Batches may differ between two calls, and with them the last bits.
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
        ..Default::default()
    };
    let answer = client.classify(request).await.expect("labels").into_inner();
    let body = json!({
        "images": [base64(&cat), base64(&car)], "labels": TEXTS, "top_k": 2,
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
