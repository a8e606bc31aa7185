//! The binary of the server.

use std::process::ExitCode;

/// jemalloc keeps the resident memory constant with images of mixed sizes, with which the system's allocator
/// fragments.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    siglip_server::cli::run()
}
