//! Rows of a body while they are received.

use std::io;

use async_stream::stream;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use tokio_util::codec::Decoder;

use crate::engine::{RowBytes, RowRoom};

/// Splits a body into rows. A row that is longer than [`RowRoom::FREE_BYTES`] waits for room for the longest one before
/// more of it is read.
///
/// * `max`: the longest row's bytes
pub(super) fn rows<D>(
    body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    mut decoder: D,
    (room, max): (RowRoom, usize),
) -> impl Stream<Item = (io::Result<D::Item>, Option<RowBytes>)> + Send
where
    D: Decoder<Item: Send, Error = io::Error> + Send + 'static,
{
    stream! {
        let mut body = std::pin::pin!(body);
        let mut buffer = BytesMut::new();
        let mut taken = None;
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(row)) => {
                    yield (Ok(row), taken.take());
                    continue;
                }
                Ok(None) => {}
                Err(error) => {
                    yield (Err(error), None);
                    return;
                }
            }
            if buffer.len() <= RowRoom::FREE_BYTES {
                // The rest of a row that is too long is skipped.
                taken = None;
            } else if taken.is_none() {
                taken = room.take(max).await;
                // Once and for all, so that it does not grow by copying. What does not come is never touched.
                buffer.reserve(max.saturating_sub(buffer.len()));
            }
            match body.next().await {
                Some(Ok(chunk)) => buffer.extend_from_slice(&chunk),
                Some(Err(error)) => {
                    yield (Err(error), None);
                    return;
                }
                None => break,
            }
        }
        loop {
            match decoder.decode_eof(&mut buffer) {
                Ok(Some(row)) => yield (Ok(row), taken.take()),
                Ok(None) => return,
                Err(error) => {
                    yield (Err(error), None);
                    return;
                }
            }
        }
    }
}

/// Takes a row out of the buffer, so that it holds its own bytes and no others: those of a short one are copied, and
/// the buffer is used again; a long one takes the buffer with it.
pub(super) fn take_row(buffer: &mut BytesMut, length: usize) -> Bytes {
    if length <= RowRoom::FREE_BYTES {
        return Bytes::from(buffer.split_to(length).to_vec());
    }
    let row = buffer.split_to(length).freeze();
    *buffer = BytesMut::from(&buffer[..]);
    row
}
