//! One decode process, from the server's side.

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

/// How long a process may take to its first word: it is the server's own binary, but the disk may be slow.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a process may take to its end once it has no socket, before it is killed.
const END_TIMEOUT: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// How much longer than its processor time an image may take, on a machine that does much else.
const WALL_FACTOR: u32 = 6;
/// Shared memory up to this stays with a process for its next image.
const KEPT_BYTES: u64 = 2 << 20;
/// Shared memory of one process: an encoded image or its pixels, whichever is larger. Only what is written is taken.
const MEMORY_BYTES: u64 = 1 << 30;
/// What of a process's standard error is kept, to see why it ended.
const SAID_BYTES: usize = 4096;
/// How the runtime says that there is no memory, before it aborts.
const NO_MEMORY: &str = "memory allocation of";
/// Settings of the allocator in a decode process: what is given back does not count as its address space.
const ALLOCATOR: (&str, &str) = (
    "_RJEM_MALLOC_CONF",
    "background_thread:false,narenas:1,retain:false,dirty_decay_ms:10000,muzzy_decay_ms:0",
);

/// Why a process ended that had an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Memory,
    Time,
    Crash,
    /// By somebody else.
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

/// What an image may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowed {
    /// Bytes of address space.
    pub(super) memory: u64,
    /// Processor time.
    pub(super) time: Duration,
}

/// A task that came to its end, well or not.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) outcome: Outcome,
    /// What [`Outcome::Prepared`] left in the shared memory.
    pub(super) pixels: Option<Pixels>,
}

/// A process that ended during a task.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) end: End,
    pub(super) status: Option<ExitStatus>,
    /// Whether it had had an image before.
    pub(super) used: bool,
    pub(super) source: io::Error,
}

/// One process.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    socket: UnixStream,
    memory: File,
    /// What it wrote to standard error.
    said: File,
    /// Its address space before any image; 0 where it is not known.
    address_space: u64,
    cpu_seconds: u64,
    /// Whether it has had an image.
    used: bool,
}

impl Process {
    /// Starts a process and waits until it has given up its rights.
    ///
    /// # Errors
    /// The system's, or [`io::ErrorKind::TimedOut`].
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
            // A terminal's signals are for the server.
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

    /// Whether it has not ended.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Hands an image over and waits for the outcome.
    ///
    /// # Errors
    /// Says why the process, which is gone then with all its memory, did not come to one.
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
        // A process that was taken over may say anything. It cannot have taken less than before, nor more than it
        // was allowed.
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
            // Gives the pages back; the length is sealed.
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

    /// Sets what the next image may take.
    ///
    /// * `written`: bytes that the process may write to the shared memory
    fn limit(&self, allowed: Allowed, written: u64) -> io::Result<()> {
        let pid = Pid::from_child(&self.child);
        let set = |resource, most: u64| {
            // No process can have more than the server's own hard limit, which it inherits.
            let maximum = getrlimit(resource).maximum;
            let current = Some(maximum.map_or(most, |maximum| maximum.min(most)));
            prlimit(Some(pid), resource, Rlimit { current, maximum }).map(drop)
        };
        // The kernel counts over the whole life of the process.
        set(Resource::Cpu, self.cpu_seconds + whole_seconds(allowed.time))?;
        set(Resource::Fsize, written.max(SAID_BYTES as u64))?;
        if self.address_space > 0 {
            set(Resource::As, self.address_space.saturating_add(allowed.memory))?;
        }
        Ok(())
    }

    /// A frame, within `timeout` whatever comes before it.
    fn read<T: serde::de::DeserializeOwned>(&mut self, timeout: Duration) -> io::Result<T> {
        wire::read(&mut Timed { socket: &self.socket, deadline: Instant::now() + timeout })
    }

    fn had_no_memory(&self) -> bool {
        let mut said = vec![0; SAID_BYTES];
        let read = self.said.read_exact_at(&mut said, 0);
        read.is_ok() && String::from_utf8_lossy(&said).contains(NO_MEMORY)
    }

    /// Ends the process and waits until it is gone, with its memory.
    fn end(&mut self) -> Option<ExitStatus> {
        // Without its socket an idle process ends by itself, and one that failed is on its way: its own status says
        // why.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if !self.ends_soon() {
            let _ = self.child.kill();
        }
        self.child.wait().ok()
    }

    /// Waits a moment for the process to end.
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

/// Most bytes that a task's outcome takes in the shared memory.
fn most_bytes(task: &Task) -> u64 {
    task.max_pixels().saturating_mul(3)
}

/// Whole seconds that are at least `time`: the kernel counts no finer, and the process is somewhere within one.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0) + 1
}
