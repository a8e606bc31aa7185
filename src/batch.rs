//! The dynamic batcher: rows in, embeddings out, one forward pass for many requests.
//!
//! A model has one worker thread, which owns both towers, and one queue a tower. The worker takes its next
//! batch **when it is free**, from what waits then (`policy`); there is no timer by default, and a batch
//! stays open until the moment it runs. On a device that computes by itself a batch that is full is begun
//! behind the one under way. The rows of a batch have one size (`queue`), which matters to models
//! that read images in many. Rows whose caller left or whose deadline passed are dropped while the batch is
//! formed, so they cost no forward pass. A row that makes the tower fail is found by halving, so its mates
//! are still answered (`isolate`).

mod budget;
mod handle;
mod health;
mod isolate;
mod loading;
mod policy;
mod queue;
mod residency;
mod shared;
mod supervise;
#[cfg(test)]
mod tests;
mod turnover;
mod worker;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

pub use self::{
    budget::{MemoryBudget, Refused},
    handle::Handle,
    loading::{Keeping, LoadFailure, Loader, Parts},
    residency::{Presence, TowerKind, TowerStatus, UnloadReason},
};
use crate::{
    config,
    embedding::Embedding,
    model::{Tap, TowerError},
    telemetry::{BatchSpan, Metrics, Trace},
};

/// Who goes first when both wait. Bulk is never starved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Priority {
    /// Somebody waits for the answer.
    #[default]
    Interactive,
    /// A job that fills whatever is left.
    Bulk,
}

/// How a row is queued.
#[derive(Debug, Clone, Default)]
pub struct Submit {
    /// Who goes first.
    pub priority: Priority,
    /// When the answer stops being of use; the row is dropped without a forward pass after it.
    pub deadline: Option<Instant>,
    /// Which output of the tower the row asks for.
    pub tap: Tap,
    /// The request that the row belongs to; requests take turns. A row without one is a request of its own.
    pub request: Option<RequestId>,
    /// The trace of its request, where that is traced.
    pub trace: Option<Trace>,
}

/// Identifies a request, whose rows take turns with those of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(u64);

impl RequestId {
    /// An id that no other request of this process has.
    #[must_use]
    pub fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Relaxed: the number guards no other memory.
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a row holds of the server's bounds until its pass has ended or it is dropped.
pub type Share = Option<tokio::sync::OwnedSemaphorePermit>;

/// A row's answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The unnormalised embedding, or whatever else the row's tap names.
    pub embedding: Embedding,
    /// From submission to the start of the batch.
    pub queued: Duration,
    /// The forward pass of the whole batch.
    pub forward: Duration,
    /// The span of that batch, where a request of it is traced.
    pub batch: Option<BatchSpan>,
}

/// Why a row has no embedding.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BatchError {
    /// The queue is full.
    #[error("the queue is full")]
    Full {
        /// When there should be room, from the rate at which the queue drains.
        retry_after: Duration,
    },
    /// The deadline passed while the row waited.
    #[error("the deadline passed before the row was run")]
    Expired,
    /// The row's tower is not in memory, and does not come in time.
    #[error("{why}")]
    NotLoaded {
        /// Whether it is on its way, or why it cannot be loaded.
        why: Arc<str>,
        /// When it should be there, or be tried again.
        retry_after: Duration,
    },
    /// The server is draining.
    #[error("the server is shutting down")]
    Closed,
    /// The worker is gone.
    #[error("the worker that ran the model is gone")]
    WorkerGone,
    /// The tower failed on this very row.
    #[error("the model failed on this input")]
    Tower(#[source] Arc<TowerError>),
    /// The tower gave NaN or infinity for this row.
    #[error("the model gave a value that is not finite for this input")]
    NotFinite,
}

/// What the worker is doing, for readiness and `siglip_worker_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    /// Takes batches.
    Running,
    /// Broke, and is being replaced. What waits goes on waiting.
    Restarting,
    /// Finishes what it accepted, takes no more.
    Draining,
    /// Ended after draining.
    Stopped,
    /// Broke once too often. Readiness is red from here on.
    Failed,
}

impl WorkerState {
    /// Every state.
    pub const ALL: [Self; 5] =
        [Self::Running, Self::Restarting, Self::Draining, Self::Stopped, Self::Failed];

    /// The name in `siglip_worker_state`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }

    /// Whether the worker has ended.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed)
    }
}

/// Starts the worker thread of one model on one device, with towers that are loaded and unloaded. If the worker
/// breaks, it is replaced, at most `config.max_restarts` times an hour.
///
/// * `towers`: those that are loaded already
///
/// # Errors
/// Fails if the thread cannot be started.
pub fn spawn(
    model: &str,
    (towers, keeping): (Parts, Keeping),
    config: &config::Batch,
    metrics: Arc<Metrics>,
) -> std::io::Result<Handle> {
    let (budget, may_yield) = (Arc::clone(&keeping.budget), keeping.may_yield);
    let shared = Arc::new(shared::Shared::new(model, Some(keeping), config, metrics));
    if towers.lanes().contains(&true) {
        shared.has_arrived(towers.came_bytes());
    }
    budget.count(towers.bytes.iter().sum(), !may_yield);
    if may_yield {
        budget.join(Arc::downgrade(&shared));
    }
    let handle = Handle::new(Arc::clone(&shared));
    let supervisor = supervise::Supervisor { shared, max_restarts: config.max_restarts };
    let thread = std::thread::Builder::new().name(format!("tower-{model}"));
    thread.spawn(move || supervisor.run(towers))?;
    Ok(handle)
}
