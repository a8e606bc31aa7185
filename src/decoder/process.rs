//! The server's side of one decode process.

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::OwnedFd,
        unix::{
            fs::FileExt as _,
            net::UnixStream,
            process::{CommandExt as _, ExitStatusExt as _},
        },
    },
    path::Path,
    process::{Child, Command, ExitStatus},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{
        FallocateFlags, MemfdFlags, SealFlags, SeekFrom, fallocate, fcntl_add_seals, memfd_create,
        seek,
    },
    process::{Pid, PidfdFlags, Resource, Rlimit, getrlimit, pidfd_open, prlimit},
    time::Timespec,
};

use super::{
    wire::{self, Outcome, Ready, Request, Response, Task},
    worker,
};
use crate::preprocess::Pixels;

/// Maximum time until a process sends its first frame. It is the server's own binary, but the disk may be slow.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time for a process to end after its socket was closed. After that it is killed.
const END_TIMEOUT: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// The factor between the processor time and the wall time of an image, for a busy machine.
const WALL_FACTOR: u32 = 6;
/// Shared memory up to this size is kept for the next image of a process.
const KEPT_BYTES: u64 = 2 << 20;
/// Shared memory of one process, for an encoded image or its pixels, whichever is larger. Only written pages
/// use memory.
const MEMORY_BYTES: u64 = 1 << 30;
/// Maximum number of bytes that are kept from a process's standard error, to see why it ended.
const SAID_BYTES: usize = 4096;
/// The runtime's message before it aborts because there is no memory.
const NO_MEMORY: &str = "memory allocation of";
/// Settings of the allocator in a decode process. Memory that it returns no longer counts as address space.
const ALLOCATOR: (&str, &str) = (
    "_RJEM_MALLOC_CONF",
    "background_thread:false,narenas:1,retain:false,dirty_decay_ms:10000,muzzy_decay_ms:0",
);

/// Why a process ended while it had an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Memory,
    Time,
    Crash,
    /// Something outside ended the process.
    Killed,
}

impl End {
    /// The metric's label.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Time => "time",
            Self::Crash => "crash",
            Self::Killed => "killed",
        }
    }
}

/// The limits for an image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowed {
    /// Bytes of address space.
    pub(super) memory: u64,
    /// Processor time.
    pub(super) time: Duration,
}

/// A task that was answered, with or without success.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) outcome: Outcome,
    /// The pixels that [`Outcome::Prepared`] has written to the shared memory.
    pub(super) pixels: Option<Pixels>,
}

/// A process that ended during a task.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) end: End,
    pub(super) status: Option<ExitStatus>,
    /// Whether the process had decoded an image before.
    pub(super) used: bool,
    pub(super) source: io::Error,
}

/// One process.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    socket: UnixStream,
    memory: File,
    /// The standard error of the process.
    said: File,
    /// Its address space before any image; 0 if it is not known.
    address_space: u64,
    cpu_seconds: u64,
    /// Whether the process has decoded an image.
    used: bool,
}

impl Process {
    /// Starts a process and waits until it has entered its sandbox.
    ///
    /// # Errors
    /// The system's error, or [`io::ErrorKind::TimedOut`].
    pub(super) fn start(program: &Path) -> io::Result<(Self, Ready)> {
        let (socket, theirs) = UnixStream::pair()?;
        let memory = shared_memory(MEMORY_BYTES)?;
        let said = shared_memory(SAID_BYTES as u64)?;
        let child = Command::new(program)
            .arg0(env!("CARGO_PKG_NAME"))
            .arg(worker::ARGUMENT)
            .env_clear()
            .env(ALLOCATOR.0, ALLOCATOR.1)
            .current_dir("/")
            // A terminal's signals must go to the server only.
            .process_group(0)
            .stdin(OwnedFd::from(theirs))
            .stdout(OwnedFd::from(memory.try_clone()?))
            .stderr(OwnedFd::from(said.try_clone()?))
            .spawn()?;
        let mut process =
            Self { child, socket, memory, said, address_space: 0, cpu_seconds: 0, used: false };
        let ready: Ready = process.read(START_TIMEOUT)?;
        process.address_space = ready.address_space;
        Ok((process, ready))
    }

    /// Whether the process is still running.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends an image and waits for the result.
    ///
    /// # Errors
    /// Says why there is no result. The process has ended then, with all its memory.
    pub(super) fn exchange(
        &mut self,
        request: &Request,
        bytes: &[u8],
        allowed: Allowed,
    ) -> Result<Done, Broken> {
        self.ask(request, bytes, allowed).map_err(|source| {
            let timed_out =
                matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
            if timed_out {
                let _ = self.child.kill();
            }
            let status = self.end();
            let signal = status.and_then(|status| status.signal());
            let end = match signal {
                _ if timed_out => End::Time,
                Some(libc::SIGXCPU) => End::Time,
                Some(libc::SIGKILL) => End::Killed,
                Some(libc::SIGABRT) if self.had_no_memory() => End::Memory,
                _ => End::Crash,
            };
            Broken { end, status, used: self.used, source }
        })
    }

