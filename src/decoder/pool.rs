//! The decode processes of a server.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{
    process::{Allowed, Broken, Done, End, Process},
    wire::{self, Outcome, Ready, Request, Task},
};
use crate::{
    error::{Code, Error},
    preprocess::{Decoding, Header, ImageLimits, ImageSpec, Prepared, Tiling},
    telemetry::Metrics,
};

/// Memory of decoding in addition to the image and a copy of its encoded bytes (which some decoders correct):
/// tables, the rows of a resize, the stack, the allocator's rounding.
const MARGIN_BYTES: u64 = 48 << 20;

/// An image of one pixel, with which the first process shows that it works.
const TRIAL: &[u8] =
    b"GIF89a\x01\0\x01\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";

/// The decode processes, and how to start more. There are never more processes than calling threads.
#[derive(Debug)]
pub(super) struct Pool {
    program: PathBuf,
    max_time: Duration,
    idle: Mutex<Vec<Process>>,
    metrics: Arc<Metrics>,
}

/// Why a task has no result.
enum Failure {
    NotStarted(io::Error),
    /// `used`: whether the process had decoded an image before.
    Ended {
        end: End,
        used: bool,
    },
}

impl Pool {
    /// Starts the first process, which shows whether processes can be started here.
    ///
    /// # Errors
    /// The system's error, or [`io::ErrorKind::TimedOut`].
    pub(super) fn start(
        program: PathBuf,
        max_time: Duration,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let (mut first, ready) = Process::start(&program)?;
        let limits =
            ImageLimits { max_bytes: TRIAL.len(), max_pixels: 1, max_decode_bytes: 1 << 20 };
        let bytes = TRIAL.len() as u64;
        let request = Request { bytes, decode_bytes: 0, limits, task: Task::Inspect };
        let allowed = Allowed { memory: MARGIN_BYTES, time: max_time };
        let done = first.exchange(&request, TRIAL, allowed).map_err(|broken| broken.source)?;
        if !matches!(done.outcome, Outcome::Inspected(_)) {
            return Err(io::Error::other("an image of one pixel is not read"));
        }
        let Ready { seccomp, landlock, .. } = ready;
        tracing::info!(seccomp, landlock, "images are decoded in processes of their own");
        let pool = Self { program, max_time, idle: Mutex::new(Vec::new()), metrics };
        pool.keep(first);
        Ok(pool)
    }

    pub(super) fn inspect(&self, bytes: &[u8], limits: &ImageLimits) -> Result<Header, Error> {
        match self.run((bytes, 0), limits, Task::Inspect)?.outcome {
            Outcome::Inspected(header) => Ok(header),
            other => Err(failed(other)),
        }
    }

    pub(super) fn prepare(
        &self,
        (bytes, header): (&[u8], Header),
        spec: &ImageSpec,
        limits: &ImageLimits,
        decoding: Decoding,
    ) -> Result<Prepared, Error> {
        let task = Task::Prepare { spec: spec.clone(), decoding };
        self.prepared((bytes, header.decode_bytes), limits, task)
    }

    /// See [`preprocess::views`](crate::preprocess::views).
    pub(super) fn views(
        &self,
        (bytes, header): (&[u8], Header),
        (spec, tiling): (&ImageSpec, &Tiling),
        limits: &ImageLimits,
        decoding: Decoding,
    ) -> Result<Prepared, Error> {
        let task = Task::Views { spec: spec.clone(), tiling: *tiling, decoding };
        let decode_bytes = header.decode_bytes.saturating_add(tiling.bytes());
        self.prepared((bytes, decode_bytes), limits, task)
    }

    fn prepared(
        &self,
        image: (&[u8], u64),
        limits: &ImageLimits,
        task: Task,
    ) -> Result<Prepared, Error> {
        match self.run(image, limits, task)? {
            Done { outcome: Outcome::Prepared { source_pixels, .. }, pixels: Some(pixels) } => {
                Ok(Prepared { pixels, source_pixels })
            }
            done => Err(failed(done.outcome)),
        }
    }

