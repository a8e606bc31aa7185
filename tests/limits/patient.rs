//! A well-behaved client, and the probe.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::{Client, StatusCode, header};
use serde_json::{Value, json};

use crate::{bodies, process::Server, seen::Seen};

/// Requests and their expected results.
pub(crate) type Expected = Vec<(Value, Value)>;

fn requests() -> Vec<Value> {
    let image = base64_simd::STANDARD.encode_to_string(bodies::small_png());
    vec![
        json!({"input": "a photo of a cat", "encoding_format": "base64"}),
        json!({"input": [{"image": image}, "a dog"], "encoding_format": "base64"}),
    ]
}

async fn embeddings(
    client: &Client,
    url: &str,
    body: &Value,
) -> Result<Value, (Option<StatusCode>, String)> {
    let sent = client.post(format!("{url}/v1/embeddings")).json(body).send().await;
    let answer = sent.map_err(|error| (None, format!("{error:?}")))?;
    let status = answer.status();
    let after = answer.headers().get(header::RETRY_AFTER).cloned();
    let value: Value = answer.json().await.map_err(|error| (None, format!("{error:?}")))?;
    if status == StatusCode::OK {
        return Ok(value["data"].clone());
    }
    Err((Some(status), format!("{value} {after:?}")))
}

pub(crate) async fn expected(server: &Server) -> Expected {
    let client = Client::new();
    let mut expected = Vec::new();
    for body in requests() {
        let data = embeddings(&client, &server.url, &body).await.expect("a quiet server answers");
        expected.push((body, data));
    }
    expected
}

/// Sends requests in a loop, and retries when the server says so.
pub(crate) async fn asks(url: String, expected: Expected, seen: Arc<Seen>) {
    let client = Client::new();
    while !seen.stopped() {
        for (body, data) in &expected {
            let begin = Instant::now();
            loop {
                match embeddings(&client, &url, body).await {
                    Ok(found) if found == *data => {
                        seen.answered(begin.elapsed());
                        break;
                    }
                    Ok(found) => seen.wrong(format!("{body} gave {found}")),
                    Err((Some(status), _)) if [429, 503, 504].contains(&status.as_u16()) => {
                        seen.count(&format!("patient client: {status}"));
                    }
                    Err(other) => seen.wrong(format!("{body} was answered {other:?}")),
                }
                if seen.stopped() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Probes like an orchestrator, with a new connection for each probe, on a separate thread.
pub(crate) fn probe(url: String, seen: Arc<Seen>) {
    std::thread::spawn(move || {
        let address: SocketAddr = url.trim_start_matches("http://").parse().expect("an address");
        while !seen.stopped() {
            let begin = Instant::now();
            let answer = ready(address);
            match &answer {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") => seen.probed(begin.elapsed()),
                _ => seen.wrong(format!("a probe got {answer:?} after {:?}", begin.elapsed())),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}

fn ready(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let request = "GET /health/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