    fn ask(&mut self, request: &Request, bytes: &[u8], allowed: Allowed) -> io::Result<Done> {
        let most = most_bytes(&request.task);
        self.limit(allowed, most)?;
        seek(&self.said, SeekFrom::Start(0))?;
        self.memory.write_all_at(bytes, 0)?;
        wire::write(&mut self.socket, request)?;
        let Response { outcome, cpu_seconds } = self.read(allowed.time * WALL_FACTOR)?;
        // A compromised process may report anything, so the reported time is clamped: it cannot be less than
        // before or more than allowed.
        self.cpu_seconds =
            cpu_seconds.clamp(self.cpu_seconds, self.cpu_seconds + whole_seconds(allowed.time));
        let pixels = match (&outcome, &request.task) {
            (&Outcome::Prepared { height, width, .. }, task) => {
                if !task.accepts([height, width]) {
                    return Err(io::Error::other(
                        "the pixels have another size than was asked for",
                    ));
                }
                Some(self.pixels(height, width)?)
            }
            (Outcome::Inspected(header), _) if !request.limits.allow(*header) => {
                return Err(io::Error::other("the header is beyond the limits"));
            }
            _ => None,
        };
        if most.max(bytes.len() as u64) > KEPT_BYTES {
            // Returns the pages to the system; the length is sealed and stays.
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&self.memory, hole, KEPT_BYTES, MEMORY_BYTES - KEPT_BYTES)?;
        }
        self.used = true;
        Ok(Done { outcome, pixels })
    }

    fn pixels(&self, height: u32, width: u32) -> io::Result<Pixels> {
        let length = usize::try_from(u64::from(height) * u64::from(width) * 3);
        let length = length.map_err(io::Error::other)?;
        let mut data: Arc<[u8]> = std::iter::repeat_n(0, length).collect();
        if let Some(data) = Arc::get_mut(&mut data) {
            self.memory.read_exact_at(data, 0)?;
        }
        Ok(Pixels { height, width, data })
    }

    /// Sets the limits for the next image.
    ///
    /// * `written`: bytes that the process may write to the shared memory
    fn limit(&self, allowed: Allowed, written: u64) -> io::Result<()> {
        let pid = Pid::from_child(&self.child);
        let set = |resource, most: u64| {
            // A process inherits the server's hard limit and cannot exceed it.
            let maximum = getrlimit(resource).maximum;
            let current = Some(maximum.map_or(most, |maximum| maximum.min(most)));
            prlimit(Some(pid), resource, Rlimit { current, maximum }).map(drop)
        };
        // The kernel counts processor time over the whole life of the process.
        set(Resource::Cpu, self.cpu_seconds + whole_seconds(allowed.time))?;
        set(Resource::Fsize, written.max(SAID_BYTES as u64))?;
        if self.address_space > 0 {
            set(Resource::As, self.address_space.saturating_add(allowed.memory))?;
        }
        Ok(())
    }

    /// Reads a frame within `timeout`, however its bytes arrive.
    fn read<T: serde::de::DeserializeOwned>(&mut self, timeout: Duration) -> io::Result<T> {
        wire::read(&mut Timed { socket: &self.socket, deadline: Instant::now() + timeout })
    }

    fn had_no_memory(&self) -> bool {
        let mut said = vec![0; SAID_BYTES];
        let read = self.said.read_exact_at(&mut said, 0);
        read.is_ok() && String::from_utf8_lossy(&said).contains(NO_MEMORY)
    }

    /// Ends the process and waits until its memory is freed.
    fn end(&mut self) -> Option<ExitStatus> {
        // An idle process ends by itself when its socket is closed. A failed process is already ending, and its
        // own exit status says why.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if !self.ends_soon() {
            let _ = self.child.kill();
        }
        self.child.wait().ok()
    }

    /// Waits a short time for the process to end.
    fn ends_soon(&self) -> bool {
        let pid = Pid::from_child(&self.child);
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        let mut ended = [PollFd::new(&process, PollFlags::IN)];
        poll(&mut ended, Some(&END_TIMEOUT)).is_ok_and(|count| count > 0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A socket that is read until a deadline.
struct Timed<'s> {
    socket: &'s UnixStream,
    deadline: Instant,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left))?;
        self.socket.read(buffer)
    }
}

/// Memory that two processes can share, of a length that neither can change.
fn shared_memory(bytes: u64) -> io::Result<File> {
    let memory = memfd_create("image", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let memory = File::from(memory);
    memory.set_len(bytes)?;
    fcntl_add_seals(&memory, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(memory)
}

/// Maximum number of bytes of a task's result in the shared memory.
fn most_bytes(task: &Task) -> u64 {
    task.max_pixels().saturating_mul(3)
}

/// Rounds up to whole seconds and adds one: the kernel counts whole seconds, and the process has already used a
/// part of one.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0) + 1
}
