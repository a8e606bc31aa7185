//! Signals, and the order in which things stop.
//!
//! On SIGTERM, SIGINT or SIGQUIT: readiness turns red; after `listen.drain_delay` new work is refused with
//! `shutting_down`; requests in flight are answered; connections close as they fall idle; the batcher drains; the process exits 0.
//! If the grace period ends first it exits 1. A second signal ends the process at once.
//!
//! SIGHUP, SIGUSR1 and SIGUSR2 change nothing: files that may change are followed anyway, and a terminal that goes
//! away must not take the server with it.

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
    /// What a shell reports for a process that the signal ended: 128 and the signal's number.
    #[must_use]
    pub const fn exit_code(self) -> i32 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
            Self::Quit => 131,
        }
    }
}

/// The signals that are handled, from the moment of [`Signals::install`] on.
#[derive(Debug)]
pub struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    quit: tokio::signal::unix::Signal,
    /// Held so that the system's default, which is to end the process, does not come back.
    #[cfg(unix)]
    _ignored: [tokio::signal::unix::Signal; 3],
}

#[cfg(unix)]
impl Signals {
    /// Takes the signals over from the system's default, which is to end the process.
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
    /// Takes Ctrl-C over; there is no SIGTERM here.
    ///
    /// # Errors
    /// Never, here.
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

/// Drains the server at the first signal and resolves at the second, which the caller answers by
/// ending the process.
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
