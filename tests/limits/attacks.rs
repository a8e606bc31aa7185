//! Clients that use as many resources as the server allows.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt as _;
use reqwest::{Body, Client, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::{bodies, bombs, process::Server, seen::Seen};

/// Maximum time that an attack waits for a response.
const PATIENCE: Duration = Duration::from_secs(90);

/// A client over HTTP/2 with its own connection.
fn alone() -> Client {
    Client::builder().http2_prior_knowledge().build().expect("a client")
}

/// A site that serves the longest image.
pub(crate) async fn site() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let image = bodies::long_image();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let image = image.clone();
            tokio::spawn(async move {
                let mut head = [0; 1024];
                let _ = stream.read(&mut head).await;
                let length = image.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
                );
                if stream.write_all(answer.as_bytes()).await.is_ok() {
                    let _ = stream.write_all(&image).await;
                }
            });
        }
    });
    address
}

/// The code of a completely read response.
async fn code(answer: Response) -> String {
    let status = answer.status();
    if status.is_success() {
        let bytes = answer.bytes().await.map_or(0, |bytes| bytes.len());
        return if bytes == 0 { "broken off".to_owned() } else { status.as_u16().to_string() };
    }
    let body: Value = answer.json().await.unwrap_or_default();
    let code = [&body["error"]["code"], &body["code"], &body["error_type"]];
    let code = code.into_iter().find_map(Value::as_str).unwrap_or_default();
    format!("{} {code}", status.as_u16())
}

struct Attacks {
    url: String,
    grpc: String,
    seen: Arc<Seen>,
    all: JoinSet<()>,
}

