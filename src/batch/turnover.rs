//! What the worker, loads and operators do with the towers of a model; the places of `residency` say how things stand.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    BatchError, WorkerState,
    loading::{LoadFailure, Parts},
    residency::{Failure, Order, Place, Presence, TowerKind, TowerStatus, UnloadReason, failed},
    shared::{IMAGE, Job, Queues, Shared, TEXT},
};
use crate::telemetry::metrics;

/// How long a model refuses rows after its first failed load; every further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The part of a row's time that it may wait for a load: its pass needs the rest.
const WAITING_PART: f64 = 0.9;

impl Shared {
    /// What is to be done about towers before the next batch, if anything.
    pub(super) fn turn_over(&self, queues: &mut Queues, now: Instant) -> Option<Job> {
        if let Some(parts) = queues.arrived.pop() {
            return Some(Job::Arrived(parts));
        }
        for lane in [IMAGE, TEXT] {
            let (waits, closed) = (queues.waiting(lane) > 0, queues.closed);
            let place = &mut queues.places[lane];
            match place.presence {
                Presence::Loaded => {
                    if let Some(order) = place.order.take() {
                        if waits || !place.exists {
                            self.refuse(order);
                            continue;
                        }
                        place.presence = Presence::Unloaded;
                        return Some(Job::Leave(lane, order));
                    }
                    if place.exists && !waits && self.idle_end(place).is_some_and(|end| end <= now)
                    {
                        place.presence = Presence::Unloaded;
                        let order = Order { reason: UnloadReason::Idle, reply: None };
                        return Some(Job::Leave(lane, order));
                    }
                }
                Presence::Unloaded | Presence::Failed if waits || place.asked && !closed => {
                    return Some(Job::Load(self.begin_load(queues, lane)));
                }
                _ => {}
            }
        }
        None
    }

    fn refuse(&self, order: Order) {
        order.answer(false);
        if let Some(keeping) = &self.keeping {
            keeping.budget.nudge();
        }
    }

    /// Marks towers as being loaded: one, or all of a model that was never loaded, which is checked as a whole.
    fn begin_load(&self, queues: &mut Queues, lane: usize) -> [bool; 2] {
        let first = !queues.was_loaded;
        let now = Instant::now();
        let mut wanted = [false; 2];
        for (index, place) in queues.places.iter_mut().enumerate() {
            let absent = matches!(place.presence, Presence::Unloaded | Presence::Failed);
            if place.exists && absent && (index == lane || first) {
                place.presence = Presence::Loading;
                place.since = now;
                wanted[index] = true;
            }
        }
        self.changes.send_modify(|count| *count += 1);
        wanted
    }

    fn idle_end(&self, place: &Place) -> Option<Instant> {
        let idle = self.keeping.as_ref()?.idle?;
        Some(place.last_used + idle)
    }

    /// When the next tower will have been idle for too long; none where none will.
    pub(super) fn wakes_at(&self, queues: &Queues) -> Option<Instant> {
        let held = queues.places.iter().filter(|place| place.is_held());
        held.filter_map(|place| self.idle_end(place)).min()
    }

