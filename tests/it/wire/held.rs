//! Connections that are held open in various ways, while the server runs and while it shuts down.

use std::time::{Duration, Instant};

use siglip_server::{app::App, config::Config};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{PATIENCE, Server, http2, post, read_to_end, read_until};

const SHORT: Duration = Duration::from_millis(400);

fn with_grpc(config: &mut Config) {
    config.listen.grpc = Some(([127, 0, 0, 1], 0).into());
}

/// Reads frames and answers every PING, until the server closes. Returns the types of the frames.
async fn answer_pings(stream: &mut TcpStream) -> Vec<u8> {
    let mut kinds = Vec::new();
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        if stream.read_exact(&mut payload).await.is_err() {
            break;
        }
        let is_question = head[3] == http2::PING && head[4] & 1 == 0;
        kinds.push(head[3]);
        if is_question {
            let _ = stream.write_all(&http2::frame(http2::PING, 1, 0, &payload)).await;
        }
    }
    kinds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_without_requests_is_closed_although_it_answers_pings() {
    let server = Server::start(|config| {
        config.listen.idle_timeout = SHORT;
        with_grpc(config);
    })
    .await;
    for address in [server.address, server.handle.grpc_addr().expect("gRPC")] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let request = http2::frame(http2::HEADERS, 0x5, 1, &http2::GET);
        stream.write_all(&[http2::hello(), request].concat()).await.expect("taken");
        let frames = tokio::time::timeout(PATIENCE, answer_pings(&mut stream)).await;
        let frames = frames.expect("closed");
        assert!(frames.contains(&http2::GOAWAY), "{frames:?}");
    }
    server.still_well().await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_connections_are_as_many_as_are_allowed() {
    let server = Server::start(|config| {
        config.listen.max_connections = 2;
        config.listen.idle_timeout = SHORT;
        with_grpc(config);
    })
    .await;
    let address = server.handle.grpc_addr().expect("gRPC");
    let connect = async || {
        let mut stream = TcpStream::connect(address).await.expect("the system takes it");
        let request = http2::frame(http2::HEADERS, 0x5, 1, &http2::GET);
        stream.write_all(&[http2::hello(), request].concat()).await.expect("taken");
        stream
    };
    let mut first = connect().await;
    let mut second = connect().await;
    let mut third = connect().await;
    // The first two are served, and are closed when they are idle. The third waits until then.
    let mut byte = [0];
    first.read_exact(&mut byte).await.expect("served");
    second.read_exact(&mut byte).await.expect("served");
    let waited = tokio::time::timeout(SHORT / 4, third.read_exact(&mut byte)).await;
    assert!(waited.is_err(), "a third connection was served");
    let closing = async { tokio::join!(answer_pings(&mut first), answer_pings(&mut second)) };
    tokio::time::timeout(PATIENCE, closing).await.expect("both are closed");
    tokio::time::timeout(PATIENCE, third.read_exact(&mut byte))
        .await
        .expect("served")
        .expect("open");
    drop(third);
    server.end().await;
}

/// None of these has a complete request, so a shutdown neither waits for them nor fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_no_connection_without_a_whole_request() {
    let server = Server::start(with_grpc).await;
    let grpc = server.handle.grpc_addr().expect("gRPC");
    let mut held = Vec::new();
    for (address, bytes) in [
        (server.address, &b""[..]),
        (server.address, &b"POST /v1/embeddings HT"[..]),
        (server.address, &b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"[..]),
        (server.address, &http2::hello()),
        (grpc, &b""[..]),
        (grpc, &http2::hello()),
        (grpc, &http2::hello()[..20]),
    ] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(bytes).await.expect("taken");
        held.push(stream);
    }
    // A request after the last of them shows that all were accepted.
    server.still_well().await;
    let start = Instant::now();
    server.end().await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    drop(held);
}

/// Half a body, and a response that is not read: the server waits for the client until the end of the grace
/// period, and closing the connection then is not a failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_waited_for_are_cut_at_the_end_of_the_grace_period() {
    let mut config = Config::default();
    config.listen.http.set_port(0);
    config.listen.grace_period = Duration::from_secs(2);
    let app = App::bind(config).await.expect("a free port");
    let handle = app.handle();
    let task = tokio::spawn(app.serve());
    handle.ready().await;
    let mut half = TcpStream::connect(handle.http_addr()).await.expect("connects");
    half.write_all(
        b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{",
    )
    .await
    .expect("taken");
    let rows = vec![vec![1; 192]; 1000];
    let body = serde_json::json!({"image_embeddings": rows, "text_embeddings": rows}).to_string();
    let mut unread = TcpStream::connect(handle.http_addr()).await.expect("connects");
    unread.write_all(&post("/v1/similarity", "", body.as_bytes())).await.expect("taken");
    read_until(&mut unread, "HTTP/1.1 200").await;
    let start = Instant::now();
    handle.stop();
    let ended = tokio::time::timeout(PATIENCE, task).await.expect("ends").expect("no panic");
    assert!(ended.is_ok(), "{ended:?}");
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
    drop((half, unread));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_not_read_is_reset() {
    let server = Server::start(|config| config.listen.write_timeout = SHORT).await;
    let mut stream = server.connect().await;
    // SETTINGS_INITIAL_WINDOW_SIZE of zero: the client accepts no bytes of any response.
    let settings = http2::frame(http2::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let request = http2::frame(http2::HEADERS, 0x5, 1, &http2::GET);
    stream.write_all(&[http2::PREFACE, &settings, &request].concat()).await.expect("taken");
    let reset = async {
        let mut head = [0; 9];
        loop {
            stream.read_exact(&mut head).await.expect("open");
            let length =
                usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            stream.read_exact(&mut vec![0; length]).await.expect("open");
            if head[3] == http2::RST_STREAM {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reset).await.expect("reset");
    server.still_well().await;
    server.end().await;
}

#[tokio::test]
async fn a_page_of_another_site_reads_nothing_on_loopback() {
    let server = Server::start(|config| {
        config.listen.allowed_hosts = Some("siglip.example".parse().expect("a name"));
    })
    .await;
    let ask = async |lines: &str| {
        let mut stream = server.connect().await;
        let request = format!("GET /info HTTP/1.1\r\n{lines}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("taken");
        read_to_end(&mut stream).await
    };
    for host in ["localhost", "127.0.0.1:8080", "[::1]", "siglip.example:443"] {
        let answer = ask(&format!("host: {host}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
    for lines in ["host: evil.example\r\n", "host: localhost\r\nhost: localhost\r\n"] {
        let answer = ask(lines).await;
        assert!(answer.starts_with("HTTP/1.1 421 "), "{lines}: {answer}");
        assert!(
            answer.contains("host_not_allowed") && answer.contains("allowed_hosts"),
            "{answer}"
        );
    }
    server.end().await;
}
