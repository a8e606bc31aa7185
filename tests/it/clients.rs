//! Clients that send or read slowly.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{app::client, process::Server, waiting::until};

/// Far longer than any of the timeouts below, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn connect(server: &Server) -> TcpStream {
    let address = server.url.trim_start_matches("http://");
    TcpStream::connect(address).await.expect("connects")
}

/// Reads until the server closes the connection.
async fn until_closed(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // A reset also counts as closing.
    drop(read.expect("the server closes"));
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_head_that_never_ends_is_given_up() {
    let server = Server::start(&["--listen-idle-timeout", "300ms"]);
    let mut stream = connect(&server).await;
    stream.write_all(b"GET /info HTTP/1.1\r\nhost: localhost\r\nx-slow: ").await.expect("written");
    let answer = until_closed(stream).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn a_body_that_never_ends_is_answered_at_the_deadline() {
    let server = Server::start(&["--listen-idle-timeout", "2s"]);
    let mut stream = connect(&server).await;
    let head = "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
        x-request-timeout-ms: 200\r\ncontent-length: 1000\r\n\r\n{\"input\": ";
    stream.write_all(head.as_bytes()).await.expect("written");
    let answer = until_closed(stream).await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert!(answer.contains("deadline_exceeded"), "{answer}");
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up() {
    let server = Server::start(&["--listen-write-timeout", "500ms"]);
    // 9 million scores: far more than the buffers of both sides hold.
    let rows: Vec<_> = (0..3000).map(|row| vec![f64::from(row + 1); 8]).collect();
    let dimension = {
        let info = client().get(format!("{}/info", server.url)).send().await.expect("answers");
        let info: serde_json::Value = info.json().await.expect("JSON");
        usize::try_from(info["models"][0]["dimension"].as_u64().expect("a number")).expect("fits")
    };
    let rows: Vec<Vec<f64>> =
        rows.into_iter().map(|row| row.into_iter().cycle().take(dimension).collect()).collect();
    let body = json!({"image_embeddings": rows, "text_embeddings": rows}).to_string();
    let mut stream = connect(&server).await;
    let head = format!(
        "POST /v1/similarity HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    stream.write_all(body.as_bytes()).await.expect("written");

    let series = "siglip_requests_total{code=\"client_closed\",route=\"/v1/similarity\"} 1";
    let client = client();
    until("the response that nobody reads is given up", async || {
        let metrics = client.get(format!("{}/metrics", server.url)).send().await.expect("answers");
        metrics.text().await.expect("text").contains(series)
    })
    .await;
}
