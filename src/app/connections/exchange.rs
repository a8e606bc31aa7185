//! Which requests are open, and who is waited for: the server or the client.
//!
//! A drain must finish every request that the server still works on. It must not wait without an end for a client
//! that holds back the rest of its request, or does not read its response. So each request says at every moment
//! whose turn it is.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;

/// The server waits for the next part of the request's body.
const AWAITS_REQUEST: u8 = 1;
/// A part of the response was handed over, and the next one has not been asked for.
const AWAITS_READER: u8 = 2;
/// The response is out, or the client has left.
const ENDED: u8 = 4;

/// Most bytes that are handed to an HTTP/2 stream at once. The stream asks for more only while the client reads, so
/// the end of a long response is not reached, and the request does not end, long before the client has it.
const STREAM_PART_BYTES: usize = 64 << 10;

/// How long a connection that is told to close may stay open without a request: enough for what was just written,
/// and for a request that was already on its way.
const LINGER: Duration = Duration::from_secs(1);

/// The open requests of all connections of the server.
#[derive(Debug, Default)]
pub(in crate::app) struct Exchanges {
    open: AtomicUsize,
    /// Those among them that the server has yet to do something for.
    ours: AtomicUsize,
    /// Told when `ours` becomes zero.
    done: Notify,
}

impl Exchanges {
    /// Number of requests whose response has not been sent in full, whether the server or the client is late.
    pub(in crate::app) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Requests that have arrived in full and whose response the server still has to make.
    pub(in crate::app) fn ours(&self) -> usize {
        self.ours.load(Ordering::Acquire)
    }

    /// Resolves once the server has nothing to do for any request.
    pub(super) async fn done(&self) {
        loop {
            let told = self.done.notified();
            if self.ours() == 0 {
                return;
            }
            told.await;
        }
    }

    fn no_longer_ours(&self) {
        if self.ours.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_waiters();
        }
    }
}

/// What happens on one connection.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Requests that are open, and bodies that are still read after their response.
    open: AtomicUsize,
    /// Whether there was a request at all.
    seen: AtomicBool,
    /// Whether the client takes no bytes at the moment.
    pub(super) blocked: Arc<AtomicBool>,
    /// Told when `open` leaves zero, and when it returns there.
    changed: Notify,
}

impl Activity {
    /// Keeps the connection from counting as idle for as long as the result lives.
    pub(super) fn hold(self: &Arc<Self>) -> Held {
        self.seen.store(true, Ordering::Release);
        if self.open.fetch_add(1, Ordering::AcqRel) == 0 {
            self.changed.notify_one();
        }
        Held(Arc::clone(self))
    }

    /// Resolves if no request came within `timeout`. It may be asked once, when the connection begins.
    pub(super) async fn stays_silent(&self, timeout: Duration) {
        tokio::time::sleep(timeout).await;
        if self.seen.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
    }

    /// Resolves once the connection had requests, and then none for `timeout`.
    pub(super) async fn idles(&self, timeout: Duration) {
        loop {
            if !self.seen.load(Ordering::Acquire) || self.open.load(Ordering::Acquire) > 0 {
                self.changed.notified().await;
                continue;
            }
            if tokio::time::timeout(timeout, self.changed.notified()).await.is_err() {
                return;
            }
        }
    }

    /// Resolves once a connection that is told to close has nothing more to do.
    pub(super) async fn settles(&self) {
        loop {
            tokio::time::sleep(LINGER).await;
            if self.open.load(Ordering::Acquire) == 0 && !self.blocked.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

/// See [`Activity::hold`].
#[derive(Debug)]
pub(super) struct Held(Arc<Activity>);

impl Drop for Held {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.changed.notify_one();
        }
    }
}

/// One request, from its head to the end of its response.
#[derive(Debug)]
pub(super) struct Exchange {
    all: Arc<Exchanges>,
    pub(super) activity: Arc<Activity>,
    /// Who is waited for: the server where no bit is set.
    turn: AtomicU8,
    /// Parts of the response that were asked for.
    parts: AtomicUsize,
}

impl Exchange {
    /// The other half of the pair ends the request when it is dropped.
    pub(super) fn begin(all: &Arc<Exchanges>, activity: &Arc<Activity>) -> (Arc<Self>, Open) {
        all.open.fetch_add(1, Ordering::AcqRel);
        all.ours.fetch_add(1, Ordering::AcqRel);
        let exchange = Arc::new(Self {
            all: Arc::clone(all),
            activity: Arc::clone(activity),
            turn: AtomicU8::new(0),
            parts: AtomicUsize::new(0),
        });
        let open = Open { exchange: Arc::clone(&exchange), _held: activity.hold() };
        (exchange, open)
    }

    /// Says whether the request's body has a part that the client has not sent.
    pub(super) fn awaits_request(&self, awaits: bool) {
        self.set(AWAITS_REQUEST, awaits);
    }

    fn set(&self, bit: u8, on: bool) {
        let before = if on {
            self.turn.fetch_or(bit, Ordering::AcqRel)
        } else {
            self.turn.fetch_and(!bit, Ordering::AcqRel)
        };
        let after = if on { before | bit } else { before & !bit };
        match (before, after) {
            (0, 1..) => self.all.no_longer_ours(),
            (1.., 0) => {
                self.all.ours.fetch_add(1, Ordering::AcqRel);
            }
            _ => {}
        }
    }

