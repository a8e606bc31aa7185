//! A rolling restart under load without a failed request.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use reqwest::{Client, StatusCode};
use serde_json::json;

use crate::{app::client, process::Server, waiting::until};

/// The results of the clients.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    good: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Seen {
    fn failures(&self) -> Vec<String> {
        self.failures.lock().expect("nobody panics while it is held").clone()
    }

    /// Waits for this many more successful responses.
    async fn until_more(&self, more: usize) {
        let goal = self.good.load(Ordering::Relaxed) + more;
        until("responses keep coming", async || {
            self.good.load(Ordering::Relaxed) >= goal || !self.failures().is_empty()
        })
        .await;
        assert_eq!(self.failures(), [] as [String; 0]);
    }
}

/// Sends requests until it is stopped or a request fails.
async fn ask(client: Client, url: String, seen: Arc<Seen>) {
    while !seen.stop.load(Ordering::Relaxed) {
        let failure = match client.post(&url).json(&json!({"input": "a cat"})).send().await {
            Ok(answer) if answer.status() == StatusCode::OK => match answer.bytes().await {
                Ok(_) => {
                    seen.good.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                Err(error) => format!("{error:?}"),
            },
            Ok(answer) => format!("{} {:?}", answer.status(), answer.text().await),
            Err(error) => format!("{error:?}"),
        };
        return seen.failures.lock().expect("nobody panics while it is held").push(failure);
    }
}

#[tokio::test]
async fn a_rolling_restart_fails_no_request() {
    // The log is not read while the server runs, so it must not fill its pipe.
    let flags = ["--reuse-port", "--drain-delay", "1s", "--log-filter", "warn"];
    let old = Server::start(&flags);
    let url = format!("{}/v1/embeddings", old.url);
    let address = old.url.trim_start_matches("http://").to_owned();

    let seen = Arc::new(Seen::default());
    let kept = client();
    siglip_server::tls::install_provider();
    let fresh = Client::builder().pool_max_idle_per_host(0).build().expect("a client");
    // Half of the clients keep their connections. The others open a new one for each request.
    let clients = (0..8).map(|index| if index % 2 == 0 { kept.clone() } else { fresh.clone() });
    let asking: Vec<_> =
        clients.map(|client| tokio::spawn(ask(client, url.clone(), Arc::clone(&seen)))).collect();
    seen.until_more(50).await;

    let new = {
        let args = [&flags[..], &["--listen", &address]].concat();
        let args: Vec<_> = args.into_iter().map(str::to_owned).collect();
        let start = move || Server::start(&args.iter().map(String::as_str).collect::<Vec<_>>());
        tokio::task::spawn_blocking(start).await.expect("joins")
    };
    seen.until_more(50).await;
    old.signal("TERM");
    let (status, log) = tokio::task::spawn_blocking(|| old.wait()).await.expect("joins");
    assert_eq!(status.code(), Some(0), "{log}");
    seen.until_more(50).await;
    seen.stop.store(true, Ordering::Relaxed);
    for asked in asking {
        asked.await.expect("joins");
    }
    assert_eq!(seen.failures(), [] as [String; 0]);
    drop(new);
}

#[tokio::test]
async fn readiness_is_red_before_work_is_refused() {
    let server = Server::start(&["--drain-delay", "2s"]);
    let client = client();
    let status = async |path: &str| {
        let asked = client.get(format!("{}{path}", server.url)).send().await;
        asked.map(|answer| answer.status()).ok()
    };
    server.signal("TERM");
    while status("/health/ready").await == Some(StatusCode::OK) {}
    let body = json!({"input": "a cat"});
    let late = client.post(format!("{}/v1/embeddings", server.url)).json(&body).send().await;
    let late = late.expect("answers");
    assert_eq!(late.status(), StatusCode::OK, "still taken while the delay lasts");
    assert_eq!(late.headers()["connection"], "close");
    let (status, log) = tokio::task::spawn_blocking(|| server.wait()).await.expect("joins");
    assert_eq!(status.code(), Some(0), "{log}");
}
