//! The only wiring: configuration to running server.
//!
//! [`App::bind`] takes the ports first, so that probes and scrapes are answered while the model loads;
//! [`App::serve`] loads, serves and drains. What a caller (the command line, a test) needs while the
//! server runs is in its [`AppHandle`].

mod admin;
mod connections;
mod descriptors;
mod drain;
#[cfg(failpoints)]
mod failpoint;
mod failure;
mod install;
mod large;
mod listen;
#[doc(hidden)]
pub mod parts;
mod security;
#[cfg(unix)]
mod socket;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

pub use self::failure::AppError;
use self::{
    connections::{Door, Exchanges, Protocol},
    install::Site,
    large::LargeRequests,
    listen::Port,
    security::Security,
};
use crate::{
    config::{self, Config, LoadTime, Served},
    engine::Engine,
    fetch::Fetcher,
    grpc,
    registry::{Model, Registry},
    rest,
    telemetry::{Metrics, Traces},
};

/// A server that holds its ports, but answers nothing yet.
pub struct App {
    config: Config,
    http: Port,
    grpc: Option<Port>,
    admin: Option<Port>,
    #[cfg(unix)]
    unix: Option<socket::Socket>,
    security: Security,
    ready: watch::Sender<bool>,
    handle: AppHandle,
}

/// What the outside needs of a server while it runs. Cheap to clone.
#[derive(Clone)]
pub struct AppHandle {
    engine: Arc<Engine>,
    http: SocketAddr,
    grpc: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    encrypted: bool,
    drain_delay: Duration,
    leave: CancellationToken,
    stop: CancellationToken,
    ready: watch::Receiver<bool>,
    exchanges: Arc<Exchanges>,
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

