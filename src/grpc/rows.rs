//! Limits the rows of a stream while they are received. Each row is a message with its length in front, so its
//! budget is taken before it arrives.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tonic::{Status, body::Body};

use crate::engine::{RowBytes, RowRoom};

/// The prefix of every message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// The budget of a stream, and the part of it for the last received message.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pub(super) room: RowRoom,
    taken: Arc<Mutex<Option<RowBytes>>>,
}

impl Rows {
    pub(super) fn new(room: RowRoom) -> Self {
        Self { room, taken: Arc::default() }
    }

    /// The part of the budget for the message that was just read; none if it is short.
    pub(super) fn taken(&self) -> Option<RowBytes> {
        self.taken.lock().take()
    }

    /// A body whose messages wait for the budget.
    ///
    /// * `max`: maximum size of a message, also after decompression
    pub(super) fn bound(&self, body: Body, max: usize) -> Body {
        let (rows, head, rest) = (self.clone(), BytesMut::new(), Bytes::new());
        Body::new(Bounded { body, rows, max, head, rest, left: 0, waiting: None })
    }
}

struct Bounded {
    body: Body,
    rows: Rows,
    max: usize,
    /// The first bytes of a message's prefix, until it is complete.
    head: BytesMut,
    /// Received bytes that were not passed on.
    rest: Bytes,
    /// Bytes of the current message that were not passed on.
    left: usize,
    waiting: Option<Pin<Box<dyn Future<Output = Option<RowBytes>> + Send>>>,
}

impl Bounded {
    /// Begins the next message, if its prefix is complete.
    fn begin(&mut self) -> bool {
        if !self.head.is_empty() {
            self.head.extend_from_slice(&self.rest);
            self.rest = self.head.split().freeze();
        }
        let Some((&[flag, ref length @ ..], _)) = self.rest.split_first_chunk::<PREFIX_BYTES>()
        else {
            self.head = BytesMut::from(&self.rest[..]);
            self.rest.clear();
            return false;
        };
        let &[a, b, c, d] = length;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        self.left = PREFIX_BYTES + length;
        // The previous message was read, because the reader asks for more.
        drop(self.rows.taken());
        // A message that is too long is refused by its prefix.
        let takes = match flag {
            _ if length > self.max => 0,
            0 => length,
            _ => length + self.max,
        };
        if takes > RowRoom::FREE_BYTES {
            let room = self.rows.room.clone();
            self.waiting = Some(Box::pin(async move { room.take(takes).await }));
        }
        true
    }
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                let taken = ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
                *self.rows.taken.lock() = taken;
            }
            if !self.rest.is_empty() {
                if self.left == 0 {
                    self.begin();
                    continue;
                }
                let length = self.left.min(self.rest.len());
                self.left -= length;
                return Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                // tonic refuses an incomplete prefix.
                None if !self.head.is_empty() => {
                    let head = self.head.split().freeze();
                    return Poll::Ready(Some(Ok(Frame::data(head))));
                }
                end => return Poll::Ready(end),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.head.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;
    use crate::{config, engine::RowRoom};

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(length).expect("short").to_be_bytes());
        bytes.resize(PREFIX_BYTES + length, 7);
        bytes
    }

    #[tokio::test]
    async fn a_long_message_waits_for_room_and_a_short_one_does_not() {
        let long = 3 * RowRoom::FREE_BYTES;
        let limits = config::Limits { max_bulk_bytes: long, ..config::Limits::default() };
        let room = RowRoom::of(&limits);
        let sent = [message(10), message(long), message(0), message(20)].concat();
        for piece in [1 << 14, 3 << 20, sent.len()] {
            let pieces: Vec<_> = sent
                .chunks(piece)
                .map(|piece| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(piece))))
                .collect();
            let rows = Rows::new(room.clone());
            let mut body = rows.bound(Body::new(StreamBody::new(stream::iter(pieces))), long);
            let taken = room.take(1).await;
            let mut came =
                body.frame().await.expect("a frame").expect("data").into_data().expect("data");
            assert_eq!(came.len(), PREFIX_BYTES + 10);
            assert!(futures::poll!(Box::pin(body.frame())).is_pending(), "{piece}");
            drop(taken);
            let mut all = came.split_off(0).to_vec();
            let mut held = false;
            while let Some(frame) = body.frame().await {
                let data = frame.expect("data").into_data().expect("data");
                all.extend(data);
                held |= all.len() == 2 * PREFIX_BYTES + 10 + long && rows.taken().is_some();
            }
            assert!(held && all == sent, "{piece}");
            assert!(rows.taken().is_none());
        }
    }
}
