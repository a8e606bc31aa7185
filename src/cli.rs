//! The command line.

mod bench;
mod check;
mod download;
mod eval;
mod healthcheck;
mod help;
mod models;
mod offline;
mod options;
mod serve;
mod shell;
mod show;

use std::{process::ExitCode, time::Duration};

use clap::{FromArgMatches as _, Parser, Subcommand};

use self::options::Options;
use crate::{config::load::Problems, decoder, rest};

/// A command that failed.
const FAILURE: u8 = 1;
/// How long a process that ends waits for its last line to be taken.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// A command line or a configuration that is wrong.
const USAGE: u8 = 2;
/// Some rows of `embed`, `score` or `eval` failed; the others are answered.
const SOME_FAILED: u8 = 3;

/// The version, with the commit and the target that it was built from.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("SIGLIP_BUILD_COMMIT"),
    ", ",
    env!("SIGLIP_BUILD_TARGET"),
    ")"
);

/// An embedding inference server for SigLIP image-text models
///
/// Without a command it serves. Every option is also an environment variable and a line of the config
/// file; `siglip-server config` shows the values in force and where each came from.
#[derive(Debug, Parser)]
#[command(name = "siglip-server", version = VERSION, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the models over HTTP and gRPC (the default)
    Serve,
    /// Download a model from the hub into the cache, and print its folder
    Download(download::Download),
    /// List the models in the hub's cache: revisions, sizes, and which of them are served
    Models(models::Models),
    /// Print the configuration in force, with the origin of every value
    Config(show::Show),
    /// Print the description of the HTTP interface (OpenAPI, YAML)
    Openapi,
    /// Ask the server on this machine whether it is ready; exit code 0 or 1
    Healthcheck,
    /// Embed texts and images with the (first) model: one JSON object a line, or a file of vectors
    Embed(offline::Embed),
    /// Look for a text or an image in a file of vectors
    Search(offline::Search),
    /// Classify image files by labels with the (first) model
    Classify(offline::Classify),
    /// Score image files against texts with the (first) model, one JSON object an image
    Score(offline::Score),
    /// Load a model in each type, and tell how near, how large and how fast each is on this machine
    Check(check::Check),
    /// Send requests to a server at a given rate, and tell how long they take
    Bench(bench::Bench),
    /// Evaluate the (first) model on a folder of class folders, or on images with captions
    Eval(eval::Eval),
    /// Print a script that completes commands and options in a shell
    Completions(shell::Completions),
    /// Print the manual page
    Man(shell::Manual),
}

/// Runs the command line of this process.
///
/// The exit code is 0 for success, 1 for a failure, 2 for a wrong command line or configuration, and 3 where some
/// rows of `embed`, `score` or `eval` failed.
#[must_use]
pub fn run() -> ExitCode {
    #[cfg(target_os = "linux")]
    if std::env::args_os().nth(1).is_some_and(|first| first == decoder::worker::ARGUMENT) {
        return decoder::worker::run();
    }
    decoder::allow_processes();
    // Prints help and version itself, and exits 2 for an unknown flag.
    let matches = help::command().get_matches();
    let Cli { command, mut options } =
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match &command {
        Some(Command::Download(download)) => options.set_model(download.source()),
        Some(Command::Check(check)) => options.set_model(check.source()),
        _ => {}
    }
    let effective = match options.load() {
        Ok(effective) => effective,
        Err(problems) => return refuse(&problems),
    };
    let done = match command.unwrap_or(Command::Serve) {
        Command::Serve => serve::run(effective.config),
        Command::Download(download) => download.run(&effective.config),
        Command::Models(models) => models.run(&effective.config),
        Command::Config(show) => show.run(&effective),
        Command::Openapi => rest::openapi_yaml().map_err(Into::into).and_then(|yaml| print(&yaml)),
        Command::Healthcheck => healthcheck::run(&effective.config),
        Command::Embed(embed) => embed.run(&effective.config),
        Command::Search(search) => search.run(&effective.config),
        Command::Classify(classify) => classify.run(&effective.config),
        Command::Score(score) => score.run(&effective.config),
        Command::Check(check) => check.run(&effective.config),
        Command::Bench(bench) => bench.run(),
        Command::Eval(eval) => eval.run(&effective.config),
        Command::Completions(completions) => completions.run(help::command()),
        Command::Man(manual) => manual.run(help::command()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<serve::Logged>() => ExitCode::from(FAILURE),
        Err(error) => {
            // The whole chain on one line: `{:#}` is anyhow's notation for it.
            complain(format!("siglip-server: {error:#}\n"));
            ExitCode::from(if error.is::<offline::SomeFailed>() { SOME_FAILED } else { FAILURE })
        }
    }
}

/// Writes the last line to standard error. A pipe that nobody reads must not keep the process from its end.
fn complain(line: String) {
    use std::io::Write as _;
    let (done, written) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Nobody is left to be told that it failed.
        std::io::stderr().write_all(line.as_bytes()).unwrap_or_default();
        done.send(()).unwrap_or_default();
    });
    written.recv_timeout(LAST_WORDS).unwrap_or_default();
}

fn refuse(problems: &Problems) -> ExitCode {
    for line in problems.to_string().lines() {
        eprintln!("siglip-server: {line}");
    }
    ExitCode::from(USAGE)
}

/// Writes to standard output. A reader that has enough and leaves (`| head`) is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::{ErrorKind, Write as _};
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
