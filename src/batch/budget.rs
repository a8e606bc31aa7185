//! The bound on the weights of all towers of the process.
//!
//! A load reserves its bytes first. Where there is no room, the tower that was used least recently, of those without
//! rows, is asked to go. Its worker answers between two batches, and refuses where a row has come meanwhile.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::{
    residency::{Order, UnloadReason},
    shared::{IMAGE, Shared, TEXT},
};

/// How often a load that waits for memory looks whether its rows still wait.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Debug, Default)]
pub struct MemoryBudget {
    /// None where the bound is.
    max: Option<u64>,
    state: Mutex<State>,
    changed: Condvar,
    /// Loads that wait for room.
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    /// Bytes of towers that never yield.
    pinned: u64,
    /// Counts what may have made room.
    changes: u64,
    models: Vec<Weak<Shared>>,
}

/// Why there is no room for a load.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There never is.
    #[error("it needs {bytes} bytes, and the bound on resident weights leaves {room}")]
    TooLarge {
        /// What the load needs.
        bytes: u64,
        /// What towers that come and go may have together.
        room: u64,
    },
    /// Nobody waits for it any more.
    #[error("nobody waits for it")]
    NotWanted,
}

impl MemoryBudget {
    /// A bound of so many bytes, or none.
    #[must_use]
    pub fn new(max: Option<u64>) -> Self {
        Self { max, ..Self::default() }
    }

    /// Whether there is a bound.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.max.is_some()
    }

    /// Whether a model of this size can ever be loaded, beside those that always stay.
    ///
    /// # Errors
    /// [`Refused::TooLarge`].
    pub fn check(&self, bytes: u64) -> Result<(), Refused> {
        let pinned = self.state.lock().pinned;
        match self.max.map(|max| max.saturating_sub(pinned)) {
            Some(room) if bytes > room => Err(Refused::TooLarge { bytes, room }),
            _ => Ok(()),
        }
    }

    /// Counts the towers that a model has from its start on.
    pub(super) fn count(&self, bytes: u64, stays: bool) {
        let state = &mut *self.state.lock();
        state.used += bytes;
        state.pinned += if stays { bytes } else { 0 };
    }

    /// Lets a model's towers be asked to go.
    pub(super) fn join(&self, model: Weak<Shared>) {
        self.state.lock().models.push(model);
    }

    /// Takes room for a load, and waits for it while somebody waits for the load. The thread is held up.
    ///
    /// # Errors
    /// [`Refused::TooLarge`] if there never is room, [`Refused::NotWanted`] if nobody waits any more.
    pub fn reserve(&self, bytes: u64, is_wanted: impl Fn() -> bool) -> Result<(), Refused> {
        let Some(max) = self.max else { return Ok(()) };
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let reserved = self.reserve_within(max, bytes, is_wanted);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        reserved
    }

    fn reserve_within(
        &self,
        max: u64,
        bytes: u64,
        is_wanted: impl Fn() -> bool,
    ) -> Result<(), Refused> {
        let mut state = self.state.lock();
        loop {
            if state.used + bytes <= max {
                state.used += bytes;
                return Ok(());
            }
            let room = max.saturating_sub(state.pinned);
            if bytes > room || bytes == 0 && state.pinned > max {
                return Err(Refused::TooLarge { bytes, room });
            }
            let (seen, models) = (state.changes, state.models.clone());
            // A worker may hold its queues while it tells of a change, so none are looked at under this lock.
            drop(state);
            if !is_wanted() {
                return Err(Refused::NotWanted);
            }
            ask(&models);
            state = self.state.lock();
            if state.changes == seen {
                self.changed.wait_for(&mut state, CHECK_INTERVAL);
            }
        }
    }

    /// Replaces what a load was thought to need by what it needs.
    pub(super) fn correct(&self, expected: u64, bytes: u64) {
        if self.max.is_some() {
            let state = &mut *self.state.lock();
            state.used = (state.used + bytes).saturating_sub(expected);
            self.tell(state);
        }
    }

    /// Counts towers among those that never yield, or no more.
    pub(super) fn pin(&self, bytes: u64, stays: bool) {
        let state = &mut *self.state.lock();
        state.pinned =
            if stays { state.pinned + bytes } else { state.pinned.saturating_sub(bytes) };
    }

    /// Gives room back.
    pub fn release(&self, bytes: u64) {
        if self.max.is_some() {
            let state = &mut *self.state.lock();
            state.used = state.used.saturating_sub(bytes);
            self.tell(state);
        }
    }

    /// Tells loads that wait for room that a tower may have become idle.
    pub(super) fn nudge(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.tell(&mut self.state.lock());
        }
    }

    fn tell(&self, state: &mut State) {
        state.changes += 1;
        self.changed.notify_all();
    }
}

/// Asks the tower to go that was used least recently, unless one was asked already.
fn ask(models: &[Weak<Shared>]) {
    let mut least = None;
    for shared in models.iter().filter_map(Weak::upgrade) {
        let queues = shared.queues.lock();
        let waiting = [queues.image.len(), queues.text.len()];
        for lane in [IMAGE, TEXT] {
            let place = &queues.places[lane];
            if place.is_held() && place.order.is_some() {
                return;
            }
            if !place.is_held() || waiting[lane] > 0 {
                continue;
            }
            let used = place.last_used;
            if least.as_ref().is_none_or(|(_, _, before)| used < *before) {
                least = Some((Arc::clone(&shared), lane, used));
            }
        }
    }
    if let Some((shared, lane, _)) = least {
        let order = Order { reason: UnloadReason::Memory, reply: None };
        let place = &mut shared.queues.lock().places[lane];
        if place.is_held() {
            place.order.get_or_insert(order);
            shared.wake.notify_all();
        }
    }
}