    /// Where metrics and probes are served apart, if they are.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Whether HTTP and gRPC are spoken over TLS.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Resolves once every model is loaded and warm. Never resolves if that fails: then
    /// [`App::serve`] returns.
    pub async fn ready(&self) {
        let mut ready = self.ready.clone();
        if ready.wait_for(|ready| *ready).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// How long after [`AppHandle::leave`] to [`AppHandle::stop`].
    #[must_use]
    pub fn drain_delay(&self) -> Duration {
        self.drain_delay
    }

    /// Begins to send traffic elsewhere: readiness turns red, and connections are not kept. What comes is
    /// still answered.
    pub fn leave(&self) {
        self.engine.registry().leave();
        self.leave.cancel();
    }

    /// Begins to drain: readiness is red, new work is refused, accepted work is finished.
    pub fn stop(&self) {
        // First of all: who sees red readiness, and no delay was asked for, is refused from then on.
        self.engine.registry().close();
        self.stop.cancel();
        self.leave();
    }
}

impl App {
    /// Takes the ports and starts the engine, without a model so far.
    ///
    /// # Errors
    /// [`AppError::Bind`], [`AppError::BindSocket`] or [`AppError::Pool`].
    pub async fn bind(config: Config) -> Result<Self, AppError> {
        let metrics = Arc::new(Metrics::new());
        let traces = Traces::start(&config.trace, &metrics)?;
        let engine = empty_engine(&config, metrics, traces)?;
        let mut config = config;
        config.listen.max_connections = descriptors::connections(&config.listen);
        let security = Security::load(&config, &engine)?;
        let shared = config.listen.reuse_port;
        let (http, http_addr) = Port::take(config.listen.http, shared)?;
        let (grpc, grpc_addr) = Port::take_if(config.listen.grpc, shared)?;
        // Each process has its own metrics, so this port is not shared.
        let (admin, admin_addr) = Port::take_if(config.listen.admin, false)?;
        #[cfg(unix)]
        let unix = socket::Socket::take_if(&config.listen)?;
        let (sender, ready) = watch::channel(false);
        let handle = AppHandle {
            engine,
            http: http_addr,
            grpc: grpc_addr,
            admin: admin_addr,
            encrypted: security.is_encrypted(),
            drain_delay: config.listen.drain_delay,
            leave: CancellationToken::new(),
            stop: CancellationToken::new(),
            ready,
            exchanges: Arc::default(),
        };
        Ok(Self {
            config,
            http,
            grpc,
            admin,
            #[cfg(unix)]
            unix,
            security,
            ready: sender,
            handle,
        })
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
        let Self {
            config,
            http,
            grpc,
            admin,
            #[cfg(unix)]
            unix,
            security,
            ready,
            handle,
        } = self;
        let mut listeners = JoinSet::new();
        // What follows files and answers probes goes on until the end of the drain.
        let _following = security.follow_files();
        let _probes = admin::listen(admin, &config.listen, &handle)?;
        let large = LargeRequests::start().map_err(AppError::Listen)?;
        let access = security.rest(&config.listen);
        let router = rest::router(rest::AppState::with_access(Arc::clone(&handle.engine), access));
        let door = Door {
            tls: security.acceptor(&["h2", "http/1.1"])?,
            leave: handle.leave.clone(),
            stop: handle.stop.clone(),
            exchanges: Arc::clone(&handle.exchanges),
            large: large.handle(),
            ..Door::new(router, &config.listen)
        };
        #[cfg(unix)]
        if let Some(socket) = unix {
            // In plain text, since what is said does not leave the machine; all else is as at the port.
            let door = Door {
                tls: None,
                shares_port: false,
                router: door.router.clone().layer(axum::Extension(rest::OverUnixSocket)),
                ..door.clone()
            };
            listeners.spawn(async move {
                connections::serve(socket, door).await;
                Ok("Unix socket")
            });
        }
        let asked = handle.clone();
        listeners.spawn(async move {
            if let Some(socket) = http.open(&asked).await.map_err(AppError::Listen)? {
                connections::serve(socket, door).await;
            }
            Ok("HTTP")
        });
        if let Some(port) = grpc {
            // Where another process listens too, its clients are sent there at once.
            let shared = config.listen.reuse_port;
            let stop = if shared { handle.leave.clone() } else { handle.stop.clone() };
            let router = grpc::router(&handle.engine, security.keys(), stop.clone())?;
            let door = Door {
                protocol: Protocol::Grpc,
                tls: security.acceptor(&["h2"])?,
                leave: handle.leave.clone(),
                stop,
                exchanges: Arc::clone(&handle.exchanges),
                large: large.handle(),
                ..Door::new(router, &config.listen)
            };
            let asked = handle.clone();
            listeners.spawn(async move {
                if let Some(socket) = port.open(&asked).await.map_err(AppError::Listen)? {
                    connections::serve(socket, door).await;
                }
                Ok("gRPC")
            });
        }
        info!(
            http = %handle.http,
            grpc = handle.grpc.map(tracing::field::display),
            admin = handle.admin.map(tracing::field::display),
            unix = config.listen.unix.as_ref().map(|path| tracing::field::display(path.display())),
            "listening"
        );

        let outcome = run(&config, &handle, &ready, &mut listeners).await;
        if outcome.is_err()
            && !*ready.borrow()
            && handle.engine.registry().loaded().next().is_none()
        {
            // Nothing was ever accepted, so there is nothing to drain.
            return outcome;
        }
        handle.stop();
        let outcome =
            outcome.and(drain::drain(&handle, listeners, config.listen.grace_period).await);
        if let Some(traces) = handle.engine.traces().cloned() {
            tokio::task::spawn_blocking(move || traces.shut_down()).await?;
        }
        outcome
    }
}

/// An engine with every configured name, none of them loaded.
fn empty_engine(
    config: &Config,
    metrics: Arc<Metrics>,
    traces: Option<Arc<Traces>>,
) -> Result<Arc<Engine>, AppError> {
    let (mut names, mut aliases) = (Vec::new(), Vec::new());
    for served in served(config)? {
        metrics.touch_model(&served.name);
        aliases.extend(served.aliases.into_iter().map(|alias| (alias, served.name.clone())));
        names.push(served.name);
    }
    let registry = Registry::new(names).with_aliases(aliases);
    let engine = Engine::new(config, registry, metrics)?.with_traces(traces);
    if !config.fetch.enabled {
        return Ok(Arc::new(engine));
    }
    let fetcher = Fetcher::new(&config.fetch, config.limits.max_image_bytes)?;
    Ok(Arc::new(engine.with_fetcher(fetcher)))
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
    let engine = empty_engine(config, Arc::new(Metrics::new()), None)?;
    let site = Site::new(config, &engine);
    for default in served(config)?.into_iter().take(1) {
        // Its towers are needed at once, and until the end.
        let model = config::Model { load: LoadTime::Eager, idle: Duration::ZERO, ..default.model };
        site.load_and_warm(Served { model, ..default }).await?;
    }
    Ok(engine)
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
        let watch = |model: Arc<Model>| async move {
            model.handle.stopped().await;
            model
        };
        let site = Site::new(config, &handle.engine);
        // What is loaded first stays, so what is left for the others is known then.
        let (eager, lazy): (Vec<_>, Vec<_>) =
            served(config)?.into_iter().partition(|one| one.model.load == LoadTime::Eager);
        let (sender, mut late) = mpsc::channel(1);
        // One after the other: each load keeps every core busy, and holds file and weights in memory.
        for served in eager.into_iter().chain(lazy) {
            workers.extend(site.install(served, &sender).await?.map(watch));
        }
        ready.send_replace(true);
        loop {
            tokio::select! {
                Some(model) = workers.next(), if !workers.is_empty() => {
                    return Err(worker_ended(&model));
                }
                // The sender is here, so the channel never ends.
                Some(model) = late.recv() => workers.push(watch(model)),
            }
        }
    };
    tokio::select! {
        // First: an idle listener ends at once after a stop, which is no failure then.
        biased;
        () = handle.stop.cancelled() => Ok(()),
        failure = load_and_wait => failure,
        ended = early_end(listeners, &handle.leave) => Err(ended),
    }
}

/// Resolves if a listener ends although nobody told it to.
async fn early_end(listeners: &mut Listeners, leave: &CancellationToken) -> AppError {
    while let Some(ended) = listeners.join_next().await {
        match ended {
            Err(panic) => return panic.into(),
            Ok(Err(failure)) => return failure,
            Ok(Ok(name)) if !leave.is_cancelled() => return AppError::Ended(name),
            // It has left its port to other processes.
            Ok(Ok(_)) => {}
        }
    }
    std::future::pending().await
}

/// A worker that ended although nobody stopped it. It was replaced as often as it may be, so this process
/// is of no more use: what is in flight is answered, and the supervisor of the process starts it again.
fn worker_ended(model: &Model) -> AppError {
    let state = model.handle.state();
    error!(model = model.name, ?state, "the model's worker is gone; the server drains and exits");
    AppError::WorkerGone { model: model.name.clone() }
}
