//! Decompresses messages of clients.
//!
//! tonic can do this too, but nothing counts the decompressed bytes until the method is called, and a client
//! can delay that: a few kilobytes would hold the memory of a whole message for as long as the client likes.
//! Here messages are decompressed before they are counted.

use std::{
    io::{self, Read as _},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use http::Request;
use hyper::body::{Body as HttpBody, Frame};
use tonic::{Status, body::Body};

use super::status::status;
use crate::{
    config::Limit,
    error::{Code, Error},
};

/// The header that names the encoding of the messages.
const ENCODING: &str = "grpc-encoding";
/// The prefix of every message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// Whether the messages are compressed with gzip. tonic refuses other encodings.
pub(super) fn is_packed(request: &Request<Body>) -> bool {
    request.headers().get(ENCODING).is_some_and(|value| value.as_bytes() == b"gzip")
}

/// Decompresses the messages of a request. Each has at most `limit` bytes, compressed and decompressed.
pub(super) fn inflated(mut request: Request<Body>, limit: usize) -> Request<Body> {
    request.headers_mut().remove(ENCODING);
    request.map(|body| Body::new(Inflated { body, held: BytesMut::new(), limit, failed: false }))
}

/// A body that decompresses its messages, and gives each in one frame.
struct Inflated {
    body: Body,
    /// The received part of an incomplete message.
    held: BytesMut,
    limit: usize,
    failed: bool,
}

impl Inflated {
    /// The next message with its prefix, if it is complete.
    fn message(&mut self) -> Result<Option<Bytes>, Error> {
        let Some((&[flag, ref length @ ..], _)) = self.held.split_first_chunk::<PREFIX_BYTES>()
        else {
            return Ok(None);
        };
        let [a, b, c, d] = *length;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.limit {
            return Err(self.too_large());
        }
        if self.held.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        let mut message = self.held.split_to(PREFIX_BYTES + length).freeze();
        if flag != 1 {
            return Ok(Some(message));
        }
        message.advance(PREFIX_BYTES);
        self.inflate(&message).map(Some)
    }

    fn inflate(&self, packed: &[u8]) -> Result<Bytes, Error> {
        let mut plain = vec![0; PREFIX_BYTES];
        // One byte more than allowed is enough to detect a message that is too large.
        let most = u64::try_from(self.limit).unwrap_or(u64::MAX).saturating_add(1);
        let read = MultiGzDecoder::new(packed).take(most).read_to_end(&mut plain);
        let length = read.map_err(|_: io::Error| {
            Error::new(Code::InvalidRequest, "the message is not gzip, as `grpc-encoding` says")
        })?;
        if length > self.limit {
            return Err(self.too_large());
        }
        let length = u32::try_from(length).map_err(|_| self.too_large())?;
        plain[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
        // Unused capacity would be held without being counted.
        plain.shrink_to_fit();
        Ok(plain.into())
    }

    fn too_large(&self) -> Error {
        let limit = Limit::bytes(self.limit, "limits.max_body_bytes");
        let message = format!("the message has more bytes than the limit of {limit}");
        Error::new(Code::PayloadTooLarge, message)
    }
}

impl HttpBody for Inflated {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.failed {
            return Poll::Ready(None);
        }
        loop {
            match self.message() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
                Ok(None) => {}
                Err(error) => {
                    self.failed = true;
                    return Poll::Ready(Some(Err(status(error))));
                }
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.held.extend_from_slice(&data),
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                // tonic refuses an incomplete message.
                None if !self.held.is_empty() => {
                    let rest = self.held.split().freeze();
                    return Poll::Ready(Some(Ok(Frame::data(rest))));
                }
                end => return Poll::Ready(end),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.failed || (self.held.is_empty() && self.body.is_end_stream())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};
    use futures::stream;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    const LIMIT: usize = 100;

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).expect("short").to_be_bytes();
        [&[flag], &length[..], message].concat()
    }

    fn packed(message: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(message).expect("to memory");
        framed(1, &encoder.finish().expect("to memory"))
    }

    /// The decompressed body, which arrives in pieces of `size` bytes.
    async fn read(bytes: Vec<u8>, size: usize) -> Result<Vec<u8>, Status> {
        let pieces: Vec<_> = bytes
            .chunks(size)
            .map(|piece| Ok::<_, Status>(Frame::data(piece.to_vec().into())))
            .collect();
        let body = Body::new(StreamBody::new(stream::iter(pieces)));
        let request = Request::builder().header(ENCODING, "gzip").body(body).expect("a request");
        assert!(is_packed(&request));
        let request = inflated(request, LIMIT);
        assert!(!request.headers().contains_key(ENCODING));
        let collected = request.into_body().collect().await?;
        Ok(collected.to_bytes().to_vec())
    }

    #[tokio::test]
    async fn messages_come_out_plain_however_they_arrive() {
        let sent = [packed(b"a message"), framed(0, b"plain"), packed(b"")].concat();
        let expected = [framed(0, b"a message"), framed(0, b"plain"), framed(0, b"")].concat();
        for size in [1, 7, 1000] {
            assert_eq!(read(sent.clone(), size).await.expect("reads"), expected);
        }
        let half = packed(b"a message")[..9].to_vec();
        assert_eq!(read(half.clone(), 2).await.expect("tonic refuses it"), half);
    }

    #[tokio::test]
    async fn what_is_too_large_or_no_gzip_is_refused() {
        assert!(read(packed(&[7; LIMIT]), 1000).await.is_ok());
        for bytes in [packed(&[7; LIMIT + 1]), packed(&[0; 1 << 20]), framed(1, &[7; LIMIT + 1])] {
            let error = read(bytes, 1000).await.expect_err("too large");
            assert_eq!(error.code(), tonic::Code::ResourceExhausted);
        }
        let error = read(framed(1, b"not gzip"), 1000).await.expect_err("no gzip");
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
    }
}
