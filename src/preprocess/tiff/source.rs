//! The bytes of one strip or tile, which are decompressed on demand.

use std::borrow::Cow;

use flate2::{Decompress, FlushDecompress, Status};

use super::{
    Result,
    layout::{Compression, Layout},
};
use crate::preprocess::reason::Reason;

/// The decompressed bytes of strips or tiles, one strip or tile at a time.
pub(super) struct Source<'b> {
    input: Cow<'b, [u8]>,
    /// Bytes of the input that were used.
    used: usize,
    state: State,
}

/// The state of a decompressor between two calls. States are reused for all strips, of which there may be a
/// million.
enum State {
    Plain,
    Deflate(Decompress),
    PackBits(Run),
}

/// The rest of a run of PackBits.
#[derive(Default)]
struct Run {
    length: usize,
    /// The byte that the run repeats; none if the run is a copy of input bytes.
    repeated: Option<u8>,
}

impl<'b> Source<'b> {
    pub(super) fn new(layout: &Layout<'_>) -> Self {
        let state = match layout.compression {
            Compression::Deflate => State::Deflate(Decompress::new(true)),
            Compression::PackBits => State::PackBits(Run::default()),
            // Data that is decompressed as a whole is then read like uncompressed data.
            _ => State::Plain,
        };
        Self { input: Cow::Borrowed(&[]), used: 0, state }
    }

    /// Starts to read another strip or tile.
    pub(super) fn start(&mut self, input: Cow<'b, [u8]>) {
        match &mut self.state {
            State::Plain => {}
            State::Deflate(decoder) => decoder.reset(true),
            State::PackBits(run) => *run = Run::default(),
        }
        self.input = input;
        self.used = 0;
    }

    /// Fills the buffer with the next bytes.
    ///
    /// # Errors
    /// Fails if the data is damaged or ends early.
    pub(super) fn fill(&mut self, mut room: &mut [u8]) -> Result<()> {
        while !room.is_empty() {
            let input = &self.input[self.used..];
            let (read, written) = match &mut self.state {
                State::Plain => {
                    let length = input.len().min(room.len());
                    room[..length].copy_from_slice(&input[..length]);
                    (length, length)
                }
                State::Deflate(decoder) => {
                    let before = (decoder.total_in(), decoder.total_out());
                    let status = decoder.decompress(input, room, FlushDecompress::None);
                    let read = decoder.total_in() - before.0;
                    let written = decoder.total_out() - before.1;
                    let status = status.map_err(|_| damaged())?;
                    if written == 0 && (read == 0 || status == Status::StreamEnd) {
                        return Err(early());
                    }
                    (read as usize, written as usize)
                }
                State::PackBits(run) => run.unpack(input, room).ok_or_else(early)?,
            };
            if (read, written) == (0, 0) {
                return Err(early());
            }
            self.used += read;
            room = &mut room[written..];
        }
        Ok(())
    }
}

impl Run {
    /// Returns the bytes read and written; none if the input ends within a run.
    fn unpack(&mut self, input: &[u8], room: &mut [u8]) -> Option<(usize, usize)> {
        if self.length > 0 {
            let length = self.length.min(room.len());
            let read = match self.repeated {
                Some(byte) => {
                    room[..length].fill(byte);
                    0
                }
                None => {
                    room[..length].copy_from_slice(input.get(..length)?);
                    length
                }
            };
            self.length -= length;
            return Some((read, length));
        }
        match *input {
            [header @ 0..=127, ..] => {
                *self = Self { length: usize::from(header) + 1, repeated: None };
                Some((1, 0))
            }
            // No operation.
            [128, ..] => Some((1, 0)),
            [header, byte, ..] => {
                *self = Self { length: 257 - usize::from(header), repeated: Some(byte) };
                Some((2, 0))
            }
            _ => None,
        }
    }
}

fn early() -> Reason {
    Reason::new("the TIFF data ends early")
}

fn damaged() -> Reason {
    Reason::new("the TIFF data is damaged")
}