    /// Runs one task in a process.
    ///
    /// * `decode_bytes`: an upper estimate of the memory in addition to the encoded bytes
    fn run(
        &self,
        (bytes, decode_bytes): (&[u8], u64),
        limits: &ImageLimits,
        task: Task,
    ) -> Result<Done, Error> {
        let request = Request { bytes: bytes.len() as u64, decode_bytes, limits: *limits, task };
        let memory = decode_bytes.saturating_add(MARGIN_BYTES + request.bytes);
        let allowed = Allowed { memory, time: self.max_time };
        let process = self.take().map_or_else(|| self.started(), Ok);
        let done = match process.and_then(|process| self.attempt(process, &request, bytes, allowed))
        {
            // The image may not be at fault: the process was ended from outside, or earlier images had left it
            // too little memory.
            Err(Failure::Ended { end: End::Killed, .. })
            | Err(Failure::Ended { end: End::Memory, used: true }) => {
                self.started().and_then(|process| self.attempt(process, &request, bytes, allowed))
            }
            done => done,
        };
        done.map_err(|failure| match failure {
            Failure::NotStarted(error) => cannot_start(error),
            Failure::Ended { end, .. } => end_error(end, self.max_time),
        })
    }

    fn attempt(
        &self,
        mut process: Process,
        request: &Request,
        bytes: &[u8],
        allowed: Allowed,
    ) -> Result<Done, Failure> {
        let busy = self.metrics.decode_processes.with_label_values(&["busy"]);
        busy.inc();
        let done = process.exchange(request, bytes, allowed);
        busy.dec();
        match done {
            Ok(done) => {
                self.keep(process);
                Ok(done)
            }
            Err(Broken { end, status, used, source }) => {
                let reason = end.reason();
                self.metrics.decode_ended.with_label_values(&[reason]).inc();
                let status = status.map(tracing::field::display);
                let error = &source as &dyn std::error::Error;
                tracing::info!(
                    reason,
                    status,
                    error,
                    "a decode process ended while it had an image"
                );
                Err(Failure::Ended { end, used })
            }
        }
    }

    fn started(&self) -> Result<Process, Failure> {
        Process::start(&self.program).map(|(process, _)| process).map_err(Failure::NotStarted)
    }

    /// Takes an idle process. Processes that were ended from outside are dropped, which removes them from the
    /// system's list.
    fn take(&self) -> Option<Process> {
        let mut idle = self.idle.lock();
        idle.retain_mut(Process::is_alive);
        let process = idle.pop();
        self.count(idle.len());
        process
    }

    fn keep(&self, process: Process) {
        let mut idle = self.idle.lock();
        idle.push(process);
        self.count(idle.len());
    }

    fn count(&self, idle: usize) {
        let gauge = self.metrics.decode_processes.with_label_values(&["idle"]);
        gauge.set(i64::try_from(idle).unwrap_or(i64::MAX));
    }
}

/// The error for a result of another kind than requested.
fn failed(outcome: Outcome) -> Error {
    match outcome {
        Outcome::Failed { code, message } => wire::error(&code, message),
        Outcome::Panicked => Error::new(Code::UndecodableImage, "the image cannot be decoded"),
        Outcome::Inspected(_) | Outcome::Prepared { .. } => {
            Error::internal("a decode process answered another question")
        }
    }
}

fn cannot_start(error: io::Error) -> Error {
    let message = "no process could be started to decode the image; retry later";
    Error::new(Code::Overloaded, message).with_source(error)
}

fn end_error(end: End, max_time: Duration) -> Error {
    let (code, message) = match end {
        End::Memory => (
            Code::UndecodableImage,
            "decoding the image takes more memory than its header says".to_owned(),
        ),
        End::Time => (
            Code::DeadlineExceeded,
            format!("decoding the image takes more than {max_time:?} of processor time"),
        ),
        End::Crash => (Code::UndecodableImage, "the image made its decoder fail".to_owned()),
        End::Killed => (
            Code::Overloaded,
            "the process that decoded the image was ended from outside; retry later".to_owned(),
        ),
    };
    Error::new(code, message)
}
