//! Handles signals, and starts the drain.
//!
//! On SIGTERM, SIGINT or SIGQUIT readiness turns red. After `listen.drain_delay` new work is refused with
//! `shutting_down`, requests in flight are finished, idle connections are closed, the batcher drains, and the
//! process exits with 0. If the grace period ends first, it exits with 1. A second signal ends the process at
//! once.
//!
//! SIGHUP, SIGUSR1 and SIGUSR2 change nothing: changed files are read again anyway, and a closed terminal must
//! not end the server.

use std::io;

use crate::app::AppHandle;

/// A signal that asks the process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// From a terminal: Ctrl-C.
    Interrupt,
    /// From a service manager.
    Terminate,
    /// From a terminal: Ctrl-\.
    Quit,
}

impl Signal {
    /// The exit code that a shell reports for a process that the signal ended: 128 plus the signal's number.
    #[must_use]
    pub const fn exit_code(self) -> i32 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
            Self::Quit => 131,
        }
    }
}

/// The handled signals, from [`Signals::install`] on.
#[derive(Debug)]
pub struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    quit: tokio::signal::unix::Signal,
    /// These are kept, because dropping them would restore the system's default, which ends the process.
    #[cfg(unix)]
    _ignored: [tokio::signal::unix::Signal; 3],
}

#[cfg(unix)]
impl Signals {
    /// Installs handlers instead of the system's default, which ends the process.
    ///
    /// # Errors
    /// Fails if the system refuses the handler.
    pub fn install() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            _ignored: [
                signal(SignalKind::hangup())?,
                signal(SignalKind::user_defined1())?,
                signal(SignalKind::user_defined2())?,
            ],
        })
    }

    /// The next signal.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.quit.recv() => Signal::Quit,
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    /// Handles Ctrl-C; this system has no SIGTERM.
    ///
    /// # Errors
    /// Never fails on this system.
    pub fn install() -> io::Result<Self> {
        Ok(Self {})
    }

    /// The next signal.
    pub async fn next(&mut self) -> Signal {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Signal::Interrupt
    }
}

/// Drains the server at the first signal and resolves at the second one, at which the caller ends the process.
pub async fn drain_on_signal(mut signals: Signals, handle: AppHandle) -> Signal {
    let first = signals.next().await;
    tracing::info!(signal = ?first, "draining on a signal; a second one ends the process at once");
    let delay = handle.drain_delay();
    if !delay.is_zero() {
        handle.leave();
        tokio::select! {
            second = signals.next() => return second,
            () = tokio::time::sleep(delay) => {}
        }
    }
    handle.stop();
    signals.next().await
}
