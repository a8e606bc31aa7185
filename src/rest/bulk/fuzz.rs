//! Entry points for fuzzing the bulk route: they split bodies into rows, in both framings.

use bytes::BytesMut;
use std::fmt::Debug;
use tokio_util::codec::Decoder;

use super::{
    frames::{self, Frames},
    lines::{self, Lines},
};

/// Reads JSON lines of at most `max` bytes. The body arrives in chunks of `piece` bytes.
pub(crate) fn lines(bytes: &[u8], max: usize, piece: usize) {
    let cut = split(Lines::new(max), bytes, piece, max);
    // A line that is too long is reported as soon as it is known. So the chunks may change when it is reported,
    // but it must never be reported twice.
    assert_eq!(cut, split(Lines::new(max), bytes, bytes.len().max(1), max));
    for line in cut {
        if let lines::Line::Whole(line) = line {
            assert!(line.len() <= max && !line.contains(&b'\n'));
            drop(lines::parse(&line, None));
        }
    }
}

/// Reads binary frames of at most `max` bytes. The body arrives in chunks of `piece` bytes.
pub(crate) fn frames(bytes: &[u8], max: usize, piece: usize) {
    let cut = split(Frames::new(max), bytes, piece, max);
    assert_eq!(cut, split(Frames::new(max), bytes, bytes.len().max(1), max));
    for frame in cut {
        if let frames::Frame::Whole { payload, .. } = &frame {
            assert!(payload.len() <= max);
        }
        assert!(
            frames::read((Ok(frame), None)).is_ok(),
            "only a body that broke off ends the stream"
        );
    }
}

/// The rows that a decoder finds in a body. Checks that it never holds more than a row, its header and a chunk.
fn split<D>(mut decoder: D, bytes: &[u8], piece: usize, max: usize) -> Vec<D::Item>
where
    D: Decoder<Item: Debug, Error: Debug>,
{
    let mut buffer = BytesMut::new();
    let mut found = Vec::new();
    for part in bytes.chunks(piece) {
        buffer.extend_from_slice(part);
        while let Ok(Some(item)) = decoder.decode(&mut buffer) {
            found.push(item);
        }
        assert!(buffer.len() <= max + piece + 16, "{} bytes held", buffer.len());
    }
    while let Ok(Some(item)) = decoder.decode_eof(&mut buffer) {
        found.push(item);
        assert!(found.len() <= bytes.len(), "the end is reached");
    }
    found
}