impl Attacks {
    /// Repeats an attack with `count` clients until the end.
    fn repeat<F>(
        &mut self,
        name: &'static str,
        count: usize,
        once: impl Fn() -> F + Clone + Send + 'static,
    ) where
        F: Future<Output = String> + Send,
    {
        for _ in 0..count {
            let (seen, once) = (Arc::clone(&self.seen), once.clone());
            self.all.spawn(async move {
                while !seen.stopped() {
                    let ended = timeout(PATIENCE, once()).await;
                    let ended = ended.unwrap_or_else(|_| "no end".to_owned());
                    seen.count(&format!("{name}: {ended}"));
                    // Do not repeat requests that are refused at once in a busy loop.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
    }

    /// Sends a body and reads the response.
    fn sends(
        &mut self,
        name: &'static str,
        count: usize,
        request: impl Fn(&Client) -> RequestBuilder + Clone + Send + Sync + 'static,
    ) {
        let client = Client::new();
        self.repeat(name, count, move || {
            let sent = request(&client).send();
            async move {
                match sent.await {
                    Ok(answer) => code(answer).await,
                    Err(_) => "no answer".to_owned(),
                }
            }
        });
    }

    fn posts(
        &mut self,
        name: &'static str,
        count: usize,
        path: &str,
        kind: &'static str,
        body: Bytes,
    ) {
        let url = format!("{}{path}", self.url);
        self.sends(name, count, move |client| {
            client.post(&url).header("content-type", kind).body(body.clone())
        });
    }

    /// Sends a request over a connection with a small window and does not read the response.
    fn leaves_unread(&mut self, name: &'static str, count: usize, path: &str, body: &Bytes) {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let request = Bytes::from([head.as_bytes(), body].concat());
        let address: SocketAddr =
            self.url.trim_start_matches("http://").parse().expect("an address");
        self.repeat(name, count, move || {
            let request = request.clone();
            async move {
                let socket = TcpSocket::new_v4().expect("a socket");
                let _ = socket.set_recv_buffer_size(1024);
                let Ok(mut stream) = socket.connect(address).await else {
                    return "refused".to_owned();
                };
                let _ = stream.write_all(&request).await;
                tokio::time::sleep(Duration::from_secs(40)).await;
                "left".to_owned()
            }
        });
    }

    /// The same over HTTP/2, a hundred requests on each connection.
    fn leaves_unread_over_http2(&mut self, count: usize, body: Bytes) {
        let url = format!("{}/v1/embeddings", self.url);
        self.repeat("unread, HTTP/2", count, move || {
            let (client, url, body) = (alone(), url.clone(), body.clone());
            async move {
                let ask = || {
                    let request = client.post(&url).header("content-type", "application/json");
                    request.body(body.clone()).send()
                };
                let answers = futures::future::join_all((0..100).map(|_| ask())).await;
                tokio::time::sleep(Duration::from_secs(20)).await;
                let held = answers.iter().flatten().filter(|answer| answer.status() == 200).count();
                format!("{} of 100 held", if held > 50 { "most" } else { "few" })
            }
        });
    }

    /// Sends gRPC requests and reads no response, a hundred on each connection.
    fn leaves_unread_over_grpc(&mut self, count: usize, message: Bytes) {
        let url = format!("{}/siglip.v1.EmbeddingService/Embed", self.grpc);
        self.repeat("unread, gRPC", count, move || {
            let (client, url, message) = (alone(), url.clone(), message.clone());
            async move {
                let ask = || {
                    let request = client.post(&url).header("content-type", "application/grpc");
                    request.header("te", "trailers").body(message.clone()).send()
                };
                let answers = futures::future::join_all((0..100).map(|_| ask())).await;
                tokio::time::sleep(Duration::from_secs(20)).await;
                let refused = |answer: &&Response| answer.headers().contains_key("grpc-status");
                let held = answers.iter().flatten().filter(|answer| !refused(answer)).count();
                format!("{} of 100 held", if held > 50 { "most" } else { "few" })
            }
        });
    }

    /// Sends a part of a body and then nothing.
    fn never_ends(
        &mut self,
        name: &'static str,
        count: usize,
        url: String,
        kind: &'static str,
        part: Bytes,
    ) {
        self.repeat(name, count, move || {
            let part = futures::stream::iter([Ok::<_, std::io::Error>(part.clone())]);
            let body = Body::wrap_stream(part.chain(futures::stream::pending()));
            let request = alone().post(&url).header("content-type", kind).header("te", "trailers");
            let sent = request.body(body).send();
            async move {
                match sent.await {
                    Ok(answer) => {
                        let status = answer.headers().get("siglip-code").cloned();
                        let _ = answer.bytes().await;
                        format!("{status:?}")
                    }
                    Err(_) => "no answer".to_owned(),
                }
            }
        });
    }
}

/// All attacks at the same time.
pub(crate) fn all(server: &Server, site: SocketAddr, seen: &Arc<Seen>) -> JoinSet<()> {
    let grpc = server.announced("gRPC").trim_end_matches('/').to_owned();
    let mut attacks =
        Attacks { url: server.url.clone(), grpc, seen: Arc::clone(seen), all: JoinSet::new() };
    let a = &mut attacks;
    let (json, png) = ("application/json", "image/png");
    let large = bodies::large_png();
    a.posts("large images", 8, "/v1/embeddings", png, large.clone());
    let url = format!("{}/v1/embeddings", a.url);
    let impatient = large.clone();
    a.sends("large images, impatient", 12, move |client| {
        let request = client.post(&url).header("content-type", png);
        request.header("x-request-timeout-ms", "150").body(impatient.clone())
    });
    a.posts("bombs of WebP", 2, "/v1/embeddings", "image/webp", bombs::webp_of_groups(8192).into());
    a.posts(
        "bombs of TIFF",
        2,
        "/v1/embeddings",
        "image/tiff",
        bombs::tiff_of_shared_rows(20_000, 512).into(),
    );
    let (url, requests) = (format!("{}/v1/embeddings", a.url), AtomicU64::new(0));
    a.sends("tiny images", 3, {
        let requests = Arc::new(requests);
        move |client| {
            let body = bodies::tiny_images(requests.fetch_add(1, Ordering::Relaxed));
            let request = client.post(&url).header("content-type", json);
            request.header("x-request-timeout-ms", "20000").body(body)
        }
    });
    a.posts(
        "large JPEG in TIFF",
        2,
        "/v1/embeddings",
        "image/tiff",
        bombs::tiff_of_large_jpeg(12_000).into(),
    );
    a.posts("empty objects", 16, "/v2/embed", json, bodies::empty_objects());
    a.posts("numbers", 4, "/v1/similarity", json, bodies::numbers());
    let (url, numbers) = (format!("{}/v1/similarity", a.url), bodies::numbers());
    a.sends("numbers, impatient", 8, move |client| {
        let request = client.post(&url).header("content-type", json);
        request.header("x-request-timeout-ms", "100").body(numbers.clone())
    });
    a.posts("long labels", 4, "/v1/classify", json, bodies::long_labels());
    a.posts("long texts", 2, "/v1/embeddings", json, bodies::long_texts());
    let (elements, length) = bodies::empty_elements();
    let url = format!("{}/v2/models/demo/infer", a.url);
    a.sends("empty elements", 3, move |client| {
        let request = client.post(&url).header("content-type", "application/octet-stream");
        request.header("inference-header-content-length", length).body(elements.clone())
    });
    a.posts("bulk rows", 4, "/v1/bulk/embeddings", "application/x-ndjson", bodies::lines());
    let urls: Vec<_> = (0..8).map(|number| format!("http://{site}/{number}.png")).collect();
    let fetched =
        json!({"input": urls.iter().map(|url| json!({"image": url})).collect::<Vec<_>>()});
    a.posts("images by URL", 4, "/v1/embeddings", json, fetched.to_string().into());
    a.leaves_unread("unread similarity", 6, "/v1/similarity", &bodies::all_pairs());
    a.leaves_unread("unread embeddings", 60, "/v1/embeddings", &bodies::many_texts());
    a.leaves_unread_over_http2(4, bodies::many_texts());
    a.leaves_unread_over_grpc(4, bodies::many_texts_over_grpc());
    let bulk = format!("{}/v1/bulk/embeddings", a.url);
    a.never_ends("unfinished lines", 8, bulk, "application/x-ndjson", bodies::unfinished_line());
    let (stream, embed) = ("EmbedStream", "Embed");
    for (name, method, count) in
        [("unfinished streams", stream, 8), ("unfinished messages", embed, 8)]
    {
        let url = format!("{}/siglip.v1.EmbeddingService/{method}", a.grpc);
        a.never_ends(name, count, url, "application/grpc", bodies::unfinished_message());
    }
    let address: SocketAddr = a.url.trim_start_matches("http://").parse().expect("an address");
    a.repeat("silent connections", 100, move || async move {
        let _stream = TcpStream::connect(address).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        "left".to_owned()
    });
    attacks.all
}
