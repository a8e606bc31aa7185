//! The protocol between the server and a decode process: frames of JSON over a socket. The bytes of an image
//! and its pixels are not sent there; they are written to shared memory.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    error::{Code, Error},
    preprocess::{Decoding, Header, ImageLimits, ImageSpec, Tiling},
};

/// Maximum length of a frame, in bytes. The longest frames are those with an error's message.
const MAX_FRAME_BYTES: u32 = 64 << 10;

/// The first frame of a process: the restrictions that the kernel has applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ready {
    /// System calls are filtered.
    pub(super) seccomp: bool,
    /// Files and the network are not accessible.
    pub(super) landlock: bool,
    /// Its address space in bytes, before any image.
    pub(super) address_space: u64,
}

/// One image. Its encoded bytes are at the start of the shared memory.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) bytes: u64,
    /// An upper estimate of the memory of decoding, without the encoded bytes.
    pub(super) decode_bytes: u64,
    pub(super) limits: ImageLimits,
    pub(super) task: Task,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Task {
    Inspect,
    Prepare {
        spec: ImageSpec,
        decoding: Decoding,
    },
    /// Prepare several views of the image, stacked one below the other.
    Views {
        spec: ImageSpec,
        tiling: Tiling,
        decoding: Decoding,
    },
}

impl Task {
    /// Maximum number of pixels of the result.
    pub(super) fn max_pixels(&self) -> u64 {
        match self {
            Self::Inspect => 0,
            Self::Prepare { spec, .. } => spec.size.max_pixels(),
            Self::Views { tiling, .. } => tiling.pixels(),
        }
    }

    /// Whether the result may have the size `[height, width]`.
    pub(super) fn accepts(&self, size: [u32; 2]) -> bool {
        match self {
            Self::Inspect => false,
            Self::Prepare { spec, .. } => spec.size.accepts(size),
            Self::Views { tiling, .. } => tiling.stacked_size() == size,
        }
    }
}

/// The response to a task.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Response {
    pub(super) outcome: Outcome,
    /// Whole seconds of processor time that the process has used so far.
    pub(super) cpu_seconds: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Outcome {
    Inspected(Header),
    /// The pixels are at the start of the shared memory: RGB, u8, `height * width * 3` bytes.
    Prepared {
        height: u32,
        width: u32,
        source_pixels: u64,
    },
    Failed {
        code: String,
        message: String,
    },
    Panicked,
}

impl Outcome {
    pub(super) fn failed(error: &Error) -> Self {
        Self::Failed { code: error.code().slug().to_owned(), message: error.message().to_owned() }
    }
}

/// The error that a process has reported.
pub(super) fn error(code: &str, message: String) -> Error {
    let known = Code::ALL.into_iter().find(|known| known.slug() == code);
    Error::new(known.unwrap_or(Code::UndecodableImage), message)
}

pub(super) fn write(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_vec(message)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(json.len() + 4);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&json);
    to.write_all(&frame)
}

pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
    }
    let mut json = vec![0; length as usize];
    from.read_exact(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}
