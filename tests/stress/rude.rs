//! Badly behaved clients: they disconnect early, or are slow at any point.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{
    cases::Case,
    clients::{Dice, HANGS},
    shared::{Phase, Shared},
};

fn address(shared: &Shared) -> &str {
    shared.url.trim_start_matches("http://")
}

/// Connects, sends all or a part of a request, and disconnects.
pub(crate) async fn leave_early(shared: &Shared, case: &Case, dice: &mut Dice) {
    let Ok(mut stream) = TcpStream::connect(address(shared)).await else { return };
    let (path, kind, length) = (case.path, case.content_type, case.body.len());
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n"
    );
    let request = [head.as_bytes(), &case.body].concat();
    let end = if dice.below(3) == 0 { request.len() } else { dice.below(request.len()) };
    // The server may close first.
    let _ = stream.write_all(&request[..end]).await;
    tokio::time::sleep(Duration::from_millis(dice.below(30) as u64)).await;
    shared.count("disconnects");
}

/// Repeatedly sends a head byte by byte and never ends it.
pub(crate) async fn slow_head(shared: Arc<Shared>) {
    while !shared.stopped() && shared.phase() < Phase::Terminated {
        let Ok(mut stream) = TcpStream::connect(address(&shared)).await else { continue };
        let drips = async {
            let mut sent = stream.write_all(b"POST /v1/embeddings HTTP/1.1\r\nx: ").await;
            while sent.is_ok() && !shared.stopped() {
                tokio::time::sleep(Duration::from_millis(200)).await;
                sent = stream.write_all(b"a").await;
            }
        };
        match timeout(HANGS, drips).await {
            Ok(()) if shared.stopped() => {}
            Ok(()) => shared.count("slow heads: closed"),
            Err(_) => shared.violate("a head that does not end is waited for".to_owned()),
        }
    }
}

/// Sends half a body and waits.
pub(crate) async fn slow_body(shared: Arc<Shared>) {
    while !shared.stopped() && shared.phase() < Phase::Terminated {
        let Ok(mut stream) = TcpStream::connect(address(&shared)).await else { continue };
        let head = "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                    x-request-timeout-ms: 1000\r\ncontent-length: 99\r\n\r\n{\"input\"";
        let mut answer = Vec::new();
        let exchange = async {
            stream.write_all(head.as_bytes()).await?;
            stream.read_to_end(&mut answer).await
        };
        let done = timeout(HANGS, exchange).await;
        let answer = String::from_utf8_lossy(&answer);
        if done.is_err() {
            shared.violate("a body that does not come is waited for".to_owned());
        } else if answer.contains("deadline_exceeded") {
            shared.count("slow bodies: 504 deadline_exceeded");
        } else if shared.phase() < Phase::Terminated {
            shared.violate(format!("a slow body was answered {answer}"));
        }
    }
}

/// Requests a large response and does not read it.
pub(crate) async fn never_reads(shared: Arc<Shared>) {
    // A response of about 30 MB: more than the system ever buffers.
    let rows = vec![vec![1; 192]; 1000];
    let body = serde_json::json!({"image_embeddings": rows, "text_embeddings": rows}).to_string();
    let length = body.len();
    let request = format!(
        "POST /v1/similarity HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    while !shared.stopped() && shared.phase() < Phase::Terminated {
        let Ok(address) = address(&shared).parse() else { return };
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(1024).expect("a small buffer");
        let Ok(mut stream) = socket.connect(address).await else { continue };
        let _ = stream.write_all(request.as_bytes()).await;
        // Its response begins, and stays unread for longer than the server allows.
        let ready = timeout(HANGS, stream.readable()).await;
        tokio::time::sleep(Duration::from_secs(15)).await;
        let mut answer = Vec::new();
        let read = timeout(HANGS, stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer);
        if ready.is_err() || read.is_err() {
            shared.violate("a client that never reads is waited for".to_owned());
        } else if answer.starts_with("HTTP/1.1 200") && !answer.contains("usage") {
            shared.count("never read: closed");
        } else if answer.starts_with("HTTP/1.1 200") {
            shared.violate("an answer that was not read was written whole".to_owned());
        } else {
            shared.count("never read: refused");
        }
    }
}
