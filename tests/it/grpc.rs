//! The gRPC API over a real connection.

mod access;
mod health;
mod inference;
mod methods;
mod parity;
mod reflection;
mod stream;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use siglip_server::{
    app::parts,
    auth::Keys,
    batch::Parts,
    config::{Config, DType, Device},
    embedding::Embedding,
    engine::Engine,
    grpc,
    model::{Described, ModelCard, Pass, Scorer, Tap, Tower, TowerError},
    preprocess::{ImageSpec, Pixels, Resample, TargetSize},
    registry::Registry,
    telemetry::Metrics,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Values of an embedding of the fake model.
const DIM: usize = 4;
const HEAD: Scorer = Scorer::Sigmoid { logit_scale: 2.0, logit_bias: -3.0 };

/// A server on a free port, over an engine whose model loads when the test says so.
struct Served {
    engine: Arc<Engine>,
    config: Config,
    channel: Channel,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Served {
    async fn start(adjust: impl FnOnce(&mut Config)) -> Self {
        Self::with_keys(adjust, |_| None).await
    }

    async fn with_keys(
        adjust: impl FnOnce(&mut Config),
        keys: impl FnOnce(Arc<Metrics>) -> Option<Arc<Keys>>,
    ) -> Self {
        let mut config = Config::default();
        adjust(&mut config);
        let registry = Registry::new(["fake".to_owned()]);
        let metrics = Arc::new(Metrics::new());
        let engine = Arc::new(Engine::new(&config, registry, metrics).expect("an engine"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let keys = keys(Arc::clone(engine.metrics()));
        let router = grpc::router(&engine, keys, stop.clone()).expect("the protocol is readable");
        let (listen, stopped) = (config.listen.clone(), stop.clone());
        let server = tokio::spawn(async move {
            parts::serve_grpc(listener, router, &listen, stopped).await;
        });
        let channel = Channel::from_shared(format!("http://{address}")).expect("a URI");
        let channel = channel.connect().await.expect("connects");
        Self { engine, config, channel, stop, server }
    }

    /// A server whose model is loaded and warm.
    async fn ready(adjust: impl FnOnce(&mut Config)) -> Self {
        let served = Self::start(adjust).await;
        served.load();
        served
    }

    fn load(&self) {
        let described = Described {
            tokenizer: None,
            writer: None,
            image: image_spec(),
            card: card(),
            reads_texts: false,
        };
        let loader = Arc::new(|_| Ok(Parts { vision: Some(Box::new(Grey)), ..Parts::default() }));
        parts::install(&self.engine, &self.config, "fake", described, loader).expect("a worker");
        self.engine.registry().mark_warm("fake");
    }

    fn shut_down(&self) {
        self.stop.cancel();
    }

    /// Waits until the server has ended.
    async fn ended(self) -> Duration {
        let Self { channel, server, .. } = self;
        // The server waits for its connections, and this is one of them.
        drop(channel);
        let start = Instant::now();
        server.await.expect("does not panic");
        start.elapsed()
    }

    fn counted(&self, route: &str, code: &str) -> u64 {
        self.engine.metrics().requests.with_label_values(&[route, code]).get()
    }
}

/// A tower that gives every image the same embedding.
struct Grey;

impl Tower for Grey {
    type Input = Pixels;

    fn begin(&mut self, rows: &[Pixels], taps: &[Tap]) -> Result<Pass, TowerError> {
        let grey = |_: &Pixels| Embedding::new(vec![1.0, 2.0, 2.0, 0.0]);
        Pass::pooled(taps, || Ok(rows.iter().map(grey).collect()))
    }
}

fn card() -> ModelCard {
    ModelCard {
        family: "siglip".to_owned(),
        revision: "test".to_owned(),
        embedding_dim: DIM,
        text_length: None,
        patch_size: 16,
        leading_tokens: 0,
        last_state_is_normed: true,
        vision_layers: 2,
        vision_width: DIM,
        scorer: Some(HEAD),
        reader: None,
        language: None,
        queries: None,
        matching_start: None,
        parameters: 0,
        weight_bytes: 0,
        dtype: DType::F32,
        agreement: None,
        device: Device::Cpu,
        cpu_features: None,
        matmul_precision: None,
        cuda_kernels: None,
    }
}

fn image_spec() -> ImageSpec {
    ImageSpec {
        size: TargetSize::Fixed { height: 32, width: 32 },
        resample: Resample::Bicubic,
        rescale: 1.0 / 255.0,
        mean: [0.5; 3],
        std: [0.5; 3],
    }
}
