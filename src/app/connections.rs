//! HTTP/1.1 and cleartext HTTP/2 on one port, and the drain of its connections.

mod leftover;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderValue, Version, header},
    response::Response,
};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::Service as _;
use tracing::{debug, warn};

use super::listen::Listener;
use crate::config;

/// How long a new connection may take to its first request. Ends those that never send one.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a TLS handshake may take: two round trips, however far away the client.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of one HTTP/2 connection at once.
const MAX_STREAMS: u32 = 256;
/// A peer that vanished without a word is noticed after this, plus the timeout.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Most bytes of a request's head over HTTP/1, and of a body that are read at once. Over HTTP/2 the library
/// has 16 KiB for heads.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// A server that drained is quiet once no request came for this long: one that a client sent over an open
/// connection before it could read of the end is still answered. Longer than a packet takes within a region.
const QUIET: Duration = Duration::from_millis(100);
/// Clients that never stop to ask keep no server from its end.
const MAX_QUIET_ROUNDS: usize = 10;
/// How long to wait when the process is out of file descriptors: some request will end by then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

type Builder = auto::Builder<TokioExecutor>;

/// What a listener serves, and within which bounds.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) router: Router,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) idle_timeout: Duration,
    pub(super) write_timeout: Duration,
    pub(super) max_connections: usize,
    /// Whether other processes take connections of this port too.
    pub(super) shares_port: bool,
    /// From here on connections are not kept.
    pub(super) leave: CancellationToken,
    /// From here on requests are refused.
    pub(super) stop: CancellationToken,
}

impl Door {
    /// A door in plain text that is never told to close.
    pub(super) fn new(router: Router, listen: &config::Listen) -> Self {
        Self {
            router,
            tls: None,
            idle_timeout: listen.idle_timeout,
            write_timeout: listen.write_timeout,
            max_connections: listen.max_connections,
            shares_port: listen.reuse_port,
            leave: CancellationToken::new(),
            stop: CancellationToken::new(),
        }
    }
}

/// Serves until `stop`; then drains, and returns once no connection is left.
///
/// While requests from before the stop are answered, the port and the connections stay open: a client
/// reads `shutting_down` where a closed connection would tell it nothing, or lose the request that it
/// was just sending. Each such answer closes its connection. Then it waits until nobody asks any more, since
/// connections that are idle close without a word. The accept loop is our own because
/// `axum::serve` closes at once, and sets no timeouts.
///
/// Where other processes share the port, it is closed already when they are to take over: what the system
/// has accepted by then is taken, and what comes after is theirs.
pub(super) async fn serve(listener: impl Listener, door: Door) {
    let (accepted, _) = watch::channel(());
    let slots = Arc::new(Semaphore::new(door.max_connections.min(Semaphore::MAX_PERMITS)));
    let server = Arc::new(Server {
        builder: builder(door.idle_timeout),
        door,
        accepted,
        requests: AtomicUsize::new(0),
    });
    let connections = GracefulShutdown::new();
    let drained = async {
        server.door.stop.cancelled().await;
        server.accepted.closed().await;
        server.quiet().await;
    };
    let mut drained = std::pin::pin!(drained);
    let mut listener = Some(listener);
    loop {
        let next = async {
            match &listener {
                Some(listener) => accept(listener, &slots).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = &mut drained => break,
            () = server.door.leave.cancelled(), if server.door.shares_port && listener.is_some() => {
                for stream in listener.take().into_iter().flat_map(Listener::into_accepted) {
                    server.spawn(stream, None, connections.watcher());
                }
            }
            (stream, slot) = next => server.spawn(stream, slot, connections.watcher()),
        }
    }
    drop(listener);
    // What is still open is idle, or writes its last answer.
    connections.shutdown().await;
}

fn builder(idle_timeout: Duration) -> Builder {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(idle_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder
}

/// The next connection, and its place among those that may be open. Errors are the connection's or pass
/// with time, so they never end the loop.
async fn accept<L: Listener>(
    listener: &L,
    slots: &Arc<Semaphore>,
) -> (L::Stream, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed.
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    loop {
        match listener.next().await {
            Ok(stream) => return (stream, slot),
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What every connection shares.
struct Server {
    builder: Builder,
    door: Door,
    /// Each request from before the stop holds a receiver until its answer is out.
    accepted: watch::Sender<()>,
    /// Requests so far.
    requests: AtomicUsize,
}

impl Server {
    /// Resolves once nobody asks any more.
    async fn quiet(&self) {
        for _ in 0..MAX_QUIET_ROUNDS {
            let before = self.requests.load(Ordering::Relaxed);
            tokio::time::sleep(QUIET).await;
            if self.requests.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    fn spawn<S>(self: &Arc<Self>, stream: S, slot: Option<OwnedSemaphorePermit>, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let mut stream = TimeoutStream::new(stream);
        // A client that never reads would hold its answer, and the drain, for ever.
        stream.set_write_timeout(Some(self.door.write_timeout));
        let (stream, server) = (Box::pin(stream), Arc::clone(self));
        tokio::spawn(async move {
            let _slot = slot;
            let Some(tls) = &server.door.tls else {
                return server.connection(stream, watcher).await;
            };
            // Not in the accept loop: a client that is slow in its handshake keeps nobody waiting.
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
                Ok(Ok(stream)) => server.connection(stream, watcher).await,
                Ok(Err(error)) => debug!(%error, "a TLS handshake failed"),
                Err(_) => debug!("a TLS handshake took too long"),
            }
        });
    }

    /// Serves one connection to its end.
    async fn connection<S>(self: Arc<Self>, stream: S, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let seen = Arc::new(AtomicBool::new(false));
        let service = {
            let (server, seen) = (Arc::clone(&self), Arc::clone(&seen));
            service_fn(move |request: Request<Incoming>| {
                seen.store(true, Ordering::Relaxed);
                server.requests.fetch_add(1, Ordering::Relaxed);
                let Door { router, leave, stop, .. } = &server.door;
                let work = (!stop.is_cancelled()).then(|| server.accepted.subscribe());
                answer(router.clone(), request, Turn { work, leaves: leave.is_cancelled() })
            })
        };
        let connection = self.builder.serve_connection(TokioIo::new(stream), service).into_owned();
        tokio::select! {
            served = watcher.watch(connection) => {
                if let Err(error) = served {
                    debug!(error, "a connection ended with an error");
                }
            }
            () = silence(&seen) => debug!("closed a connection that sent no request"),
        }
    }
}

/// When a request came.
struct Turn {
    /// What the drain waits for, none for a request that came after the stop.
    work: Option<watch::Receiver<()>>,
    /// Whether its client shall go elsewhere from now on.
    leaves: bool,
}

/// Answers a request.
async fn answer(
    mut router: Router,
    request: Request<Incoming>,
    turn: Turn,
) -> Result<Response, Infallible> {
    let version = request.version();
    // A router is always ready, so it needs no poll before the call.
    let mut response = router.call(leftover::Body::keep(request)).await?;
    if turn.leaves && version <= Version::HTTP_11 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    // The closure, and with it the receiver, lives as long as the body. A mapping of frames would do as
    // well, but hides the body's length.
    Ok(response.map(|body| {
        Body::new(body.map_err(move |error| {
            let _held = &turn.work;
            error
        }))
    }))
}

/// Resolves if no request was seen in time. hyper's own timeout begins only once it knows the protocol.
async fn silence(seen: &AtomicBool) {
    tokio::time::sleep(FIRST_REQUEST_TIMEOUT).await;
    if seen.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}