    /// Notes that towers have arrived at the worker.
    ///
    /// * `bytes`: of each lane's tower; none where none came
    pub(super) fn has_arrived(&self, bytes: [Option<u64>; 2]) {
        let mut queues = self.queues.lock();
        let now = Instant::now();
        queues.was_loaded = true;
        for (place, bytes) in queues.places.iter_mut().zip(bytes) {
            let Some(bytes) = bytes else { continue };
            if place.presence == Presence::Loading {
                place.load_time = Some(place.since.elapsed());
            }
            place.presence = Presence::Loaded;
            place.bytes = bytes;
            place.expected = bytes;
            place.last_used = now;
            place.failure = None;
            place.asked = false;
        }
        self.show_towers(&queues);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Notes that the worker has let a tower go and that its memory is free.
    pub(super) fn has_left(&self, lane: usize, order: Order) {
        let bytes = {
            let mut queues = self.queues.lock();
            let bytes = std::mem::take(&mut queues.places[lane].bytes);
            self.show_towers(&queues);
            bytes
        };
        let reason = order.reason.name();
        self.metrics.tower_unloads.with_label_values(&[&self.model, reason]).inc();
        let tower = TowerKind::of(lane).name();
        tracing::info!(model = self.model, tower, reason, bytes, "a tower was unloaded");
        if let Some(keeping) = &self.keeping {
            if !keeping.may_yield {
                keeping.budget.pin(bytes, false);
            }
            keeping.budget.release(bytes);
        }
        self.changes.send_modify(|count| *count += 1);
        order.answer(true);
    }

    /// Hands towers to the worker.
    pub(super) fn deliver(&self, parts: Parts) {
        self.queues.lock().arrived.push(parts);
        self.wake.notify_all();
    }

    /// Answers the rows that wait for towers that cannot be loaded.
    pub(super) fn load_failed(&self, wanted: [bool; 2], failure: &LoadFailure) {
        let mut queues = self.queues.lock();
        let now = Instant::now();
        let why: Arc<str> = failure.error.to_string().into();
        for lane in [IMAGE, TEXT].into_iter().filter(|&lane| wanted[lane]) {
            let place = &mut queues.places[lane];
            let times = place.failure.as_ref().map_or(0, |failure| failure.times);
            let pause = (FIRST_PAUSE * 2_u32.pow(times.min(6))).min(LONGEST_PAUSE);
            let failure = Failure {
                why: Arc::clone(&why),
                for_good: failure.for_good,
                until: now + pause,
                times: times + 1,
            };
            let error = failed(lane, &failure, now);
            place.presence = Presence::Failed;
            place.failure = Some(failure);
            place.asked = false;
            queues.answer_all(lane, &error);
        }
        self.show(&queues);
        self.changes.send_modify(|count| *count += 1);
        self.wake.notify_all();
    }

    /// Gives a load up that nobody waits for any more.
    pub(super) fn load_given_up(&self, wanted: [bool; 2]) {
        let mut queues = self.queues.lock();
        for lane in [IMAGE, TEXT].into_iter().filter(|&lane| wanted[lane]) {
            queues.places[lane].presence = Presence::Unloaded;
        }
        self.changes.send_modify(|count| *count += 1);
        // A row may have come meanwhile.
        self.wake.notify_all();
    }

    /// Whether anybody waits for one of the towers.
    pub(super) fn wants(&self, wanted: [bool; 2]) -> bool {
        let mut queues = self.queues.lock();
        self.remove_obsolete(&mut queues, Instant::now());
        [IMAGE, TEXT].into_iter().any(|lane| {
            wanted[lane]
                && (queues.waiting(lane) > 0 || queues.places[lane].asked && !queues.closed)
        })
    }

    /// Whether rows are taken.
    pub(super) fn is_open(&self) -> bool {
        !self.queues.lock().closed
    }

    /// Bytes that a load needs.
    pub(super) fn expected_bytes(&self, wanted: [bool; 2]) -> u64 {
        let queues = self.queues.lock();
        let wanted = queues.places.iter().zip(wanted).filter(|(_, wanted)| *wanted);
        wanted.map(|(place, _)| place.expected).sum()
    }

    /// What of the model is in memory.
    pub(super) fn held(&self) -> [bool; 2] {
        let queues = self.queues.lock();
        [IMAGE, TEXT].map(|lane| queues.places[lane].is_held())
    }

    /// Writes the gauges of the towers.
    pub(super) fn show_towers(&self, queues: &Queues) {
        let mut bytes = 0;
        let towers = queues.places.iter().zip(metrics::TOWERS);
        for (place, tower) in towers.filter(|(place, _)| place.exists) {
            let gauge = self.metrics.towers_loaded.with_label_values(&[self.model.as_str(), tower]);
            gauge.set(i64::from(place.is_held()));
            bytes += place.bytes;
        }
        let gauge = self.metrics.device_memory.with_label_values(&[&self.model]);
        gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// What is known of the towers that the model has.
    pub(super) fn towers(&self) -> Vec<TowerStatus> {
        let queues = self.queues.lock();
        let status = |kind: TowerKind| {
            let place = &queues.places[kind.lane()];
            place.exists.then(|| TowerStatus {
                kind,
                presence: place.presence,
                bytes: place.bytes,
                queued: queues.waiting(kind.lane()),
                idle: place.last_used.elapsed(),
                failure: place.failure.as_ref().map(|failure| failure.why.to_string()),
            })
        };
        TowerKind::ALL.into_iter().filter_map(status).collect()
    }

    /// Why towers cannot be loaded until an operator acts, where that is so.
    pub(super) fn failed_for_good(&self) -> Option<String> {
        let queues = self.queues.lock();
        let failures = queues.places.iter().filter(|place| place.presence == Presence::Failed);
        let mut failures = failures.filter_map(|place| place.failure.as_ref());
        failures.find(|failure| failure.for_good).map(|failure| failure.why.to_string())
    }

    /// Loads a tower unless it is there, and waits for it.
    pub(super) async fn bring(&self, kind: TowerKind) -> Result<(), BatchError> {
        let lane = kind.lane();
        let mut changes = self.changes.subscribe();
        let before = {
            let mut queues = self.queues.lock();
            if queues.closed {
                return Err(BatchError::Closed);
            }
            let place = &mut queues.places[lane];
            if place.is_loaded() {
                return Ok(());
            }
            place.asked = true;
            place.failure.as_ref().map_or(0, |failure| failure.times)
        };
        self.wake.notify_all();
        loop {
            // The sender lives as long as this.
            drop(changes.changed().await);
            let queues = self.queues.lock();
            let place = &queues.places[lane];
            if place.is_loaded() {
                return Ok(());
            }
            let failure = place.failure.as_ref().filter(|failure| failure.times > before);
            if let Some(failure) = failure {
                return Err(failed(lane, failure, Instant::now()));
            }
            if self.state.borrow().is_over() {
                return Err(BatchError::WorkerGone);
            }
            if queues.closed {
                return Err(BatchError::Closed);
            }
        }
    }

    /// Unloads a tower unless it has rows; `false` in that case.
    pub(super) async fn send_away(&self, kind: TowerKind) -> bool {
        if self.keeping.is_none() {
            return false;
        }
        let (reply, gone) = oneshot::channel();
        {
            let mut queues = self.queues.lock();
            if queues.closed {
                return false;
            }
            let place = &mut queues.places[kind.lane()];
            if !place.exists || place.presence != Presence::Loaded {
                return place.presence != Presence::Loading;
            }
            let order = Order { reason: UnloadReason::Admin, reply: Some(reply) };
            if let Some(before) = place.order.replace(order) {
                self.refuse(before);
            }
        }
        self.wake.notify_all();
        gone.await.unwrap_or(false)
    }

    /// Waits for the answer to a row whose tower was not there when it came, for as long as a load leaves time for its
    /// pass.
    pub(super) async fn answer_after_load<T>(
        &self,
        mut answer: oneshot::Receiver<Result<T, BatchError>>,
        lane: usize,
        deadline: Option<Instant>,
    ) -> Result<T, BatchError> {
        let gone = Err(BatchError::WorkerGone);
        if let Some(deadline) = deadline {
            let now = Instant::now();
            let patience = deadline.saturating_duration_since(now).mul_f64(WAITING_PART);
            match tokio::time::timeout_at((now + patience).into(), &mut answer).await {
                Ok(answer) => return answer.unwrap_or(gone),
                Err(_) => {
                    let queues = self.queues.lock();
                    let place = &queues.places[lane];
                    if !place.is_loaded() && *self.state.borrow() == WorkerState::Running {
                        return Err(place.unloaded(lane));
                    }
                }
            }
        }
        answer.await.unwrap_or(gone)
    }
}
