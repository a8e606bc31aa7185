//! The one door of every listener: which connections are open, for how long, and how they drain.
//!
//! HTTP/1.1 and HTTP/2 share the HTTP port; the gRPC port speaks HTTP/2 alone. All else is the same at both.

mod exchange;
mod leftover;
mod written;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, Version, header},
    response::Response,
};
use hyper::{body::Incoming, rt::Executor, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service as _;
use tracing::{debug, warn};

pub(super) use self::exchange::Exchanges;
use self::{
    exchange::{Activity, Exchange},
    written::Written,
};
use super::{large, listen::Listener};
use crate::config;

/// How long a new connection may take to its first request. Ends those that never send one.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a TLS handshake may take: two round trips, however far away the client.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of one HTTP/2 connection at once. Far above what a batcher of a few dozen rows can use, far below what
/// would let one client hold the memory of the process.
const MAX_STREAMS: u32 = 256;
/// Bytes of one gRPC stream that may be on the way unread: a common image arrives without waiting for the client to
/// be told that there is room.
const GRPC_STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// The same over all streams of a gRPC connection.
const GRPC_CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// A peer that vanished without a word is noticed after this, plus the timeout.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Most bytes of a request's head over HTTP/1, and of a body that are read at once.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// The same of a head over HTTP/2: ample for identifiers and a key.
const MAX_HEADER_LIST_BYTES: u32 = 16 << 10;
/// A server that drained is quiet once no request came for this long: one that a client sent over an open
/// connection before it could read of the end is still answered. Longer than a packet takes within a region.
const QUIET: Duration = Duration::from_millis(100);
/// Clients that never stop to ask keep no server from its end.
const MAX_QUIET_ROUNDS: usize = 10;
/// How long to wait when the process is out of file descriptors: some request will end by then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.1, and HTTP/2 where the client begins with it.
    Http,
    /// HTTP/2 alone.
    Grpc,
}

/// What a listener serves, and within which bounds.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) router: Router,
    pub(super) protocol: Protocol,
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
    /// The open requests, which all doors count together.
    pub(super) exchanges: Arc<Exchanges>,
    /// Where requests with large bodies are worked on; here, where there are no such threads.
    pub(super) large: Option<Handle>,
}

impl Door {
    /// A door in plain HTTP that is never told to close.
    pub(super) fn new(router: Router, listen: &config::Listen) -> Self {
        Self {
            router,
            protocol: Protocol::Http,
            tls: None,
            idle_timeout: listen.idle_timeout,
            write_timeout: listen.write_timeout,
            max_connections: listen.max_connections,
            shares_port: listen.reuse_port,
            leave: CancellationToken::new(),
            stop: CancellationToken::new(),
            exchanges: Arc::default(),
            large: None,
        }
    }

    /// The protocol of one connection.
    fn builder(&self, streams: Streams) -> auto::Builder<Streams> {
        let mut builder = auto::Builder::new(streams);
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.idle_timeout)
            .max_buf_size(MAX_HEAD_BYTES)
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADER_LIST_BYTES)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        if self.protocol == Protocol::Http {
            return builder;
        }
        builder
            .http2()
            .initial_stream_window_size(GRPC_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(GRPC_CONNECTION_WINDOW_BYTES);
        builder.http2_only()
    }
}

/// Serves until `stop`; then drains, and returns once no connection is left.
///
/// While requests from before the stop are answered, the port and the connections stay open: a client
/// reads `shutting_down` where a closed connection would tell it nothing, or lose the request that it
/// was just sending. Each such answer closes its connection. Then it waits until nobody asks any more, since
/// connections that are idle close without a word. A client that is itself waited for (for the rest of its request,
/// or to read its response) keeps its connection, but not the port.
///
/// The accept loop is our own because `axum::serve` closes at once, and sets no timeouts.
///
/// Where other processes share the port, it is closed already when they are to take over: what the system
/// has accepted by then is taken, and what comes after is theirs.
pub(super) async fn serve(listener: impl Listener, door: Door) {
    let slots = Arc::new(Semaphore::new(door.max_connections.min(Semaphore::MAX_PERMITS)));
    let server = Arc::new(Server {
        door,
        requests: AtomicUsize::new(0),
        connections: TaskTracker::new(),
        closing: CancellationToken::new(),
    });
    let drained = async {
        server.door.stop.cancelled().await;
        server.door.exchanges.done().await;
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
                    server.spawn(stream, None);
                }
            }
            (stream, slot) = next => server.spawn(stream, slot),
        }
    }
    drop(listener);
    // What is still open is idle, or waits for its client.
    server.closing.cancel();
    server.connections.close();
    server.connections.wait().await;
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

