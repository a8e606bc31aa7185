//! Requests that get a response before their body has arrived.

use tokio::io::AsyncWriteExt;

use super::{EMBED, PATIENCE, Server, post, read_to_end, read_until};

const MIB: usize = 1 << 20;

/// A chunked body of this many megabytes, with or without its end.
fn chunked(path: &str, megabytes: usize, end: &str) -> Vec<u8> {
    let mut bytes = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    let chunk = [&b"100000\r\n"[..], &vec![b'['; MIB], b"\r\n"].concat();
    (0..megabytes).for_each(|_| bytes.extend_from_slice(&chunk));
    bytes.extend_from_slice(end.as_bytes());
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_all_of_it_first_reads_the_refusal() {
    let server = Server::start(|config| config.limits.max_body_bytes = 4 * MIB).await;
    let large = vec![b'a'; 100 * MIB];
    // Much more than the buffers on both sides hold.
    let some = &large[..32 * MIB];
    let close = "connection: close\r\n";
    for (request, status, code) in [
        (post(EMBED, close, &large), 413, "payload_too_large"),
        (chunked(EMBED, 32, "0\r\n\r\n"), 413, "payload_too_large"),
        (post("/nowhere", close, some), 404, "not_found"),
        (post("/info", close, some), 405, "method_not_allowed"),
        (post("/v1/bulk/embeddings", close, some), 415, "unsupported_media_type"),
    ] {
        let mut stream = server.connect().await;
        stream.write_all(&request).await.expect("all of it is taken");
        let answer = read_until(&mut stream, code).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    server.still_well().await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_of_use_after_a_refusal() {
    let server = Server::start(|config| config.limits.max_body_bytes = 4 * MIB).await;
    let mut stream = server.connect().await;
    stream.write_all(&post(EMBED, "", &vec![b'a'; 16 * MIB])).await.expect("taken");
    let refused = read_until(&mut stream, "payload_too_large").await;
    assert!(refused.starts_with("HTTP/1.1 413 "), "{refused}");
    let body = br#"{"input": "a cat"}"#;
    stream.write_all(&post(EMBED, "connection: close\r\n", body)).await.expect("taken");
    let answer = read_to_end(&mut stream).await;
    assert!(answer.contains("HTTP/1.1 200 "), "{answer}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_without_an_end_is_broken_off() {
    let server = Server::start(|config| config.limits.max_body_bytes = 4 * MIB).await;
    let mut stream = server.connect().await;
    stream.write_all(&chunked(EMBED, 1, "")).await.expect("taken");
    let chunk = [&b"100000\r\n"[..], &vec![b'['; MIB], b"\r\n"].concat();
    let endless = async { while stream.write_all(&chunk).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, endless).await.expect("the server closes");
    // A client that stops sending in the middle does not delay the shutdown.
    let mut silent = server.connect().await;
    silent.write_all(&chunked("/nowhere", 1, "")).await.expect("taken");
    read_until(&mut silent, "not_found").await;
    server.still_well().await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_first_need_not_send_what_is_refused() {
    let server = Server::start(|_| ()).await;
    let head = |length: usize| {
        format!(
            "POST {EMBED} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let refused = server.exchange(head(100 * MIB).as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 413 "), "{refused}");

    let body = br#"{"input": "a cat"}"#;
    let mut stream = server.connect().await;
    stream.write_all(head(body.len()).as_bytes()).await.expect("taken");
    let asked = read_until(&mut stream, "\r\n\r\n").await;
    assert!(asked.starts_with("HTTP/1.1 100 "), "{asked}");
    stream.write_all(body).await.expect("taken");
    let answer = read_until(&mut stream, "embedding").await;
    assert!(answer.contains("HTTP/1.1 200 "), "{answer}");
    server.end().await;
}
