//! What travels with a request through the engine.

use std::{
    any::Any,
    fmt,
    sync::{Arc, OnceLock, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    batch::{Priority, RequestId, Submit},
    fetch::Client,
    telemetry::Timings,
};

/// Shares of the server's bounds that a request has taken. They are given back when the last clone is dropped.
#[derive(Clone, Default)]
pub struct Shares(Arc<Mutex<Vec<Arc<dyn Any + Send + Sync>>>>);

impl Shares {
    /// Keeps one more share.
    pub fn keep(&self, share: Arc<dyn Any + Send + Sync>) {
        self.0.lock().push(share);
    }
}

impl fmt::Debug for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} shares", self.0.lock().len())
    }
}

/// Deadline, priority and timings of a request, and what it holds of the server's bounds.
#[derive(Debug)]
pub struct Context {
    /// Who goes first.
    pub priority: Priority,
    /// When the response stops being of use.
    pub deadline: Instant,
    /// Tells its rows from those of others.
    pub request: RequestId,
    /// How long each stage took, filled on the way.
    pub timings: Timings,
    /// For whom images are fetched, once that is known.
    pub client: OnceLock<Client>,
    /// Held until the request and every job of it have ended. A decode goes on when its client has left, and its
    /// memory and its key's place are free only then.
    pub work: Shares,
    /// Held until the client has taken the response, or has left.
    pub response: Shares,
    /// Texts that were cut to what the model reads, so far.
    pub truncated_texts: AtomicUsize,
}

impl Context {
    /// An interactive request that must be answered within `timeout` from now.
    #[must_use]
    pub fn with_timeout(timeout: Duration) -> Self {
        Self::new(Priority::Interactive, Instant::now() + timeout)
    }

    /// A request whose answer is waited for as long as it takes: nobody is at the other end of a connection.
    #[must_use]
    pub fn patient() -> Self {
        /// Thirty years: far, and no overflow on any system.
        const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
        Self::with_timeout(FOREVER)
    }

    /// A request that holds nothing so far.
    #[must_use]
    pub fn new(priority: Priority, deadline: Instant) -> Self {
        Self {
            priority,
            deadline,
            request: RequestId::unique(),
            timings: Timings::default(),
            client: OnceLock::new(),
            work: Shares::default(),
            response: Shares::default(),
            truncated_texts: AtomicUsize::new(0),
        }
    }

    /// For whom images are fetched: a client of its own where nothing else was said.
    pub(super) fn client(&self) -> Client {
        self.client.get_or_init(Client::unique).clone()
    }

    pub(super) fn submit(&self) -> Submit {
        Submit {
            priority: self.priority,
            deadline: Some(self.deadline),
            request: Some(self.request),
            trace: self.timings.trace().cloned(),
            ..Submit::default()
        }
    }
}
