//! Several models in one process.

use reqwest::StatusCode;
use serde_json::{Value, json};
use siglip_server::grpc::proto::{
    EmbedRequest, Input, embedding_service_client::EmbeddingServiceClient, input::Content,
};

use crate::{
    app::client,
    process::{Server, run, stderr, stdout},
};

const TINY: &str = concat!("small=", env!("CARGO_MANIFEST_DIR"), "/tests/golden/tiny");
/// The same checkpoint with rounded weights.
const HALF: &str =
    concat!("half=", env!("CARGO_MANIFEST_DIR"), "/tests/golden/tiny,dtype=bf16,threads=1");

async fn post(server: &Server, path: &str, body: Value) -> (StatusCode, Value) {
    let request = client().post(format!("{}{path}", server.url)).json(&body);
    let answer = request.send().await.expect("answers");
    (answer.status(), answer.json().await.expect("JSON"))
}

async fn get(server: &Server, path: &str) -> String {
    let answer = client().get(format!("{}{path}", server.url)).send().await.expect("answers");
    answer.text().await.expect("text")
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[tokio::test]
async fn the_request_chooses_the_model() {
    let server = Server::start(&[
        "--model",
        "demo",
        "--model",
        TINY,
        "--model",
        HALF,
        "--model-alias",
        "openai/clip=demo",
    ]);
    let lines = server.announcement.lines().filter(|line| line.starts_with("model "));
    assert_eq!(lines.count(), 3, "{}", server.announcement);

    let mut rows = Vec::new();
    for (asked, answered) in [
        (None, "demo"),
        (Some("demo"), "demo"),
        (Some("openai/clip"), "demo"),
        (Some("small"), "small"),
        (Some("half"), "half"),
    ] {
        let mut body = json!({"input": "a cat"});
        if let Some(model) = asked {
            body["model"] = json!(model);
        }
        let (status, answer) = post(&server, "/v1/embeddings", body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["model"], answered);
        rows.push(answer["data"][0]["embedding"].clone());
    }
    assert!(rows[0] == rows[1] && rows[0] == rows[2]);
    // Neither towers nor cached rows are mixed up, even for one checkpoint in two types.
    assert_ne!(rows[0], rows[3]);
    assert_ne!(rows[3], rows[4]);

    let (status, problem) =
        post(&server, "/v1/classify", json!({"model": "clip", "images": ["AA"], "labels": ["a"]}))
            .await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("model_not_found")));
    let detail = problem["detail"].as_str().expect("text");
    assert!(detail.ends_with("it serves: demo, small, half, openai/clip"), "{detail}");

    let list = json_of(&get(&server, "/v1/models").await);
    let ids: Vec<_> = list["data"].as_array().expect("models").iter().map(|m| &m["id"]).collect();
    assert_eq!(ids, ["demo", "small", "half", "openai/clip"]);
    let alias = json_of(&get(&server, "/v1/models/openai%2Fclip").await);
    assert_eq!(alias["id"], "openai/clip");
    let info = json_of(&get(&server, "/info").await);
    assert_eq!(info["models"][0]["aliases"], json!(["openai/clip"]));
    assert_eq!(info["models"][2]["dtype"], "bf16");
    assert_eq!(info["models"][2]["revision"], info["models"][1]["revision"]);

    let metrics = get(&server, "/metrics").await;
    for (model, rows) in [("demo", 1), ("small", 1), ("half", 1)] {
        // One more each from the warm-up. The repeated text came from the cache.
        let series =
            format!("siglip_batch_rows_count{{model=\"{model}\",tower=\"text\"}} {}", rows + 1);
        assert!(metrics.contains(&series), "{series}\n{metrics}");
        let ready = format!("siglip_worker_state{{model=\"{model}\",state=\"running\"}} 1");
        assert!(metrics.contains(&ready), "{ready}\n{metrics}");
    }

    server.signal("TERM");
    let (status, log) = tokio::task::spawn_blocking(|| server.wait()).await.expect("waits");
    assert_eq!(status.code(), Some(0), "{log}");
}

#[tokio::test]
async fn models_that_are_busy_at_once_share_their_threads() {
    let server = Server::start(&[
        "--model",
        "demo",
        "--model",
        TINY,
        "--threads",
        "2",
        "--grpc-listen",
        "127.0.0.1:0",
    ]);
    let grpc = server.announcement.lines().find_map(|line| line.strip_prefix("gRPC"));
    let address = grpc.expect("an address").trim().to_owned();
    let channel = tonic::transport::Endpoint::from_shared(address).expect("a URI").connect_lazy();
    let embed = |model: &str, count: usize| {
        let input = (0..count).map(|index| {
            let content = Some(Content::Text(format!("text number {index}")));
            Input { content }
        });
        let request =
            EmbedRequest { model: model.to_owned(), input: input.collect(), ..Default::default() };
        let mut client = EmbeddingServiceClient::new(channel.clone());
        async move { client.embed(request).await.expect("answers").into_inner() }
    };
    let together = tokio::join!(embed("demo", 200), embed("small", 200));
    for (answer, model) in [(together.0, "demo"), (together.1, "small")] {
        assert_eq!(answer.model, model);
        assert_eq!(answer.embeddings.expect("embeddings").rows, 200);
    }
    let text = get(&server, "/metrics").await;
    for model in ["demo", "small"] {
        let series =
            format!("siglip_queue_rows{{model=\"{model}\",priority=\"bulk\",tower=\"text\"}} 0");
        assert!(text.contains(&series), "{series}\n{text}");
    }
}

#[test]
fn a_model_that_fails_to_load_fails_the_start_by_name() {
    let output = run(&["--listen", "127.0.0.1:0", "--model", "demo", "--model", "b=/nowhere"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot load the model `/nowhere`"), "{}", stderr(&output));
}

#[test]
fn the_list_is_printed_with_its_origin_and_checked() {
    let text = stdout(&run(&["config", "--model", "demo", "--model", TINY]));
    assert!(text.contains(&format!("source = \"demo;{TINY}\"")), "{text}");
    assert!(text.contains("# from flag --model"), "{text}");
    let output = run(&["config", "--model", "demo", "--model", "demo"]);
    assert_eq!(output.status.code(), Some(2));
    let expected = "model.source (demo;demo, flag --model): two models are called `demo`";
    assert!(stderr(&output).contains(expected), "{}", stderr(&output));
}

#[test]
fn commands_without_a_server_use_the_first_model() {
    let output = run(&["embed", "--text", "a cat", "--model", TINY, "--model", "b=/nowhere"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("\"embedding\""));
}
