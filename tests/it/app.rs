//! A running server for a test, with a free port, real HTTP and a model whose results are known.

use std::{net::SocketAddr, path::Path, sync::Arc};

use reqwest::{RequestBuilder, Response, StatusCode, header::HeaderMap};
use serde_json::Value;
use siglip_server::{
    app::parts,
    config::{self, Config, Served},
    engine::Engine,
    fetch::Fetcher,
    registry::Registry,
    rest,
    telemetry::Metrics,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::fake::{self, Gate};

/// The name of the model.
pub(crate) const MODEL: &str = "colours";

/// A client. Its TLS needs the cryptography provider that the server otherwise installs.
pub(crate) fn client() -> reqwest::Client {
    siglip_server::tls::install_provider();
    reqwest::Client::new()
}

/// A running server. Dropping it stops it.
pub(crate) struct TestApp {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The engine, for tests of other APIs.
    pub(crate) engine: Arc<Engine>,
    /// Holds forward passes back.
    pub(crate) gate: Gate,
    config: Config,
    client: reqwest::Client,
    server: JoinHandle<()>,
}

impl TestApp {
    /// A ready server with the default configuration.
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A ready server with a changed configuration.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let app = Self::loading(change).await;
        app.load().await;
        app
    }

    /// A server whose model is not loaded yet.
    pub(crate) async fn loading(change: impl FnOnce(&mut Config)) -> Self {
        Self::with_access(change, |_| rest::Access::default()).await
    }

    /// A server whose model is not loaded yet, with access control.
    pub(crate) async fn with_access(
        change: impl FnOnce(&mut Config),
        access: impl FnOnce(Arc<Metrics>) -> rest::Access,
    ) -> Self {
        let mut config = Config::default();
        config.model.cpu_pool_threads = 1;
        change(&mut config);
        let metrics = Arc::new(Metrics::new());
        let registry = Registry::new([MODEL.to_owned()]);
        let engine = Engine::new(&config, registry, metrics).expect("the engine starts");
        let engine = Arc::new(if config.fetch.enabled {
            let max_bytes = config.limits.max_image_bytes;
            engine.with_fetcher(Fetcher::new(&config.fetch, max_bytes).expect("a client"))
        } else {
            engine
        });
        let access = access(Arc::clone(engine.metrics()));
        let state = rest::AppState::with_access(Arc::clone(&engine), access);
        let router = rest::router(state);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let listen = config.listen.clone();
        let server = tokio::spawn(async move {
            parts::serve(listener, router, &listen, CancellationToken::new()).await;
        });
        let gate = Gate::open_one();
        Self { address, engine, gate, config, client: client(), server }
    }

    /// Loads and warms the model of a [`TestApp::loading`] server.
    pub(crate) async fn load(&self) {
        let loader = fake::loader(&self.gate);
        parts::install(&self.engine, &self.config, MODEL, fake::described(), loader)
            .expect("the worker starts");
        self.engine.warm_up(MODEL).await.expect("the towers run");
    }

    /// Loads a real checkpoint from a folder instead, under the same name.
    pub(crate) async fn load_checkpoint(&self, folder: &Path) {
        let source = folder.to_string_lossy().into_owned();
        let model = config::Model { source, ..config::Model::default() };
        let served = Served { name: MODEL.to_owned(), aliases: Vec::new(), model };
        parts::load(&self.engine, &self.config, served).await.expect("a checkpoint");
    }

    /// A request to a path.
    pub(crate) fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let method = method.parse().expect("a method");
        self.client.request(method, format!("http://{}{path}", self.address))
    }

    /// The response to a GET request.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request("GET", path)).await
    }

    /// The response to a POST request with JSON.
    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.request("POST", path).json(&body)).await
    }

    /// The value of a series in `/metrics`; 0 where it is missing.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let text = self.get("/metrics").await.text;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        // Open the gate, so that the worker thread can end.
        self.gate.set_open(true);
        for model in self.engine.registry().loaded() {
            model.handle.close();
        }
        self.server.abort();
    }
}

/// A complete response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    /// Sends a request and reads the response.
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        Self::read(request.send().await.expect("the server answers")).await
    }

    /// Reads a response.
    pub(crate) async fn read(response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, text: response.text().await.expect("the body arrives") }
    }

    /// The body, which must be JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The body of a response that must be a success.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self.json()
    }

    /// A header's value; empty where it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("printable"))
    }
}