/// What every connection of a listener shares.
struct Server {
    door: Door,
    /// Requests so far.
    requests: AtomicUsize,
    connections: TaskTracker,
    /// From here on a connection without a request is closed.
    closing: CancellationToken,
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

    fn spawn<S>(self: &Arc<Self>, stream: S, slot: Option<OwnedSemaphorePermit>)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let mut stream = TimeoutStream::new(stream);
        // A client that never reads would hold its answer, and the drain, for ever.
        stream.set_write_timeout(Some(self.door.write_timeout));
        let activity = Arc::new(Activity::default());
        let stream = Written::new(Box::pin(stream), Arc::clone(&activity.blocked));
        let server = Arc::clone(self);
        self.connections.spawn(async move {
            let _slot = slot;
            let Some(tls) = &server.door.tls else {
                return server.connection(stream, activity).await;
            };
            // Not in the accept loop: a client that is slow in its handshake keeps nobody waiting.
            let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream));
            match server.closing.run_until_cancelled(shaken).await {
                Some(Ok(Ok(stream))) => server.connection(stream, activity).await,
                Some(Ok(Err(error))) => debug!(%error, "a TLS handshake failed"),
                Some(Err(_)) => debug!("a TLS handshake took too long"),
                None => debug!("the server closed before a TLS handshake was done"),
            }
        });
    }

    /// Serves one connection to its end.
    async fn connection<S>(self: &Arc<Self>, stream: S, activity: Arc<Activity>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let streams = Streams { begun: Arc::default(), write_timeout: self.door.write_timeout };
        let service = service_fn(|request: Request<Incoming>| {
            self.requests.fetch_add(1, Ordering::Relaxed);
            answer(&self.door, request, &activity, &streams)
        });
        let builder = self.door.builder(streams.clone());
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            served = connection.as_mut() => return log_end(served),
            () = activity.stays_silent(FIRST_REQUEST_TIMEOUT) => {
                return debug!("closed a connection that sent no request");
            }
            () = activity.idles(self.door.idle_timeout) => debug!("closing an idle connection"),
            () = self.closing.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            served = connection.as_mut() => log_end(served),
            // Half a head, or a client that does not answer the closing words of HTTP/2.
            () = activity.settles() => debug!("cut a connection without a request"),
        }
    }
}

fn log_end(served: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = served {
        debug!(error, "a connection ended with an error");
    }
}

/// Runs the streams of one HTTP/2 connection, and ends those whose client does not read.
///
/// Over HTTP/1.1 the write timeout of the connection does that. Over HTTP/2 a client can keep the connection busy
/// and take nothing of a stream, which then holds its response.
#[derive(Clone)]
struct Streams {
    /// The request that was taken last: the library calls the service and then runs its stream, one after the other.
    begun: Arc<Mutex<Option<Arc<Exchange>>>>,
    write_timeout: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let Some(exchange) = self.begun.lock().take() else {
            return TokioExecutor::new().execute(stream);
        };
        let timeout = self.write_timeout;
        TokioExecutor::new().execute(async move {
            tokio::select! {
                _ = stream => {}
                () = exchange.stays_unread(timeout) => debug!("reset a stream that its client does not read"),
            }
        });
    }
}

/// Answers a request.
fn answer(
    door: &Door,
    request: Request<Incoming>,
    activity: &Arc<Activity>,
    streams: &Streams,
) -> impl Future<Output = Result<Response, Infallible>> + use<> {
    let (exchange, open) = Exchange::begin(&door.exchanges, activity);
    let over_http2 = request.version() > Version::HTTP_11;
    if over_http2 {
        *streams.begun.lock() = Some(Arc::clone(&exchange));
    }
    let closes = door.leave.is_cancelled() && !over_http2;
    let mut router = door.router.clone();
    let threads = door.large.clone().filter(|_| large::may_be_large(&request));
    async move {
        // A router is always ready, so it needs no poll before the call.
        let work = router.call(leftover::Body::keep(request, exchange));
        let mut response = match threads {
            Some(threads) => large::run(&threads, work).await?,
            None => work.await?,
        };
        if closes {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| open.until_read(body, over_http2)))
    }
}
