//! Tests on the level of bytes on a connection: requests that are refused early, harmful heads, slow clients,
//! and how the server closes each of these connections.

mod early;
mod heads;
mod held;
mod http2;
mod slow;

use std::{net::SocketAddr, time::Duration};

use siglip_server::{
    app::{App, AppHandle},
    config::Config,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

const EMBED: &str = "/v1/embeddings";
/// By then the server has closed any such connection, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The whole server, with the demo model.
struct Server {
    address: SocketAddr,
    handle: AppHandle,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.listen.http.set_port(0);
        change(&mut config);
        let app = App::bind(config).await.expect("a free port");
        let handle = app.handle();
        let task = tokio::spawn(async move { app.serve().await.expect("serves and drains") });
        handle.ready().await;
        Self { address: handle.http_addr(), handle, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connects")
    }

    /// Sends all bytes before it reads, and then reads until the server closes the connection.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // The server may close first.
        let _ = stream.write_all(bytes).await;
        read_to_end(&mut stream).await
    }

    /// Checks that a normal request still succeeds.
    async fn still_well(&self) {
        let body = r#"{"input": "a cat"}"#;
        let answer = self.exchange(&post(EMBED, "connection: close\r\n", body.as_bytes())).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    async fn end(self) {
        self.handle.stop();
        tokio::time::timeout(PATIENCE, self.task).await.expect("drains").expect("well");
    }
}

/// A request with additional header lines.
fn post(path: &str, more: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{more}content-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Reads until the server closes the connection in any way.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    assert!(read.is_ok(), "not closed after {}", String::from_utf8_lossy(&bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads until a mark has arrived.
async fn read_until(stream: &mut TcpStream, mark: &str) -> String {
    let mut text = String::new();
    let reading = async {
        while !text.contains(mark) {
            let mut bytes = [0; 4096];
            let length = stream.read(&mut bytes).await.expect("open");
            assert!(length > 0, "closed after {text}");
            text.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("answered");
    text
}
