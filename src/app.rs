//! The only wiring: configuration to running server.
//!
//! [`App::bind`] takes the ports first, so that probes and scrapes are answered while the model loads;
//! [`App::serve`] loads, serves and drains. What a caller (the command line, a test) needs while the
//! server runs is in its [`AppHandle`].

mod connections;
mod install;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{
    batch::WorkerState,
    config::{Config, Served},
    engine::Engine,
    error::Error,
    grpc,
    hub::HubError,
    model::LoadError,
    registry::{Model, Registry},
    rest,
    telemetry::Metrics,
};

/// Why the server could not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A port could not be taken.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The decode pool's threads could not be started.
    #[error("cannot start the threads of the decode pool")]
    Pool(#[from] rayon::ThreadPoolBuildError),
    /// The model's worker thread could not be started.
    #[error("cannot start the model's worker")]
    Worker(#[source] io::Error),
    /// The list of models contradicts itself.
    #[error("{0}: {1}")]
    Models(&'static str, String),
    /// The checkpoint could not be had.
    #[error("cannot get the model `{model}`")]
    Hub {
        /// The source asked for.
        model: String,
        /// What the hub or the cache said.
        source: Box<HubError>,
    },
    /// The checkpoint could not be loaded.
    #[error("cannot load the model `{model}`")]
    Load {
        /// The source asked for.
        model: String,
        /// Names the file, and the key or tensor at fault.
        source: LoadError,
    },
    /// The model was loaded, but a tower fails.
    #[error("the model `{model}` failed its warm-up")]
    WarmUp {
        /// The model's name.
        model: String,
        /// What the tower said.
        source: Box<Error>,
    },
    /// The gRPC listener failed.
    #[error("the gRPC listener failed")]
    Grpc(#[from] grpc::ServeError),
    /// A task that runs as long as the server does came to an end.
    #[error("the {0} listener ended by itself")]
    Ended(&'static str),
    /// A task that runs as long as the server does panicked.
    #[error("a background task panicked")]
    Panicked(#[from] JoinError),
    /// Requests were still running when the grace period was over.
    #[error("the grace period of {grace:?} is over with {requests} requests unanswered")]
    GraceExceeded {
        /// What was granted.
        grace: Duration,
        /// What was cut off.
        requests: i64,
    },
}

/// A server that holds its ports, but answers nothing yet.
pub struct App {
    config: Config,
    http: TcpListener,
    grpc: Option<TcpListener>,
    ready: watch::Sender<bool>,
    handle: AppHandle,
}

/// What the outside needs of a server while it runs. Cheap to clone.
#[derive(Clone)]
pub struct AppHandle {
    engine: Arc<Engine>,
    http: SocketAddr,
    grpc: Option<SocketAddr>,
    stop: CancellationToken,
    ready: watch::Receiver<bool>,
}

impl AppHandle {
    /// The engine, for callers in the same process.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Where HTTP is served: the port really taken, where port 0 was asked for.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// Where gRPC is served, if it is.
    #[must_use]
    pub fn grpc_addr(&self) -> Option<SocketAddr> {
        self.grpc
    }

    /// Resolves once every model is loaded and warm. Never resolves if that fails: then
    /// [`App::serve`] returns.
    pub async fn ready(&self) {
        let mut ready = self.ready.clone();
        if ready.wait_for(|ready| *ready).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Begins to drain: readiness turns red, new work is refused, accepted work is finished.
    pub fn stop(&self) {
        self.engine.registry().close();
        self.stop.cancel();
    }
}

impl App {
    /// Takes the ports and starts the engine, without a model so far.
    ///
    /// # Errors
    /// [`AppError::Bind`] or [`AppError::Pool`].
    pub async fn bind(config: Config) -> Result<Self, AppError> {
        let engine = empty_engine(&config)?;
        let (http, http_addr) = listen(config.listen.http).await?;
        let (grpc, grpc_addr) = match config.listen.grpc {
            Some(addr) => listen(addr).await.map(|(socket, addr)| (Some(socket), Some(addr)))?,
            None => (None, None),
        };
        let (sender, ready) = watch::channel(false);
        let handle = AppHandle {
            engine,
            http: http_addr,
            grpc: grpc_addr,
            stop: CancellationToken::new(),
            ready,
        };
        Ok(Self { config, http, grpc, ready: sender, handle })
    }

    /// What the outside needs while the server runs.
    #[must_use]
    pub fn handle(&self) -> AppHandle {
        self.handle.clone()
    }

    /// Serves until [`AppHandle::stop`], then drains.
    ///
    /// # Errors
    /// The model cannot be loaded, a listener failed, or the grace period was too short.
    pub async fn serve(self) -> Result<(), AppError> {
        let Self { config, http, grpc, ready, handle } = self;
        let mut listeners = JoinSet::new();
        let router = rest::router(rest::AppState::new(Arc::clone(&handle.engine)));
        let stop = handle.stop.clone();
        listeners.spawn(async move {
            connections::serve(http, router, stop).await;
            Ok("HTTP")
        });
        if let Some(socket) = grpc {
            let (engine, stop) = (Arc::clone(&handle.engine), handle.stop.clone());
            listeners.spawn(async move {
                grpc::serve(socket, engine, stop.cancelled_owned()).await?;
                Ok("gRPC")
            });
        }
        info!(http = %handle.http, grpc = handle.grpc.map(tracing::field::display), "listening");

        let outcome = run(&config, &handle, &ready, &mut listeners).await;
        if outcome.is_err()
            && !*ready.borrow()
            && handle.engine.registry().loaded().next().is_none()
        {
            // Nothing was ever accepted, so there is nothing to drain.
            return outcome;
        }
        handle.stop();
        outcome.and(drain(&handle, listeners, config.listen.grace_period).await)
    }
}

/// An engine with every configured name, none of them loaded.
fn empty_engine(config: &Config) -> Result<Arc<Engine>, AppError> {
    let metrics = Arc::new(Metrics::new());
    let (mut names, mut aliases) = (Vec::new(), Vec::new());
    for served in served(config)? {
        metrics.touch_model(&served.name);
        aliases.extend(served.aliases.into_iter().map(|alias| (alias, served.name.clone())));
        names.push(served.name);
    }
    let registry = Registry::new(names).with_aliases(aliases);
    Ok(Arc::new(Engine::new(config, registry, metrics)?))
}

fn served(config: &Config) -> Result<Vec<Served>, AppError> {
    config.served().map_err(|(path, message)| AppError::Models(path, message))
}

/// A warm engine without a listener, for commands that answer by themselves. It has the default model,
/// which they use; the others stay unloaded.
///
/// # Errors
/// [`AppError::Pool`], or those of a model that cannot be had, loaded or run.
pub async fn engine_alone(config: &Config) -> Result<Arc<Engine>, AppError> {
    let engine = empty_engine(config)?;
    for default in served(config)?.into_iter().take(1) {
        install::load_and_warm(default, config, &engine).await?;
    }
    Ok(engine)
}

async fn listen(addr: SocketAddr) -> Result<(TcpListener, SocketAddr), AppError> {
    let bind = async {
        let socket = TcpListener::bind(addr).await?;
        let addr = socket.local_addr()?;
        Ok((socket, addr))
    };
    bind.await.map_err(|source| AppError::Bind { addr, source })
}

type Listeners = JoinSet<Result<&'static str, AppError>>;

/// Loads the models and waits for the stop. A listener that ends before it is a failure.
async fn run(
    config: &Config,
    handle: &AppHandle,
    ready: &watch::Sender<bool>,
    listeners: &mut Listeners,
) -> Result<(), AppError> {
    let load_and_wait = async {
        let mut workers = FuturesUnordered::new();
        // One after the other: each load keeps every core busy, and holds file and weights in memory.
        for served in served(config)? {
            let model = install::load_and_warm(served, config, &handle.engine).await?;
            workers.push(async move {
                model.handle.stopped().await;
                model
            });
        }
        ready.send_replace(true);
        while let Some(model) = workers.next().await {
            report_worker(&model);
        }
        // Readiness is red for good, but probes and scrapes are still answered: who watches the
        // server decides when it goes.
        std::future::pending::<Result<(), AppError>>().await
    };
    tokio::select! {
        // First: an idle listener ends at once after a stop, which is no failure then.
        biased;
        () = handle.stop.cancelled() => Ok(()),
        failure = load_and_wait => failure,
        Some(ended) = listeners.join_next() => Err(AppError::Ended(ended??)),
    }
}

/// A worker that ended although nobody stopped it.
fn report_worker(model: &Model) {
    let state = model.handle.state();
    if state == WorkerState::Failed {
        error!(model = model.name, "the model's worker died; the server is not ready any more");
    } else {
        error!(model = model.name, ?state, "the model's worker ended by itself");
    }
}

/// Waits for what was accepted: the connections first, then the rows in the queues.
async fn drain(
    handle: &AppHandle,
    mut listeners: Listeners,
    grace: Duration,
) -> Result<(), AppError> {
    let requests = &handle.engine.metrics().requests_in_flight;
    info!(requests = requests.get(), ?grace, "draining");
    let work = async {
        while let Some(ended) = listeners.join_next().await {
            ended??;
        }
        let models = || handle.engine.registry().loaded();
        models().for_each(|model| model.handle.close());
        for model in models() {
            model.handle.stopped().await;
        }
        Ok(())
    };
    let timed = tokio::time::timeout(grace, work).await;
    let requests = requests.get();
    timed.unwrap_or(Err(AppError::GraceExceeded { grace, requests }))?;
    info!("drained");
    Ok(())
}
