//! Transports: cleartext HTTP/2, a Unix socket, compressed responses.

use std::{io::Read as _, path::PathBuf};

use reqwest::{Client, StatusCode, Version};
use serde_json::{Value, json};
use siglip_server::{
    app::{App, AppError, AppHandle},
    config::Config,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::app::TestApp;

/// The whole server, with a Unix socket in a temporary folder.
struct Server {
    handle: AppHandle,
    task: JoinHandle<()>,
    folder: TempDir,
}

fn config(folder: &TempDir) -> Config {
    let mut config = Config::default();
    config.listen.http.set_port(0);
    config.listen.unix = Some(folder.path().join("siglip.sock"));
    config
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let app = App::bind(config(&folder)).await.expect("a free port and an empty folder");
        let handle = app.handle();
        let task = tokio::spawn(async move { app.serve().await.expect("serves and drains") });
        handle.ready().await;
        Self { handle, task, folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("siglip.sock")
    }
}

async fn embed(client: &Client, host: &str) -> Value {
    let request = client.post(format!("http://{host}/v1/embeddings"));
    let response = request.json(&json!({"input": "a cat"})).send().await.expect("answers");
    assert_eq!(response.status(), StatusCode::OK);
    response.json().await.expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_without_tls_and_a_unix_socket_give_the_same_answers() {
    let server = Server::start().await;
    let host = server.handle.http_addr().to_string();
    let plain = embed(&Client::new(), &host).await;

    let h2 = Client::builder().http2_prior_knowledge().build().expect("a client");
    let live = h2.get(format!("http://{host}/health/live")).send().await.expect("answers");
    assert_eq!(live.version(), Version::HTTP_2);
    // Several at once on one connection.
    let both = futures::future::join(embed(&h2, &host), embed(&h2, &host)).await;
    assert_eq!((&both.0["data"], &both.1["data"]), (&plain["data"], &plain["data"]));

    for client in [Client::builder(), Client::builder().http2_prior_knowledge()] {
        let client = client.unix_socket(server.socket()).build().expect("a client");
        assert_eq!(embed(&client, "localhost").await["data"], plain["data"]);
    }
    drop(h2);
    server.handle.stop();
    server.task.await.expect("drains");
    assert_eq!(std::fs::read_dir(server.folder.path()).expect("a folder").count(), 0);
}

#[tokio::test]
async fn a_socket_in_use_is_not_taken_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = App::bind(config(&folder)).await.expect("an empty folder");
    let second = App::bind(config(&folder)).await.err().expect("the first one listens");
    assert!(matches!(second, AppError::BindSocket { .. }), "{second}");
    drop(first);
    App::bind(config(&folder)).await.expect("the first one is gone");
}

#[tokio::test]
async fn answers_are_compressed_where_that_is_asked_for_and_worth_it() {
    let app = TestApp::start().await;
    let texts: Vec<_> = (0..200).map(|number| format!("red {number}")).collect();
    let ask = |encoding: &'static str, accept: &'static str| {
        let request = app.request("POST", "/v1/embeddings").header("accept-encoding", encoding);
        request.header("accept", accept).json(&json!({"input": texts}))
    };
    let plain = ask("identity", "*/*").send().await.expect("answers");
    assert!(!plain.headers().contains_key("content-encoding"));
    let plain = plain.bytes().await.expect("a body");
    for encoding in ["gzip", "br"] {
        let response = ask(encoding, "*/*").send().await.expect("answers");
        assert_eq!(response.headers()["content-encoding"], encoding);
        assert!(response.headers().contains_key("server-timing"));
        assert!(response.headers().contains_key("x-request-id"));
        assert_eq!(response.headers()["content-type"], "application/json");
        let body = response.bytes().await.expect("a body");
        assert!(body.len() * 2 < plain.len(), "{encoding}: {} of {}", body.len(), plain.len());
        if encoding == "gzip" {
            let mut text = Vec::new();
            flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut text).expect("gzip");
            assert_eq!(text, plain);
        }
    }
    let numbers = ask("gzip", "application/x-npy").send().await.expect("answers");
    assert!(!numbers.headers().contains_key("content-encoding"));
    let small = app.request("GET", "/health/live").header("accept-encoding", "gzip");
    assert!(!small.send().await.expect("answers").headers().contains_key("content-encoding"));
    let metrics = app.request("GET", "/metrics").header("accept-encoding", "gzip");
    assert_eq!(metrics.send().await.expect("answers").headers()["content-encoding"], "gzip");
}
