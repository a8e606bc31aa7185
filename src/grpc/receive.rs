//! Limits the bytes of all request messages that are still being received.
//!
//! Admission counts a request once it is complete. Before that, each open stream may hold up to a whole
//! message, and there may be many streams on many connections. This module counts them together.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Status, body::Body};

use super::status::status;
use crate::error::{Code, Error};

/// The bytes being received, and their maximum.
#[derive(Debug)]
pub(super) struct Received {
    bytes: AtomicUsize,
    limit: usize,
}

impl Received {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicUsize::new(0), limit })
    }

    /// Counts a request's body while it is read, and fails it if all bodies together exceed the maximum.
    pub(super) fn bound(self: &Arc<Self>, body: Body) -> Body {
        Body::new(Bounded { body, share: self.share() })
    }

    /// Runs a call so that the memory of its decoded message is counted until the call ends.
    pub(super) fn counting<F: Future>(
        self: &Arc<Self>,
        call: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        SHARE.scope(self.share(), call)
    }

    fn share(self: &Arc<Self>) -> Share {
        Share { held: AtomicUsize::new(0), received: Arc::clone(self) }
    }
}

tokio::task_local! {
    /// The share of the call whose message is being decoded. A decoder is created for each message and does not
    /// know its call.
    static SHARE: Share;
}

/// Counts bytes of the message that is being decoded. In a stream, whose messages are single rows, nothing is
/// counted.
///
/// # Errors
/// Fails if there are too many bytes.
pub(super) fn count(bytes: usize) -> Result<(), Status> {
    SHARE.try_with(|share| share.add(bytes)).unwrap_or(Ok(()))
}

/// The bytes of one request.
#[derive(Debug)]
struct Share {
    held: AtomicUsize,
    received: Arc<Received>,
}

impl Share {
    fn add(&self, bytes: usize) -> Result<(), Status> {
        let Received { bytes: all, limit } = &*self.received;
        self.held.fetch_add(bytes, Ordering::Relaxed);
        let sum = all.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if sum <= *limit {
            return Ok(());
        }
        Err(status(if self.held.load(Ordering::Relaxed) > *limit {
            Error::new(
                Code::PayloadTooLarge,
                "what the message holds takes more memory than the server has for it; split it",
            )
        } else {
            Error::new(
                Code::Overloaded,
                "the server is receiving as many bytes as it holds; retry later",
            )
        }))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.received.bytes.fetch_sub(*self.held.get_mut(), Ordering::Relaxed);
    }
}

/// A body whose bytes are counted until it is dropped, after its message is complete.
struct Bounded {
    body: Body,
    share: Share,
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let Some(Ok(frame)) = frame else { return Poll::Ready(frame) };
        if let Err(refused) = self.share.add(frame.data_ref().map_or(0, Bytes::len)) {
            return Poll::Ready(Some(Err(refused)));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    #[tokio::test]
    async fn bodies_share_one_bound_and_give_back_what_they_held() {
        let received = Received::new(10);
        let body = |bytes: &'static [u8]| received.bound(Body::new(Full::new(Bytes::from(bytes))));
        let mut first = body(b"1234567");
        assert!(first.frame().await.expect("a frame").is_ok());
        let mut second = body(b"1234");
        let refused = second.frame().await.expect("a frame").expect_err("eleven bytes in all");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        drop((first, second));
        assert_eq!(received.bytes.load(Ordering::Relaxed), 0);
        assert!(body(b"1234567890").collect().await.is_ok());
    }
}
