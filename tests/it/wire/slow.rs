//! Clients that are slow at each possible point.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use super::{EMBED, PATIENCE, Server, post, read_to_end};
use crate::waiting::until;

const SIMILARITY: &str = "/v1/similarity";
const SHORT: Duration = Duration::from_millis(400);

#[tokio::test]
async fn a_head_that_does_not_end_is_not_waited_for() {
    let server = Server::start(|config| config.listen.idle_timeout = SHORT).await;
    let mut stream = server.connect().await;
    let (mut reads, mut writes) = stream.split();
    let drips = async {
        let mut sent = writes.write_all(b"POST /v1/embeddings HTTP/1.1\r\nx: ").await;
        while sent.is_ok() {
            tokio::time::sleep(SHORT / 8).await;
            sent = writes.write_all(b"a").await;
        }
    };
    let closed = async {
        let mut bytes = Vec::new();
        // Closed normally or with a reset.
        let _ = reads.read_to_end(&mut bytes).await;
    };
    let gone = async {
        tokio::select! {
            () = drips => {}
            () = closed => {}
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("closed");
    server.still_well().await;
    server.end().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_answered_at_the_deadline() {
    let server = Server::start(|config| config.limits.request_timeout = SHORT).await;
    for (head, part) in [
        (
            format!(
                "POST {EMBED} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n"
            ),
            "{\"input\"",
        ),
        (
            format!(
                "POST {EMBED} HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=X\r\ncontent-length: 99\r\n\r\n"
            ),
            "--X\r\n",
        ),
        (
            format!(
                "POST {EMBED} HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\ntransfer-encoding: chunked\r\n\r\n"
            ),
            "5\r\nab",
        ),
    ] {
        let mut stream = server.connect().await;
        stream.write_all(format!("{head}{part}").as_bytes()).await.expect("taken");
        // The connection is closed soon after, because the rest of the request does not arrive.
        let answer = read_to_end(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
        assert!(answer.contains("deadline_exceeded"), "{answer}");
    }
    server.end().await;
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up() {
    let server = Server::start(|config| config.listen.write_timeout = SHORT).await;
    // A response of about 30 MB: more than the system ever buffers.
    let rows = vec![vec![1; 192]; 1000];
    let body = serde_json::json!({"image_embeddings": rows, "text_embeddings": rows}).to_string();
    let request = post(SIMILARITY, "", body.as_bytes());

    // The smallest possible system buffers.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(1024).expect("a small buffer");
    let mut stream = socket.connect(server.address).await.expect("connects");
    let metrics = server.handle.engine().metrics();
    let closed = || metrics.requests.with_label_values(&[SIMILARITY, "client_closed"]).get();
    stream.write_all(&request).await.expect("taken");
    until("the response is given up, and counted", async || closed() > 0).await;
    let part = read_to_end(&mut stream).await;
    assert!(part.starts_with("HTTP/1.1 200 "), "{}", &part[..part.len().min(200)]);
    assert!(!part.contains("usage"), "the whole answer, of {} bytes", part.len());
    server.still_well().await;
    server.end().await;
}
