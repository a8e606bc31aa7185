//! Invalid heads and framings, and those that proxies and servers might read differently (request smuggling).

use super::{EMBED, Server, post};

/// The statuses of the responses in order.
fn statuses(answers: &str) -> Vec<&str> {
    answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect()
}

fn raw(lines: &[&str], body: &str) -> Vec<u8> {
    let head: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    format!("{head}\r\n{body}").into_bytes()
}

#[tokio::test]
async fn lengths_that_contradict_each_other_are_refused_and_the_connection_closed() {
    let server = Server::start(|_| ()).await;
    let line = format!("POST {EMBED} HTTP/1.1");
    let json = "content-type: application/json";
    // The bytes after the first request must never be read as a second request.
    let behind = "GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n";
    for wrong in [
        &["content-length: 4", "content-length: 5"][..],
        &["content-length: 4, 5"],
        &["content-length: +4"],
        &["content-length: -4"],
        &["content-length: 0x4"],
        &["content-length: 18446744073709551616"],
        &["content-length: 4 4"],
        &["content-length:"],
        &["transfer-encoding: chunked, identity"],
        &["transfer-encoding: gzip"],
        &["transfer-encoding: xchunked"],
        &["content-length : 4"],
        &["content-length: 4", " folded: 1"],
        &["x: a\0b"],
        &["x: a\rb"],
        &["(x): a"],
    ] {
        let lines = [&[line.as_str(), "host: localhost", json], wrong].concat();
        let answers = server.exchange(&raw(&lines, behind)).await;
        assert_eq!(statuses(&answers), ["400"], "{wrong:?}: {answers}");
    }
    for line in
        ["GET / HTTP/9.9", "GET /", "GET  / HTTP/1.1", "/ HTTP/1.1", "\x16\x03\x01\x02\0\x01"]
    {
        let answers = server.exchange(&raw(&[line, "host: localhost"], behind)).await;
        assert!(matches!(statuses(&answers)[..], [] | ["400"]), "{line}: {answers}");
    }
    server.still_well().await;
    server.end().await;
}

#[tokio::test]
async fn chunks_that_are_none_end_their_request() {
    let server = Server::start(|_| ()).await;
    let line = format!("POST {EMBED} HTTP/1.1");
    let lines = [
        line.as_str(),
        "host: localhost",
        "content-type: application/json",
        "transfer-encoding: chunked",
    ];
    for body in [
        "zz\r\n{}\r\n0\r\n\r\n",
        "-2\r\n{}\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\n{}",
        "2\r\n{}xx\r\n0\r\n\r\n",
        "2;\n{}\r\n0\r\n\r\n",
    ] {
        let answers = server.exchange(&raw(&lines, body)).await;
        assert_eq!(statuses(&answers), ["400"], "{body:?}: {answers}");
        assert!(answers.contains("invalid_request"), "{answers}");
    }
    // The transfer encoding overrides the length, as the standard says: there is one request.
    let both = [&lines[..], &["content-length: 3", "connection: close"]].concat();
    let answers = server.exchange(&raw(&both, "12\r\n{\"input\": \"a cat\"}\r\n0\r\n\r\n")).await;
    assert_eq!(statuses(&answers), ["200"], "{answers}");
    server.still_well().await;
    server.end().await;
}

#[tokio::test]
async fn heads_are_bounded() {
    let server = Server::start(|_| ()).await;
    let long = format!("x: {}", "a".repeat(70 << 10));
    let path = format!("GET /{} HTTP/1.1", "a".repeat(70 << 10));
    let many = vec!["x: a"; 200];
    for (lines, allowed) in [
        (vec!["GET / HTTP/1.1", "host: localhost", &long], &["431"][..]),
        (vec![&path, "host: localhost"], &["414", "431"]),
        ([&["GET / HTTP/1.1", "host: localhost"][..], &many].concat(), &["431"]),
    ] {
        let answers = server.exchange(&raw(&lines, "")).await;
        assert!(allowed.iter().any(|status| statuses(&answers) == [*status]), "{answers}");
    }
    server.still_well().await;
    server.end().await;
}

#[tokio::test]
async fn encoded_bodies_are_not_unpacked() {
    let server = Server::start(|_| ()).await;
    for encoding in ["gzip", "br", "deflate", "gzip, gzip", "nonsense"] {
        let more = format!("content-encoding: {encoding}\r\nconnection: close\r\n");
        let answers = server.exchange(&post(EMBED, &more, b"\x1f\x8b\x08\0\0\0\0\0\0\x03")).await;
        assert_eq!(statuses(&answers), ["415"], "{encoding}: {answers}");
    }
    server.end().await;
}
