//! Decodes untrusted images.
//!
//! No decoder can be trusted to stay within memory and time, or not to crash: a few kilobytes can need
//! gigabytes or an hour, and a decoder in C may have memory errors. So on Linux images are decoded in separate
//! processes (`process`): the same binary, without files and network, with limits on memory and processor time
//! for each image. A failure there ends only that process and fails only that image.
//!
//! If no process can be started, or threads were chosen, the calling thread decodes.

#[cfg(target_os = "linux")]
mod pool;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "system calls that no safe crate here has")]
mod sandbox;
#[cfg(all(test, target_os = "linux"))]
mod tests;
mod wire;
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "maps the memory that it shares with the server")]
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

/// The program of decode processes, if this process can start itself again.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Allows this process's own program to be started as a decode process. The program must check for
/// [`worker::ARGUMENT`] before anything else. A program that only uses this library does not, so it decodes on
/// its threads.
pub fn allow_processes() {
    // This link stays valid if the file is replaced or removed. It does not exist without a mounted `/proc`.
    let program = PathBuf::from("/proc/self/exe");
    if program.exists() {
        PROGRAM.get_or_init(|| program);
    }
}

/// See [`allow_processes`].
pub(crate) fn program() -> Option<PathBuf> {
    PROGRAM.get().cloned()
}

/// The settings of a decoder.
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
    /// A decoder with these settings. If no process can be started, the log says so and threads decode.
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

    /// The names of the formats that this decoder reads.
    #[must_use]
    pub fn formats(&self) -> Vec<&'static str> {
        match self.isolation() {
            DecodeIsolation::Process => preprocess::formats().collect(),
            DecodeIsolation::Thread => preprocess::formats_for_threads().collect(),
        }
    }

    /// Reads an image's header and checks it against the limits.
    ///
    /// # Errors
    /// Says what is wrong with the image, as an API error. On a thread, the caller has to catch a decoder's
    /// panic.
    pub fn inspect(&self, bytes: &[u8], limits: &ImageLimits) -> Result<Header, Error> {
        #[cfg(target_os = "linux")]
        if let Some(processes) = &self.processes {
            return processes.inspect(bytes, limits);
        }
        check_thread(bytes)?;
        preprocess::inspect(bytes, limits).map_err(image_error)
    }

    /// An upper estimate of the bytes that [`Decoder::prepare`] takes at its peak: the estimate from the
    /// header, the encoded bytes once more in a place that a process can see, and a copy that a decoder
    /// corrects.
    #[must_use]
    pub fn memory(bytes: &[u8], header: Header) -> u64 {
        header.decode_bytes.saturating_add(2 * bytes.len() as u64)
    }

    /// Decodes and resizes an image; see [`preprocess::prepare`].
    ///
    /// * `header`: the result of [`Decoder::inspect`], which limits the memory of a process
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
    /// * `header`: the result of [`Decoder::inspect`]
    ///
    /// # Errors
    /// As [`Decoder::inspect`], and [`Code::DecodeTooLarge`] if the views need more memory than an image may.
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

/// Refuses an image that must not be decoded on a thread of this process.
fn check_thread(bytes: &[u8]) -> Result<(), Error> {
    let Some(name) = preprocess::may_abort(bytes) else { return Ok(()) };
    let message = format!(
        "this is an {name} file; this server reads {name} in decode processes only, of which it has none \
         (`--decode-isolation`): convert the image to JPEG or PNG"
    );
    Err(Error::new(Code::UndecodableImage, message))
}

/// Converts an image's failure to an API error.
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
