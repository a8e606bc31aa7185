//! The server and the tools that check and measure it, in one program, for a machine with a GPU and without a
//! compiler.
//!
//! `kit golden`, `kit speed` and so on run the tools. With any other arguments it is the server.

#![expect(clippy::expect_used, reason = "as in tests: what fails is seen by who ran it")]

mod device;
mod golden;
mod load;
mod memory;
mod speed;
mod twins;

/// Inputs that other programs can reproduce.
#[path = "../../../examples/tower_speed/rows.rs"]
mod rows;

use std::process::ExitCode;

use clap::Parser;
use siglip_server::config;

/// As in the server.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Checks and measures the server. Each command prints JSON objects, one per line.
#[derive(Debug, Parser)]
enum Kit {
    /// Compares every stage of every stored checkpoint with its reference.
    Golden(golden::Arguments),
    /// Compares every CUDA kernel of our own with its twin on the host.
    Twins(twins::Arguments),
    /// Measures towers: reads jobs from standard input, one JSON object per line, and prints a result for each.
    Speed(speed::Arguments),
    /// Runs a tower a few times and then, after half a second, the given number of times.
    Passes(speed::PassArguments),
    /// Fills the device's memory and runs batches that no longer fit.
    Memory(memory::Arguments),
    /// Holds the device's memory until standard input ends.
    Hog(memory::HogArguments),
    /// Sends requests to a server for a while.
    Load(load::Arguments),
}

/// Where a model runs.
#[derive(Debug, Clone, clap::Args)]
struct Placed {
    /// Like the server's `--device`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Like the server's `--dtype`.
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// As the server's `--cuda-kernels`.
    #[arg(long, default_value = "own")]
    kernels: String,
}

impl Placed {
    fn model(&self, source: &str) -> anyhow::Result<config::Model> {
        Ok(config::Model {
            source: source.to_owned(),
            device: self.device.parse().map_err(anyhow::Error::msg)?,
            dtype: self.dtype.parse().map_err(anyhow::Error::msg)?,
            cuda_kernels: self.kernels.parse().map_err(anyhow::Error::msg)?,
            ..config::Model::default()
        })
    }
}

fn main() -> ExitCode {
    const COMMANDS: [&str; 7] = ["golden", "twins", "speed", "passes", "memory", "hog", "load"];
    let command = std::env::args().nth(1).unwrap_or_default();
    if !COMMANDS.contains(&&*command) {
        device::break_when_told();
        return siglip_server::cli::run();
    }
    let done = match Kit::parse() {
        Kit::Golden(arguments) => golden::run(&arguments),
        Kit::Twins(arguments) => twins::run(&arguments),
        Kit::Speed(arguments) => speed::run(&arguments),
        Kit::Passes(arguments) => speed::passes(&arguments),
        Kit::Memory(arguments) => memory::run(&arguments),
        Kit::Hog(arguments) => memory::hog(&arguments),
        Kit::Load(arguments) => load::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kit: {error:#}");
            ExitCode::FAILURE
        }
    }
}
