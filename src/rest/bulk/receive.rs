//! Reads the rows of a body while they arrive.

use std::io;

use async_stream::stream;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use tokio_util::codec::Decoder;

use crate::engine::{RowBytes, RowRoom};

/// Splits a body into rows. For a row that is longer than [`RowRoom::FREE_BYTES`], it waits until there is room
/// for a row of maximum length before it reads more.
///
/// * `max`: maximum number of bytes of a row
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
                // Reserve the maximum once, so that the buffer is not copied when it grows. Memory for bytes
                // that do not arrive is never touched.
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

/// Takes a row out of the buffer, so that the row does not keep other bytes in memory. A short row is copied,
/// and the buffer is reused. A long row takes the buffer itself.
pub(super) fn take_row(buffer: &mut BytesMut, length: usize) -> Bytes {
    if length <= RowRoom::FREE_BYTES {
        return Bytes::from(buffer.split_to(length).to_vec());
    }
    let row = buffer.split_to(length).freeze();
    *buffer = BytesMut::from(&buffer[..]);
    row
}
