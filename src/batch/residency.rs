//! Which towers of a model are in memory.
//!
//! The worker takes a tower in and lets it go, between two batches, so a tower that has rows never goes. Loads run on
//! threads of their own (`loading`), and a tower that is there goes on meanwhile. Everybody else only asks.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    BatchError,
    loading::Keeping,
    shared::{IMAGE, Queues, Shared, TEXT},
};

/// One tower of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TowerKind {
    /// Embeds images.
    Vision,
    /// Embeds texts. A reader goes with it: both have their rows in one queue.
    Text,
}

impl TowerKind {
    /// Both towers.
    pub const ALL: [Self; 2] = [Self::Vision, Self::Text];

    /// The name in messages and on the admin listener.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vision => "vision",
            Self::Text => "text",
        }
    }

    pub(super) const fn lane(self) -> usize {
        match self {
            Self::Vision => IMAGE,
            Self::Text => TEXT,
        }
    }

    pub(super) const fn of(lane: usize) -> Self {
        if lane == IMAGE { Self::Vision } else { Self::Text }
    }
}

/// Whether a tower is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is in memory.
    Loaded,
    /// It is not; the next row brings it.
    Unloaded,
    /// It is on its way, or waits for memory.
    Loading,
    /// The last load failed. Rows are refused until a pause is over.
    Failed,
}

impl Presence {
    /// The name on the admin listener.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::Unloaded => "unloaded",
            Self::Loading => "loading",
            Self::Failed => "failed",
        }
    }
}

/// Why a tower was unloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnloadReason {
    /// No row came for as long as the configuration says.
    Idle,
    /// Another tower needed the memory.
    Memory,
    /// An operator asked for it.
    Admin,
}

impl UnloadReason {
    /// The label in `siglip_tower_unloads_total`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Memory => "memory",
            Self::Admin => "admin",
        }
    }
}

/// What is known of a tower without touching it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TowerStatus {
    /// Which tower it is.
    pub kind: TowerKind,
    /// Whether it is in memory.
    pub presence: Presence,
    /// Bytes of its weights in memory.
    pub bytes: u64,
    /// Rows that wait for it.
    pub queued: usize,
    /// Time since its last pass, or since it was loaded.
    pub idle: Duration,
    /// Why the last load failed, where it did.
    pub failure: Option<String>,
}

impl TowerStatus {
    /// Whether the tower is in memory.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.presence == Presence::Loaded
    }
}

/// What the queues know of a tower.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) presence: Presence,
    /// Whether the model has such a tower at all.
    pub(super) exists: bool,
    pub(super) bytes: u64,
    pub(super) last_used: Instant,
    /// Since when it is being loaded.
    pub(super) since: Instant,
    /// How long the last load took.
    pub(super) load_time: Option<Duration>,
    /// Bytes that a load is known, or thought, to need.
    pub(super) expected: u64,
    pub(super) failure: Option<Failure>,
    /// Whether it is to be loaded although no row waits.
    pub(super) asked: bool,
    pub(super) order: Option<Order>,
}

#[derive(Debug)]
pub(super) struct Failure {
    pub(super) why: Arc<str>,
    pub(super) for_good: bool,
    /// When the next row may try again.
    pub(super) until: Instant,
    pub(super) times: u32,
}

/// Asks the worker to let a tower go. It is told `true` once the tower's memory is free, and `false` if the tower has
/// rows.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) reason: UnloadReason,
    pub(super) reply: Option<oneshot::Sender<bool>>,
}

impl Order {
    pub(super) fn answer(self, gone: bool) {
        if let Some(reply) = self.reply {
            // Nobody may be waiting any more.
            _ = reply.send(gone);
        }
    }
}

/// What a client is told to wait where no load has been timed yet.
const USUAL_LOAD: Duration = Duration::from_secs(5);

impl Place {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            presence: Presence::Loaded,
            exists: true,
            bytes: 0,
            last_used: now,
            since: now,
            load_time: None,
            expected: 0,
            failure: None,
            asked: false,
            order: None,
        }
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.presence == Presence::Loaded
    }

    /// Whether it takes memory that others may have.
    pub(super) fn is_held(&self) -> bool {
        self.exists && self.is_loaded()
    }

    pub(super) fn touch(&mut self, now: Instant) {
        self.last_used = now;
    }

    /// How long the load under way still takes, by the last one.
    fn remaining(&self) -> Duration {
        let total = self.load_time.unwrap_or(USUAL_LOAD);
        match self.presence {
            Presence::Loading => total.saturating_sub(self.since.elapsed()),
            _ => total,
        }
    }

    /// Why a row with this deadline cannot be taken, if so. One that only comes too early has the tower loaded for those
    /// that come later.
    pub(super) fn refusal(&mut self, lane: usize, deadline: Option<Instant>) -> Option<BatchError> {
        if self.is_loaded() {
            return None;
        }
        let now = Instant::now();
        let paused = |failure: &&Failure| self.presence == Presence::Failed && failure.until > now;
        if let Some(failure) = self.failure.as_ref().filter(paused) {
            return Some(failed(lane, failure, now));
        }
        // Only what was measured is a reason to refuse.
        let late = self.load_time.is_some()
            && deadline.is_some_and(|deadline| now + self.remaining() > deadline);
        if !late {
            return None;
        }
        self.asked = true;
        Some(self.unloaded(lane))
    }

    /// What a row is told that cannot wait until the tower is there.
    pub(super) fn unloaded(&self, lane: usize) -> BatchError {
        let why = format!(
            "the model's {} tower is being loaded; retry later",
            TowerKind::of(lane).name()
        );
        BatchError::NotLoaded { why: why.into(), retry_after: Shared::bounded(self.remaining()) }
    }
}

/// What rows are told that wait, or come, while a load has failed.
pub(super) fn failed(lane: usize, failure: &Failure, now: Instant) -> BatchError {
    let why = format!(
        "the model's {} tower cannot be loaded: {}",
        TowerKind::of(lane).name(),
        failure.why
    );
    let retry_after = Shared::bounded(failure.until.saturating_duration_since(now));
    BatchError::NotLoaded { why: why.into(), retry_after }
}

impl Queues {
    /// Rows that wait for a lane's tower.
    pub(super) fn waiting(&self, lane: usize) -> usize {
        if lane == IMAGE { self.image.len() } else { self.text.len() }
    }

    /// Takes no more rows, and leaves nobody waiting who wants a tower to go.
    pub(super) fn close(&mut self) {
        self.closed = true;
        for order in self.places.iter_mut().filter_map(|place| place.order.take()) {
            order.answer(false);
        }
    }

    /// Notes which towers the model has, how large they are, and that none is loaded so far.
    pub(super) fn arrange(&mut self, keeping: &Keeping) {
        for (lane, place) in self.places.iter_mut().enumerate() {
            place.exists = keeping.towers[lane];
            place.expected = keeping.expected_bytes[lane];
            if place.exists {
                place.presence = Presence::Unloaded;
            }
        }
    }
}