    /// Resolves if the client takes nothing of the response for `timeout`, or up to twice as long.
    pub(super) async fn stays_unread(&self, timeout: Duration) {
        loop {
            let before = self.parts.load(Ordering::Relaxed);
            tokio::time::sleep(timeout).await;
            let unread = self.turn.load(Ordering::Acquire) & AWAITS_READER != 0;
            if unread && self.parts.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

/// Ends its request when it is dropped: with the response's body, or with the handler if the client leaves earlier.
#[derive(Debug)]
pub(super) struct Open {
    exchange: Arc<Exchange>,
    _held: Held,
}

impl Open {
    /// Ties the end of the request to the end of its response.
    ///
    /// * `parts`: whether long parts of the body are cut, see [`STREAM_PART_BYTES`]
    pub(super) fn until_read(self, body: Body, parts: bool) -> Body {
        // From here on the client is waited for: to ask for the first part.
        self.exchange.set(AWAITS_READER, true);
        Body::new(Response { body, rest: None, parts, open: self })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.exchange.set(ENDED, true);
        self.exchange.all.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The body of a response.
struct Response {
    body: Body,
    /// What is left of a long part.
    rest: Option<Bytes>,
    parts: bool,
    open: Open,
}

impl HttpBody for Response {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let exchange = &this.open.exchange;
        exchange.parts.fetch_add(1, Ordering::Relaxed);
        exchange.set(AWAITS_READER, false);
        let frame = match this.rest.take() {
            Some(rest) => Some(Ok(Frame::data(rest))),
            None => ready!(Pin::new(&mut this.body).poll_frame(context)),
        };
        exchange.set(AWAITS_READER, true);
        let frame = match frame {
            Some(Ok(frame)) if this.parts => frame.into_data().map(|mut part| {
                if part.len() > STREAM_PART_BYTES {
                    this.rest = Some(part.split_off(STREAM_PART_BYTES));
                }
                Frame::data(part)
            }),
            other => return Poll::Ready(other),
        };
        // Trailers come back as they were.
        Poll::Ready(Some(Ok(frame.unwrap_or_else(|trailers| trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let Some(rest) = &self.rest else { return self.body.size_hint() };
        let (rest, hint) = (rest.len() as u64, self.body.size_hint());
        let mut with_rest = SizeHint::new();
        with_rest.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            with_rest.set_upper(upper + rest);
        }
        with_rest
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_is_ours_while_the_server_has_to_act() {
        let (all, activity) = (Arc::default(), Arc::default());
        let (exchange, open) = Exchange::begin(&all, &activity);
        assert_eq!((all.open(), all.ours()), (1, 1));
        exchange.awaits_request(true);
        exchange.awaits_request(true);
        assert_eq!((all.open(), all.ours()), (1, 0));
        exchange.awaits_request(false);
        assert_eq!(all.ours(), 1);

        let body = open.until_read(Body::from("response"), false);
        assert_eq!((all.open(), all.ours()), (1, 0));
        // The client takes nothing.
        exchange.stays_unread(Duration::from_secs(30)).await;
        assert_eq!(body.collect().await.expect("a body").to_bytes(), "response");
        assert_eq!((all.open(), all.ours()), (0, 0));
        all.done().await;
        // A body that is read to its end afterwards changes nothing.
        exchange.awaits_request(true);
        exchange.awaits_request(false);
        assert_eq!((all.open(), all.ours()), (0, 0));
    }

    #[tokio::test]
    async fn a_response_that_waits_for_the_server_is_ours() {
        let (all, activity) = (Arc::default(), Arc::default());
        let (_exchange, open) = Exchange::begin(&all, &activity);
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, axum::Error>>(1);
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut body = open.until_read(Body::from_stream(stream), true);
        let polled = futures::poll!(body.frame());
        assert!(polled.is_pending());
        assert_eq!(all.ours(), 1);
        sender.send(Ok(Bytes::from_static(b"row"))).await.expect("taken");
        assert!(body.frame().await.is_some());
        assert_eq!(all.ours(), 0);
        drop(body);
        assert_eq!((all.open(), all.ours()), (0, 0));
    }

    #[tokio::test]
    async fn long_parts_of_a_stream_are_cut_and_lose_nothing() {
        let (all, activity) = (Arc::default(), Arc::default());
        let (_exchange, open) = Exchange::begin(&all, &activity);
        let long: Bytes = (0..STREAM_PART_BYTES * 2 + 5).map(|byte| byte as u8).collect();
        let mut body = open.until_read(Body::from(long.clone()), true);
        let (mut read, mut parts) = (Vec::new(), Vec::new());
        while let Some(frame) = body.frame().await {
            let part = frame.expect("no error").into_data().expect("data");
            read.extend_from_slice(&part);
            parts.push(part.len());
            assert_eq!(body.size_hint().exact(), Some((long.len() - read.len()) as u64));
        }
        assert_eq!(parts, [STREAM_PART_BYTES, STREAM_PART_BYTES, 5]);
        assert_eq!(read, long);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_idles_after_its_last_request_only() {
        let activity = Arc::new(Activity::default());
        let timeout = Duration::from_secs(75);
        let idles = activity.idles(timeout);
        let mut idles = std::pin::pin!(idles);
        // Without a request the connection is silent, which is bounded elsewhere.
        assert!(tokio::time::timeout(timeout * 2, &mut idles).await.is_err());
        let held = activity.hold();
        assert!(tokio::time::timeout(timeout * 2, &mut idles).await.is_err());
        drop(held);
        tokio::time::timeout(timeout + Duration::from_secs(1), idles).await.expect("idle");
        activity.settles().await;
    }
}
