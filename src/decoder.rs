//! Decoding of images that nobody vouches for.
//!
//! No decoder can be trusted with memory, time or itself: a few kilobytes can ask for gigabytes or for an hour, and a
//! decoder in C can do worse. So on Linux images are decoded in processes of their own (`process`): the same binary
//! again, without files and network, with a limit on memory and on processor time for each image. What goes wrong
//! there ends that process and fails that image.
//!
//! Where processes cannot be had, or are not wanted, the thread that asks decodes.

#[cfg(target_os = "linux")]
mod pool;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod sandbox;
#[cfg(all(test, target_os = "linux"))]
mod tests;
mod wire;
#[cfg(target_os = "linux")]
pub mod worker;

#[cfg(target_os = "linux")]
use std::io;
use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::{
    config::DecodeIsolation,
    error::{Code, Error},
    preprocess::{self, Decoding, Header, ImageError, ImageLimits, ImageSpec, Prepared, Tiling},
    telemetry::Metrics,
};

/// The program of decode processes, where this process can start itself again.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Says that this process's own program can be started as a decode process: it looks for [`worker::ARGUMENT`] before
/// anything else. A program that only uses this library does not, and decodes on its threads.
pub fn allow_processes() {
    // The link stays right when the file is replaced or removed. Without a file system for processes there is none.
    let program = PathBuf::from("/proc/self/exe");
    if program.exists() {
        PROGRAM.get_or_init(|| program);
    }
}

/// See [`allow_processes`].
pub(crate) fn program() -> Option<PathBuf> {
    PROGRAM.get().cloned()
}

/// What a decoder is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where images are decoded.
    pub isolation: DecodeIsolation,
    /// Processor time that one image may take in a process.
    pub max_time: Duration,
    /// The program to start as a decode process; without one there are none.
    pub program: Option<PathBuf>,
}

/// Reads and decodes images. All calls block: they belong on the CPU pool.
#[derive(Debug)]
pub struct Decoder {
    #[cfg(target_os = "linux")]
    processes: Option<pool::Pool>,
}

impl Decoder {
    /// A decoder as the settings ask for it. Processes that cannot be started here are said in the log, and threads
    /// decode in their place.
    #[must_use]
    pub fn new(settings: Settings, metrics: &Arc<Metrics>) -> Self {
        #[cfg(target_os = "linux")]
        {
            if settings.isolation == DecodeIsolation::Thread {
                return Self { processes: None };
            }
            let no_program = || io::Error::other("this program cannot start itself again");
            let program = settings.program.ok_or_else(no_program);
            let processes = program.and_then(|program| {
                pool::Pool::start(program, settings.max_time, Arc::clone(metrics))
            });
            let processes = processes.inspect_err(|error| {
                let error = error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "images are decoded in this process: none could be started for it"
                );
            });
            Self { processes: processes.ok() }
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (settings, metrics);
            Self {}
        }
    }

    /// Where images are decoded.
    #[must_use]
    pub fn isolation(&self) -> DecodeIsolation {
        #[cfg(target_os = "linux")]
        if self.processes.is_some() {
            return DecodeIsolation::Process;
        }
        DecodeIsolation::Thread
    }

    /// The names of the formats that are read here.
    #[must_use]
    pub fn formats(&self) -> Vec<&'static str> {
        match self.isolation() {
            DecodeIsolation::Process => preprocess::formats().collect(),
            DecodeIsolation::Thread => preprocess::formats_for_threads().collect(),
        }
    }

    /// Reads an image's header and holds it against the limits.
    ///
    /// # Errors
    /// What is wrong with the image, in the API's words. In a thread the decoder's panic is the caller's to catch.
    pub fn inspect(&self, bytes: &[u8], limits: &ImageLimits) -> Result<Header, Error> {
        #[cfg(target_os = "linux")]
        if let Some(processes) = &self.processes {
            return processes.inspect(bytes, limits);
        }
        check_thread(bytes)?;
        preprocess::inspect(bytes, limits).map_err(image_error)
    }

    /// Bytes that [`Decoder::prepare`] takes at its peak, estimated from above: what the header lets one expect, the
    /// encoded bytes once more where a process can see them, and a copy in which a decoder mends them.
    #[must_use]
    pub fn memory(bytes: &[u8], header: Header) -> u64 {
        header.decode_bytes.saturating_add(2 * bytes.len() as u64)
    }

    /// Decodes and resizes an image; see [`preprocess::prepare`].
    ///
    /// * `header`: what [`Decoder::inspect`] said of it, which bounds the memory of a process
    ///
    /// # Errors
    /// As [`Decoder::inspect`].
    pub fn prepare(
        &self,
        (bytes, header): (&[u8], Header),
        spec: &ImageSpec,
        limits: &ImageLimits,
        decoding: Decoding,
    ) -> Result<Prepared, Error> {
        #[cfg(target_os = "linux")]
        if let Some(processes) = &self.processes {
            return processes.prepare((bytes, header), spec, limits, decoding);
        }
        let _ = header;
        check_thread(bytes)?;
        preprocess::prepare(bytes, spec, limits, decoding).map_err(image_error)
    }

    /// Decodes an image once for several views of it; see [`preprocess::views`].
    ///
    /// * `header`: what [`Decoder::inspect`] said of it
    ///
    /// # Errors
    /// As [`Decoder::inspect`]; [`Code::DecodeTooLarge`] too where the views take more memory than an image may.
    pub fn views(
        &self,
        (bytes, header): (&[u8], Header),
        (spec, tiling): (&ImageSpec, &Tiling),
        limits: &ImageLimits,
        decoding: Decoding,
    ) -> Result<Prepared, Error> {
        if header.decode_bytes.saturating_add(tiling.bytes()) > limits.max_decode_bytes {
            return Err(image_error(ImageError::TooMuchMemory { limit: limits.max_decode_bytes }));
        }
        #[cfg(target_os = "linux")]
        if let Some(processes) = &self.processes {
            return processes.views((bytes, header), (spec, tiling), limits, decoding);
        }
        preprocess::views(bytes, (spec, tiling), limits, decoding).map_err(image_error)
    }
}

/// Refuses what must not be decoded on a thread of this process.
fn check_thread(bytes: &[u8]) -> Result<(), Error> {
    let Some(name) = preprocess::may_abort(bytes) else { return Ok(()) };
    let message = format!(
        "this is an {name} file; this server reads {name} in decode processes only, of which it has none \
         (`--decode-isolation`): convert the image to JPEG or PNG"
    );
    Err(Error::new(Code::UndecodableImage, message))
}

/// An image's failure, as the caller sees it.
fn image_error(error: ImageError) -> Error {
    let code = match error {
        ImageError::TooManyBytes { .. } => Code::ImageTooLarge,
        ImageError::TooManyPixels { .. } | ImageError::TooLongSide { .. } => Code::TooManyPixels,
        ImageError::TooMuchMemory { .. } => Code::DecodeTooLarge,
        ImageError::Empty | ImageError::UnknownFormat(_) | ImageError::Damaged { .. } => {
            Code::UndecodableImage
        }
    };
    Error::new(code, error.to_string())
}
