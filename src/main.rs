//! The server.

use std::process::ExitCode;

/// Keeps the resident set flat under mixed image sizes, where the system's allocator fragments.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    siglip_server::cli::run()
}
