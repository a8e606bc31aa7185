//! Limits for request bodies: the size of each, and the total bytes of all bodies in memory.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    config::Limit,
    error::{Code, Error},
    rest::{AppState, problem::Failure},
};

/// The reason why reading a body was stopped. Extractors find it in the source chain of the reader's error.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub(in crate::rest) enum BodyError {
    /// The body has more bytes than allowed.
    #[error("the body has more bytes than the limit of {}", Limit::bytes(*.limit, "limits.max_body_bytes"))]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The budget for bodies is used up.
    #[error("the server holds too many bytes of other requests")]
    NoBudget,
    /// The parsed body would need more than the whole budget.
    #[error("what the body holds takes more memory than the limit of {}; split the request", Limit::bytes(*.limit, "limits.max_bytes_in_flight"))]
    NeverFits {
        /// The limit.
        limit: usize,
    },
}

impl BodyError {
    /// The error that the client gets.
    pub(in crate::rest) fn to_error(self) -> Error {
        match self {
            Self::TooLarge { .. } | Self::NeverFits { .. } => {
                Error::new(Code::PayloadTooLarge, self.to_string())
            }
            // A body takes about a second to arrive and to be decoded. There is no better estimate here.
            Self::NoBudget => Error::new(Code::Overloaded, self.to_string())
                .with_retry_after(Duration::from_secs(1)),
        }
    }
}

/// Refuses a body whose announced length is too large at once, and stops reading a body that becomes too long.
pub(in crate::rest) async fn bound_body(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    // A body larger than the whole budget could never succeed on a retry, so the budget is a limit too.
    let limit = state.limits().max_body_bytes.min(state.limits().max_bytes_in_flight);
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|announced| announced > limit as u64) {
        return Failure(BodyError::TooLarge { limit }.to_error()).into_response();
    }
    let share = BodyShare(Arc::new(Held {
        budget: Arc::clone(&state.0.body_budget),
        all: state.limits().max_bytes_in_flight,
        permit: Mutex::new(None),
    }));
    let mut request =
        request.map(|inner| Body::new(BoundedBody { inner, seen: 0, limit, share: share.clone() }));
    request.extensions_mut().insert(share.clone());
    // The share is kept until the response head is ready, because the handler may hold the bytes until then.
    let response = next.run(request).await;
    drop(share);
    response
}

/// The bytes of the common budget that one request's body and its parsed values use. They are released when the
/// last clone is dropped.
#[derive(Clone)]
pub(in crate::rest) struct BodyShare(Arc<Held>);

struct Held {
    budget: Arc<Semaphore>,
    /// The size of the budget in bytes.
    all: usize,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl BodyShare {
    /// The share of a request.
    pub(in crate::rest) fn of(request: &Request) -> Option<Self> {
        request.extensions().get().cloned()
    }

    /// Takes more bytes from the budget.
    ///
    /// # Errors
    /// The budget has not enough bytes left, or is too small.
    pub(in crate::rest) fn add(&self, bytes: usize) -> Result<(), BodyError> {
        let Held { budget, all, permit } = &*self.0;
        let mut permit = permit.lock();
        let held = permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if bytes > all.saturating_sub(held) {
            return Err(BodyError::NeverFits { limit: *all });
        }
        let more = u32::try_from(bytes).map_err(|_| BodyError::NoBudget)?;
        let more = Arc::clone(budget).try_acquire_many_owned(more);
        let more = more.map_err(|_| BodyError::NoBudget)?;
        match &mut *permit {
            Some(permit) => permit.merge(more),
            empty => *empty = Some(more),
        }
        Ok(())
    }
}

/// A body that counts the bytes that arrive.
struct BoundedBody {
    inner: Body,
    seen: usize,
    limit: usize,
    share: BodyShare,
}

impl BoundedBody {
    fn count(&mut self, bytes: usize) -> Result<(), BodyError> {
        self.seen = self.seen.saturating_add(bytes);
        if self.seen > self.limit {
            return Err(BodyError::TooLarge { limit: self.limit });
        }
        self.share.add(bytes)
    }
}

impl HttpBody for BoundedBody {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            let frame = frame?;
            if let Some(data) = frame.data_ref() {
                self.count(data.len())?;
            }
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
