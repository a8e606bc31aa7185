//! What clients still send once their answer is there.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::HttpBody,
    http::{Request, Version, header},
};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::{runtime::Handle, time::timeout};

use super::exchange::{Exchange, Held};

/// How long a body is read on whose request is answered already: a hundred megabytes over a slow line.
const TIME: Duration = Duration::from_secs(10);
/// How long between two of its parts.
const SILENCE: Duration = Duration::from_secs(2);
/// How much of it.
const BYTES: usize = 256 << 20;

/// A request's body that is read to its end even where the server has no use for it.
///
/// Most clients send all of a request before they read its answer. One that is refused by its head, and its
/// connection closed with bytes on the way, loses the answer: the system resets the connection, and what
/// waits to be read goes with it. So what is left of the body is read and thrown away, within bounds, while
/// the client reads its answer. Over HTTP/2 the stream alone is ended, which harms nothing.
pub(super) struct Body {
    /// None once the rest is read elsewhere.
    inner: Option<Incoming>,
    /// Whether the client sends the rest without being asked to.
    comes_unasked: bool,
    /// The request, which is told whether its client is waited for.
    exchange: Arc<Exchange>,
}

impl Body {
    /// Takes a request's body along.
    pub(super) fn keep(request: Request<Incoming>, exchange: Arc<Exchange>) -> Request<Self> {
        let over_http1 = request.version() <= Version::HTTP_11;
        // A client that asks first sends nothing before it is told to go on, which the first read does.
        let asks = request.headers().contains_key(header::EXPECT);
        request.map(|body| Self { inner: Some(body), comes_unasked: over_http1 && !asks, exchange })
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.inner else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        this.exchange.awaits_request(polled.is_pending());
        let Poll::Ready(frame) = polled else { return Poll::Pending };
        if !matches!(frame, Some(Ok(_))) {
            // Nothing comes any more.
            this.inner = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        // Nobody reads it any more.
        self.exchange.awaits_request(false);
        let Some(body) = self.inner.take().filter(|body| !body.is_end_stream()) else { return };
        // Without a runtime the process is about to end.
        if let (true, Ok(runtime)) = (self.comes_unasked, Handle::try_current()) {
            let held = self.exchange.activity.hold();
            runtime.spawn(timeout(TIME, read_on(body, held)));
        }
    }
}

/// * `_held`: keeps the connection from being taken for idle
async fn read_on(mut body: Incoming, _held: Held) {
    let mut left = BYTES;
    while let Ok(Some(Ok(frame))) = timeout(SILENCE, body.frame()).await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(bytes) {
            Some(less) => left = less,
            None => return,
        }
    }
}
