//! The log: one subscriber on standard error, for people or for machines.
//!
//! A thread of its own writes the lines. Whoever reads the log may stop to, and a write would then hold up whatever
//! request had something to say, in the end all of them.

use std::{backtrace::Backtrace, io, io::IsTerminal as _, panic, sync::OnceLock, thread};

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{self, LogFormat};

/// Libraries whose debug lines drown our own. A directive for one of them in the filter wins.
const LOUD_TARGETS: &str = "h2=info,hyper=info,hyper_util=info,tower=info,tonic=info,rustls=info";

/// Most lines that wait to be written; past that they are dropped, and counted.
const MAX_WAITING_LINES: usize = 8192;

/// Counts what was dropped by the process's one log.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Keeps the log written. When it is dropped, what waits is written first, as far as that takes no more than a
/// second.
#[must_use = "without it nothing is written"]
#[derive(Debug)]
pub struct LogGuard(#[expect(dead_code, reason = "held for its end")] WorkerGuard);

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error("`{filter}` is not a log filter")]
    Filter {
        /// As it was configured.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Another subscriber is in place already.
    #[error("the log is set up already")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sets up the process's log and its panic hook. Once per process.
///
/// # Errors
/// Any [`LogError`].
pub fn init(config: &config::Log) -> Result<LogGuard, LogError> {
    let subscriber = tracing_subscriber::registry().with(filter(&config.filter)?);
    let (writer, guard) = writer(io::stderr(), MAX_WAITING_LINES);
    let dropped = writer.error_counter();
    let lines = fmt::layer().with_writer(writer);
    match config.format {
        LogFormat::Human => {
            let lines = lines.with_ansi(io::stderr().is_terminal());
            subscriber.with(lines).try_init()?;
        }
        // The event's fields at the top level: that is where log stores look for them.
        LogFormat::Json => subscriber.with(lines.json().flatten_event(true)).try_init()?,
    }
    DROPPED.get_or_init(|| dropped);
    log_panics();
    Ok(LogGuard(guard))
}

/// Lines that were dropped because nobody read the log.
#[must_use]
pub fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |dropped| dropped.dropped_lines() as u64)
}

/// A writer that never waits: a thread moves what it is given on to `to`.
fn writer(to: impl io::Write + Send + 'static, lines: usize) -> (NonBlocking, WorkerGuard) {
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(lines);
    builder.thread_name("log").finish(to)
}

fn filter(text: &str) -> Result<EnvFilter, LogError> {
    let parse = |directives: &str| {
        EnvFilter::try_new(directives)
            .map_err(|source| LogError::Filter { filter: text.to_owned(), source })
    };
    let asked = parse(text)?;
    // At `info` and above the libraries are quiet by themselves.
    if asked.max_level_hint().is_some_and(|level| level <= LevelFilter::INFO) {
        return Ok(asked);
    }
    parse(&format!("{LOUD_TARGETS},{text}"))
}

/// A panic becomes an event like any other, so that a log store shows it; the default hook would print
/// lines that no parser of JSON reads.
fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        let backtrace = Backtrace::capture();
        tracing::error!(
            panic = panic.payload_as_str().unwrap_or("a payload that is not text"),
            thread = thread.name().unwrap_or("unnamed"),
            location = panic.location().map(tracing::field::display),
            backtrace = matches!(backtrace.status(), std::backtrace::BacktraceStatus::Captured)
                .then(|| tracing::field::display(&backtrace)),
            "panicked"
        );
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_stay_quiet_unless_named() {
        assert_eq!(filter("info").expect("parses").to_string(), "info");
        let debug = filter("debug").expect("parses").to_string();
        assert!(debug.contains("hyper=info") && debug.contains("debug"), "{debug}");
        let named = filter("debug,hyper=trace").expect("parses").to_string();
        assert!(named.contains("hyper=trace") && !named.contains("hyper=info"), "{named}");
    }

    #[test]
    fn a_log_that_nobody_reads_holds_nobody_up_and_counts_what_it_drops() {
        /// Takes nothing until it is told to.
        struct Stuck(std::sync::mpsc::Receiver<()>);
        impl io::Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                // Without a sender it takes everything.
                let _ = self.0.recv();
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (open, stuck) = std::sync::mpsc::channel();
        let (mut writer, guard) = writer(Stuck(stuck), 4);
        for _ in 0..100 {
            io::Write::write_all(&mut writer, b"a line\n").expect("never fails");
        }
        // One is being written, four wait.
        let dropped = writer.error_counter().dropped_lines();
        assert!((95..=96).contains(&dropped), "{dropped}");
        drop(open);
        drop(guard);
    }

    #[test]
    fn a_filter_that_is_none_is_named() {
        let error = filter("siglip=loud").expect_err("no such level");
        assert_eq!(error.to_string(), "`siglip=loud` is not a log filter");
    }
}
