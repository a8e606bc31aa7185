//! HTTP/1.1 and cleartext HTTP/2 on one port, and the drain of its connections.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
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
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use tower::Service as _;
use tracing::{debug, warn};

/// How long a request's head may take, and a connection may idle between requests. Longer than the
/// minute that load balancers idle by default: the side that closes first must not be the server, or
/// a request sent at that moment is lost.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a new connection may take to its first request. Ends those that never send one.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests of one HTTP/2 connection at once.
const MAX_STREAMS: u32 = 256;
/// A peer that vanished without a word is noticed after this, plus the timeout.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long to wait when the process is out of file descriptors: some request will end by then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

type Builder = auto::Builder<TokioExecutor>;

/// Serves until `stop`; then drains, and returns once no connection is left.
///
/// While requests from before the stop are answered, the port and the connections stay open: a client
/// reads `shutting_down` where a closed connection would tell it nothing, or lose the request that it
/// was just sending. Each such answer closes its connection. The accept loop is our own because
/// `axum::serve` closes at once, and sets no timeouts.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let (accepted, _) = watch::channel(());
    let server = Server { builder: builder(), router, accepted, stop };
    let connections = GracefulShutdown::new();
    let drained = async {
        server.stop.cancelled().await;
        server.accepted.closed().await;
    };
    let mut drained = std::pin::pin!(drained);
    loop {
        tokio::select! {
            biased;
            () = &mut drained => break,
            stream = accept(&listener) => server.spawn(stream, connections.watcher()),
        }
    }
    drop(listener);
    // What is still open is idle, or writes its last answer.
    connections.shutdown().await;
}

fn builder() -> Builder {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder
}

/// The next connection. Errors are the connection's or pass with time, so they never end the loop.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers are written in one piece; waiting to fill a packet only adds latency.
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "cannot set TCP_NODELAY");
                }
                return stream;
            }
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
    router: Router,
    /// Each request from before the stop holds a receiver until its answer is out.
    accepted: watch::Sender<()>,
    stop: CancellationToken,
}

impl Server {
    fn spawn(&self, stream: TcpStream, watcher: Watcher) {
        let (router, stop) = (self.router.clone(), self.stop.clone());
        let accepted = self.accepted.clone();
        let seen = Arc::new(AtomicBool::new(false));
        let service = {
            let seen = Arc::clone(&seen);
            service_fn(move |request: Request<Incoming>| {
                seen.store(true, Ordering::Relaxed);
                let work = (!stop.is_cancelled()).then(|| accepted.subscribe());
                answer(router.clone(), request, work)
            })
        };
        let connection = self.builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = watcher.watch(connection);
        tokio::spawn(async move {
            tokio::select! {
                served = connection => {
                    if let Err(error) = served {
                        debug!(error, "a connection ended with an error");
                    }
                }
                () = silence(&seen) => debug!("closed a connection that sent no request"),
            }
        });
    }
}

/// Answers a request; `work` is what the drain waits for, none for a request that came after the stop.
async fn answer(
    mut router: Router,
    request: Request<Incoming>,
    work: Option<watch::Receiver<()>>,
) -> Result<Response, Infallible> {
    let version = request.version();
    // A router is always ready, so it needs no poll before the call.
    let mut response = router.call(request).await?;
    if work.is_none() && version <= Version::HTTP_11 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    // The closure, and with it the receiver, lives as long as the body. A mapping of frames would do as
    // well, but hides the body's length.
    Ok(response.map(|body| {
        Body::new(body.map_err(move |error| {
            let _held = &work;
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
