//! The log: one subscriber on standard error, for people or for machines.
//!
//! A thread of its own writes the lines (`queue`). What clients wrote is not logged; what else could break a line is
//! escaped (`printable`).

mod printable;
mod queue;

use std::{
    backtrace::Backtrace,
    io::{self, IsTerminal as _},
    panic,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{self, LogFormat};

/// Libraries whose debug lines drown our own. A directive for one of them in the filter wins.
const LOUD_TARGETS: &str =
    "h2=info,hyper=info,hyper_util=info,tower=info,tonic=info,rustls=info,reqwest=info";

/// What may wait to be written; past that lines are dropped, and counted. A common line has 250 bytes.
const WAITING: queue::Bounds = queue::Bounds { lines: 8192, bytes: 8 << 20 };

/// Counts what was dropped by the process's one log.
static DROPPED: OnceLock<Arc<AtomicU64>> = OnceLock::new();

/// Keeps the log written. When it is dropped, what waits is written first, as far as that takes no more than a
/// second.
#[must_use = "without it nothing is written"]
#[derive(Debug)]
pub struct LogGuard(#[expect(dead_code, reason = "held for its end")] queue::Guard);

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
    /// The thread that writes could not be started.
    #[error("cannot start the thread of the log")]
    Thread(#[source] io::Error),
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
    let (writer, guard) = queue::queue(io::stderr(), WAITING).map_err(LogError::Thread)?;
    let dropped = writer.dropped();
    let lines = fmt::layer().with_writer(writer);
    match config.format {
        LogFormat::Human => {
            let lines = lines.fmt_fields(printable::fields());
            let lines = lines.with_ansi(io::stderr().is_terminal());
            subscriber.with(lines).try_init()?;
        }
        // The event's fields at the top level: that is where log stores look for them. Requests have one span, so a
        // list of spans would say the same again.
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_span_list(false);
            subscriber.with(lines).try_init()?;
        }
    }
    DROPPED.get_or_init(|| dropped);
    log_panics();
    Ok(LogGuard(guard))
}

/// Lines that were dropped because nobody read the log.
#[must_use]
pub fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |dropped| dropped.load(Ordering::Relaxed))
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
    fn a_filter_that_is_none_is_named() {
        let error = filter("siglip=loud").expect_err("no such level");
        assert_eq!(error.to_string(), "`siglip=loud` is not a log filter");
    }
}
