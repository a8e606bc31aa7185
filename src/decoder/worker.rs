//! The inside of a decode process.

use std::{
    fs::File,
    io,
    os::{
        fd::AsFd as _,
        unix::{fs::FileExt as _, net::UnixStream},
    },
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use memmap2::Mmap;
use rustix::{
    event::{PollFd, PollFlags, poll},
    thread::set_name,
    time::{ClockId, Timespec, clock_gettime},
};

use super::{
    image_error, sandbox,
    wire::{self, Outcome, Ready, Request, Response, Task},
};
use crate::{
    allocator,
    preprocess::{self, Header, Prepared},
};

/// The argument that makes the server's binary a decode process.
pub const ARGUMENT: &str = "decode-process";

/// Before and after an image with at least this estimate, the allocator returns its free memory to the system,
/// so that memory of earlier images does not count against its limit.
const LARGE_BYTES: u64 = 8 << 20;
/// After this time without an image, the allocator returns its free memory to the system.
const IDLE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Decodes images for the server that started this process, until the server closes the socket.
#[must_use]
pub fn run() -> ExitCode {
    // The server reports failures, so this process prints no panic messages.
    std::panic::set_hook(Box::new(|_| {}));
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve() -> io::Result<()> {
    sandbox::close_inherited();
    // Without a name, the process would be listed under the name of the link that started it.
    let _ = set_name(c"siglip-decode");
    // Standard input is the socket, and standard output is the shared memory.
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let memory = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    // SAFETY: the length of the memory is sealed, and the server writes to it only while this process has no
    // image.
    let encoded = unsafe { Mmap::map(&memory)? };
    let address_space = address_space();
    let granted = sandbox::enter();
    let ready = Ready { seccomp: granted.seccomp, landlock: granted.landlock, address_space };
    wire::write(&mut socket, &ready)?;
    loop {
        let mut waiting = [PollFd::new(&socket, PollFlags::IN)];
        if poll(&mut waiting, Some(&IDLE)) == Ok(0) {
            allocator::give_back();
        }
        let request: Request = match wire::read(&mut socket) {
            Ok(request) => request,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let is_large = request.decode_bytes >= LARGE_BYTES;
        if is_large {
            allocator::give_back();
        }
        let outcome = answer(&request, &encoded, &memory)?;
        if is_large {
            allocator::give_back();
        }
        wire::write(&mut socket, &Response { outcome, cpu_seconds: cpu_seconds() })?;
    }
}

/// The result of a task if nothing is wrong with the image.
enum Done {
    Inspected(Header),
    Prepared(Prepared),
}

fn answer(request: &Request, encoded: &[u8], memory: &File) -> io::Result<Outcome> {
    let length = usize::try_from(request.bytes).map_err(io::Error::other)?;
    let too_long = || io::Error::other("the image is longer than the memory");
    let bytes = encoded.get(..length).ok_or_else(too_long)?;
    let limits = &request.limits;
    let work = || match &request.task {
        Task::Inspect => preprocess::inspect(bytes, limits).map(Done::Inspected),
        Task::Prepare { spec, decoding } => {
            preprocess::prepare(bytes, spec, limits, *decoding).map(Done::Prepared)
        }
        Task::Views { spec, tiling, decoding } => {
            preprocess::views(bytes, (spec, tiling), limits, *decoding).map(Done::Prepared)
        }
    };
    // All state that a panic may leave inconsistent belongs to this image only.
    Ok(match catch_unwind(AssertUnwindSafe(work)) {
        Err(_) => Outcome::Panicked,
        Ok(Err(error)) => Outcome::failed(&image_error(error)),
        Ok(Ok(Done::Inspected(header))) => Outcome::Inspected(header),
        Ok(Ok(Done::Prepared(Prepared { pixels, source_pixels }))) => {
            memory.write_all_at(&pixels.data, 0)?;
            Outcome::Prepared { height: pixels.height, width: pixels.width, source_pixels }
        }
    })
}

/// Bytes of the process's address space; 0 if the system does not report them.
fn address_space() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    pages.unwrap_or_default() * rustix::param::page_size() as u64
}

fn cpu_seconds() -> u64 {
    clock_gettime(ClockId::ProcessCPUTime).tv_sec.cast_unsigned()
}
