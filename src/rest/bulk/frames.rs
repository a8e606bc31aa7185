//! Rows in binary framing.
//!
//! | direction | frame |
//! |---|---|
//! | in | `u32` length of the rest, `u64` id, `u8` kind (1 text, 2 encoded image), payload |
//! | out | `u32` length of the rest, `u64` id, `u8` status (0 embedding, 1 error, 2 end), payload |
//!
//! Numbers are little-endian. The payload of an embedding is its values. The payload of the others is JSON.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::Decoder;

use super::{RowError, lines, receive::take_row};
use crate::{
    engine::{BulkEvent, BulkRow, ImageInput, Input, RowBytes},
    error::{Code, Error},
    rest::embeddings::EncodingFormat,
};

/// Size of the id and the kind.
const HEAD_BYTES: usize = 9;
const TEXT: u8 = 1;
const IMAGE: u8 = 2;

const EMBEDDING: u8 = 0;
const FAILED: u8 = 1;
const END: u8 = 2;

/// The id of frames without one: the result of a frame that is too short for an id, and the end frame.
const NO_ID: u64 = u64::MAX;

/// Splits a body into frames. A frame that is too long is skipped and not kept in memory.
#[derive(Debug)]
pub(super) struct Frames {
    max: usize,
    /// Bytes of a frame that must still be skipped.
    skip: usize,
}

/// A frame, or a mark in place of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Whole {
        id: u64,
        kind: u8,
        payload: Bytes,
    },
    TooLong {
        id: u64,
        max: usize,
    },
    TooShort,
    /// The body ended within the frame.
    Cut {
        id: u64,
    },
}

impl Frames {
    pub(super) fn new(max: usize) -> Self {
        Self { max, skip: 0 }
    }
}

impl Decoder for Frames {
    type Item = Frame;
    type Error = io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Frame>> {
        let skipped = self.skip.min(buffer.len());
        buffer.advance(skipped);
        self.skip -= skipped;
        let Some(&length) = buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(length) as usize;
        if length < HEAD_BYTES {
            buffer.advance(4);
            self.skip = length;
            return Ok(Some(Frame::TooShort));
        }
        if buffer.len() < 4 + HEAD_BYTES {
            return Ok(None);
        }
        let id = (&buffer[4..]).get_u64_le();
        if length - HEAD_BYTES > self.max {
            buffer.advance(4);
            self.skip = length;
            return Ok(Some(Frame::TooLong { id, max: self.max }));
        }
        if buffer.len() < 4 + length {
            return Ok(None);
        }
        let kind = buffer[4 + HEAD_BYTES - 1];
        buffer.advance(4 + HEAD_BYTES);
        let payload = take_row(buffer, length - HEAD_BYTES);
        Ok(Some(Frame::Whole { id, kind, payload }))
    }

    fn decode_eof(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Frame>> {
        if let Some(frame) = self.decode(buffer)? {
            return Ok(Some(frame));
        }
        if buffer.is_empty() && self.skip == 0 {
            return Ok(None);
        }
        let rest = buffer.split();
        self.skip = 0;
        let id = rest.get(4..12).map_or(NO_ID, |mut id| id.get_u64_le());
        Ok(Some(Frame::Cut { id }))
    }
}

/// Reads a frame. An invalid frame becomes a row that fails.
///
/// # Errors
/// The body ended early.
pub(super) fn read(
    (frame, bytes): (io::Result<Frame>, Option<RowBytes>),
) -> Result<BulkRow<u64>, Error> {
    let unreadable = |code, message| Input::Unreadable(Error::new(code, message));
    let invalid = |message: &'static str| unreadable(Code::InvalidRequest, message.to_owned());
    let (id, input) = match frame.map_err(|_| super::broken_off())? {
        Frame::Whole { id, kind: TEXT, payload } => match String::from_utf8(payload.into()) {
            Ok(text) => (id, Input::Text(text)),
            Err(_) => (id, invalid("the text is not UTF-8")),
        },
        Frame::Whole { id, kind: IMAGE, payload } => {
            (id, Input::Image(ImageInput::Encoded(payload)))
        }
        Frame::Whole { id, .. } => (id, invalid("the kind must be 1 (text) or 2 (image)")),
        Frame::TooLong { id, max } => {
            let message = format!("the payload has more than {max} bytes");
            (id, unreadable(Code::PayloadTooLarge, message))
        }
        Frame::TooShort => (NO_ID, invalid("the frame is too short for an id and a kind")),
        Frame::Cut { id } => (id, invalid("the body ended within this frame")),
    };
    Ok(BulkRow { id, input, bytes })
}

/// Writes each event as a frame.
pub(super) fn write(events: Vec<BulkEvent<u64>>, format: EncodingFormat) -> Bytes {
    let mut bytes = Vec::new();
    for event in events {
        let begin = bytes.len();
        bytes.extend_from_slice(&[0; 4 + HEAD_BYTES]);
        let (id, status) = match event {
            BulkEvent::Row { id, outcome: Ok(row), .. } => {
                format.encoding().write(row.as_slice(), &mut bytes);
                (id, EMBEDDING)
            }
            BulkEvent::Row { id, outcome: Err(error), .. } => {
                // Writing strings to memory cannot fail.
                serde_json::to_writer(&mut bytes, &RowError::from(&error)).unwrap_or_default();
                (id, FAILED)
            }
            BulkEvent::End(ended) => {
                bytes.extend(lines::end(&ended));
                (NO_ID, END)
            }
        };
        // A row is far below 4 GB.
        let length = u32::try_from(bytes.len() - begin - 4).unwrap_or(u32::MAX);
        bytes[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
        bytes[begin + 4..begin + 12].copy_from_slice(&id.to_le_bytes());
        bytes[begin + 12] = status;
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(id: u64, kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEAD_BYTES + payload.len()).expect("short").to_le_bytes();
        [&length[..], &id.to_le_bytes(), &[kind], payload].concat()
    }

    fn frames(body: &[u8], piece: usize, max: usize) -> Vec<Frame> {
        let mut frames = Frames::new(max);
        let mut buffer = BytesMut::new();
        let mut found = Vec::new();
        for piece in body.chunks(piece) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = frames.decode(&mut buffer).expect("never fails") {
                found.push(frame);
            }
        }
        while let Some(frame) = frames.decode_eof(&mut buffer).expect("never fails") {
            found.push(frame);
        }
        found
    }

    #[test]
    fn frames_are_found_however_the_body_is_cut() {
        let mut body = frame(7, TEXT, b"a cat");
        body.extend(frame(8, IMAGE, b"0123456789"));
        body.extend([3, 0, 0, 0, 1, 2, 3]);
        body.extend(frame(9, 5, b""));
        body.extend(&frame(10, TEXT, b"cut off")[..14]);
        let expected = [
            Frame::Whole { id: 7, kind: TEXT, payload: Bytes::from_static(b"a cat") },
            Frame::TooLong { id: 8, max: 8 },
            Frame::TooShort,
            Frame::Whole { id: 9, kind: 5, payload: Bytes::new() },
            Frame::Cut { id: 10 },
        ];
        for piece in [1, 3, 1000] {
            assert_eq!(frames(&body, piece, 8), expected, "{piece}");
        }
    }
}
