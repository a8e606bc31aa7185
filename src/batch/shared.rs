//! What the handles and the worker share: both queues behind one lock, and the metrics of them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use prometheus::{Gauge, Histogram, IntCounter, IntGauge};
use tokio::sync::watch;

use super::{
    Priority, WorkerState,
    loading::{Keeping, Parts},
    policy::{self, level},
    queue::{Entry, Obsolete, Queue, TextRow},
    residency::{Order, Place},
};
use crate::{config, preprocess::Pixels, telemetry::Metrics};

/// Index of the image tower among the lanes.
pub(super) const IMAGE: usize = 0;
/// Index of the text tower among the lanes.
pub(super) const TEXT: usize = 1;

/// Bounds of a `Retry-After`: less is a busy loop, more is a guess.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// The rows that wait.
#[derive(Debug)]
pub(super) struct Queues {
    pub(super) image: Queue<Pixels>,
    pub(super) text: Queue<TextRow>,
    pub(super) closed: bool,
    /// Of each lane's tower.
    pub(super) places: [Place; 2],
    /// Towers that were loaded and wait for the worker to take them in.
    pub(super) arrived: Vec<Parts>,
    /// Whether the model was ever loaded.
    pub(super) was_loaded: bool,
}

/// What the worker does next.
#[derive(Debug)]
pub(super) enum Job {
    Image(Vec<Entry<Pixels>>),
    Text(Vec<Entry<TextRow>>),
    /// Takes towers in.
    Arrived(Parts),
    /// Lets the tower of a lane go.
    Leave(usize, Order),
    /// Begins to load towers.
    Load([bool; 2]),
}

/// One tower's series.
#[derive(Debug)]
pub(super) struct LaneMetrics {
    pub(super) batch_rows: Histogram,
    pub(super) fill_ratio: Gauge,
    /// Rows that a forward pass embedded.
    pub(super) embedded: IntCounter,
    queue_interactive: IntGauge,
    queue_bulk: IntGauge,
    queue_oldest: Gauge,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) queues: Mutex<Queues>,
    /// Notified when a row or the closing arrives. One worker waits on it.
    pub(super) wake: Condvar,
    pub(super) state: watch::Sender<WorkerState>,
    pub(super) lanes: [LaneMetrics; 2],
    /// How the towers come and go; none for towers that always stay.
    pub(super) keeping: Option<Keeping>,
    /// Counts what happened to the towers.
    pub(super) changes: watch::Sender<u64>,
    max_wait: Duration,
    pub(super) model: String,
    pub(super) metrics: Arc<Metrics>,
}

impl Shared {
    pub(super) fn new(
        model: &str,
        keeping: Option<Keeping>,
        config: &config::Batch,
        metrics: Arc<Metrics>,
    ) -> Self {
        metrics.touch_model(model);
        let lanes = [("image", &metrics.images), ("text", &metrics.texts)];
        let lanes = lanes.map(|(tower, embedded)| LaneMetrics {
            batch_rows: metrics.batch_rows.with_label_values(&[model, tower]),
            fill_ratio: metrics.batch_fill_ratio.with_label_values(&[model, tower]),
            embedded: embedded.with_label_values(&[model]),
            queue_interactive: metrics.queue_rows.with_label_values(&[model, tower, "interactive"]),
            queue_bulk: metrics.queue_rows.with_label_values(&[model, tower, "bulk"]),
            queue_oldest: metrics.queue_oldest.with_label_values(&[model, tower]),
        });
        let shared = Self {
            queues: Mutex::new(Queues {
                image: Queue::new(config.max_image_rows, config.max_queue_rows),
                text: Queue::new(config.max_text_rows, config.max_queue_rows),
                closed: false,
                places: [Place::new(), Place::new()],
                arrived: Vec::new(),
                was_loaded: keeping.is_none(),
            }),
            wake: Condvar::new(),
            state: watch::Sender::new(WorkerState::Running),
            lanes,
            keeping,
            changes: watch::Sender::new(0),
            max_wait: config.max_wait,
            model: model.to_owned(),
            metrics,
        };
        if let Some(keeping) = &shared.keeping {
            let mut queues = shared.queues.lock();
            queues.arrange(keeping);
            shared.show_towers(&queues);
        }
        shared.set_state(WorkerState::Running);
        shared
    }

    /// Moves to a state that comes later; a worker that has ended stays ended.
    pub(super) fn set_state(&self, state: WorkerState) {
        self.state.send_if_modified(|current| {
            let moves = !current.is_over() && *current != state;
            if moves {
                *current = state;
            }
            moves
        });
        let current = *self.state.borrow();
        for state in WorkerState::ALL {
            let series = self.metrics.worker_state.with_label_values(&[&self.model, state.name()]);
            series.set(i64::from(state == current));
        }
    }

    /// Goes on after a restart, unless the queues were closed meanwhile.
    pub(super) fn resume(&self) {
        if *self.state.borrow() == WorkerState::Restarting {
            self.set_state(WorkerState::Running);
        }
    }

    /// Counts a restart.
    pub(super) fn count_restart(&self) {
        self.metrics.worker_restarts.with_label_values(&[&self.model]).inc();
    }

    /// Waits for as long as this, or until the queues are closed; `false` in that case.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut queues = self.queues.lock();
        // A row that arrives wakes up as well.
        while !queues.closed && !self.wake.wait_until(&mut queues, until).timed_out() {}
        !queues.closed
    }

    /// How long the rows that wait need, at the rate of late.
    pub(super) fn drain_estimate(queues: &Queues) -> Duration {
        Self::bounded(queues.image.drain_time() + queues.text.drain_time())
    }

    /// A time as a `Retry-After`.
    pub(super) fn bounded(time: Duration) -> Duration {
        time.clamp(RETRY_AFTER.0, RETRY_AFTER.1)
    }

    /// Writes the queue gauges; called when a queue changes, and before a scrape, since ages grow alone.
    pub(super) fn show(&self, queues: &Queues) {
        let views = [
            (queues.image.lane(), queues.image.oldest()),
            (queues.text.lane(), queues.text.oldest()),
        ];
        for (metrics, (lane, oldest)) in self.lanes.iter().zip(views) {
            metrics.queue_interactive.set(i64::try_from(lane.interactive).unwrap_or(i64::MAX));
            metrics.queue_bulk.set(i64::try_from(lane.bulk).unwrap_or(i64::MAX));
            metrics.queue_oldest.set(oldest.map_or(0.0, |oldest| oldest.elapsed().as_secs_f64()));
        }
    }

    /// Adds a row to a lane's queue and wakes the worker.
    ///
    /// * returns whether the lane's tower is there
    pub(super) fn enqueue<I>(
        &self,
        lane: usize,
        pick: impl FnOnce(&mut Queues) -> (&mut Queue<I>, Duration),
        entry: Entry<I>,
        priority: Priority,
    ) -> Result<bool, super::BatchError> {
        let mut queues = self.queues.lock();
        if self.state.borrow().is_over() {
            return Err(super::BatchError::WorkerGone);
        }
        if queues.closed {
            return Err(super::BatchError::Closed);
        }
        let is_loaded = queues.places[lane].is_loaded();
        if !is_loaded
            && let Some(refusal) = queues.places[lane].refusal(lane, entry.caller.deadline)
        {
            self.wake.notify_one();
            return Err(refusal);
        }
        let (queue, other_served) = pick(&mut queues);
        let mut dropped = Vec::new();
        if queue.is_full() {
            // Rows of callers that have left must not keep others out.
            queue.remove_obsolete(Instant::now(), &mut dropped);
        }
        if queue.is_full() {
            let retry_after = Self::drain_estimate(&queues);
            return Err(super::BatchError::Full { retry_after });
        }
        if queue.len() == 0 {
            level(&mut queue.served, other_served);
        }
        queue.push(entry, priority);
        self.show(&queues);
        drop(queues);
        self.wake.notify_one();
        self.answer_dropped(dropped);
        Ok(is_loaded)
    }

    /// Waits until there is a batch to run, and takes it; none once closed and drained.
    pub(super) fn next_job(&self) -> Option<Job> {
        let mut queues = self.queues.lock();
        loop {
            let now = Instant::now();
            self.remove_obsolete(&mut queues, now);
            if let Some(job) = self.turn_over(&mut queues, now) {
                return Some(job);
            }
            let Some(next) = policy::next_lane(&queues.lanes()) else {
                self.show(&queues);
                if queues.closed && queues.image.len() + queues.text.len() == 0 {
                    return None;
                }
                self.rest(&mut queues);
                continue;
            };
            if let Some(until) = self.fills_until(&queues, next).filter(|&until| until > now) {
                self.wake.wait_until(&mut queues, until);
                continue;
            }
            let job = queues.take(next);
            self.show(&queues);
            return Some(job);
        }
    }

    /// Waits for a row, or until a tower has been idle for too long.
    fn rest(&self, queues: &mut MutexGuard<'_, Queues>) {
        let Some(keeping) = &self.keeping else { return self.wake.wait(queues) };
        // A load may wait for a tower that has no rows, which is the case now.
        keeping.budget.nudge();
        match self.wakes_at(queues) {
            Some(at) => drop(self.wake.wait_until(queues, at)),
            None => self.wake.wait(queues),
        }
    }

    /// Takes a batch that could not be fuller if one waits, and nothing of the other tower does: one to begin while
    /// the device is at another. Whatever else waits is better off with the choice that is made when that one has
    /// ended: more rows may share a pass, and the towers take turns.
    pub(super) fn next_full_job(&self) -> Option<Job> {
        let mut queues = self.queues.lock();
        self.remove_obsolete(&mut queues, Instant::now());
        let [has_image, has_text] = [IMAGE, TEXT].map(|lane| queues.places[lane].is_loaded());
        let lane = match (queues.image.len(), queues.text.len()) {
            (1.., 0) if has_image && queues.image.has_full_batch() => IMAGE,
            (0, 1..) if has_text && queues.text.has_full_batch() => TEXT,
            _ => return None,
        };
        let job = queues.take(lane);
        self.show(&queues);
        Some(job)
    }

    pub(super) fn remove_obsolete(&self, queues: &mut Queues, now: Instant) {
        let (mut images, mut texts) = (Vec::new(), Vec::new());
        queues.image.remove_obsolete(now, &mut images);
        queues.text.remove_obsolete(now, &mut texts);
        self.answer_dropped(images);
        self.answer_dropped(texts);
    }

    /// Until when a batch that is not full stays open, where `max_wait` asks for it.
    fn fills_until(&self, queues: &Queues, lane: usize) -> Option<Instant> {
        let (rows, max_rows, oldest) = if lane == IMAGE {
            (queues.image.len(), queues.image.max_rows, queues.image.oldest())
        } else {
            (queues.text.len(), queues.text.max_rows, queues.text.oldest())
        };
        let waits = !self.max_wait.is_zero() && rows < max_rows && !queues.closed;
        oldest.filter(|_| waits).map(|oldest| oldest + self.max_wait)
    }

    /// Answers and counts rows that were dropped before their forward pass.
    fn answer_dropped<I>(&self, dropped: Vec<(Entry<I>, Obsolete)>) {
        for (entry, why) in dropped {
            self.metrics.dropped.with_label_values(&[why.reason()]).inc();
            // Nobody listens to a cancelled row; an expired one is told why.
            drop(entry.caller.reply.send(Err(super::BatchError::Expired)));
        }
    }

    /// Ends a worker that cannot go on: everything that waits is answered, readiness follows from the state.
    pub(super) fn fail(&self) {
        self.set_state(WorkerState::Failed);
        let mut queues = self.queues.lock();
        queues.close();
        for lane in [IMAGE, TEXT] {
            queues.answer_all(lane, &super::BatchError::WorkerGone);
        }
        self.show(&queues);
        self.changes.send_modify(|count| *count += 1);
    }
}

impl Queues {
    /// The queue of images, and the device time that texts have had.
    pub(super) fn images(&mut self) -> (&mut Queue<Pixels>, Duration) {
        (&mut self.image, self.text.served)
    }

    /// The queue of texts, and the device time that images have had.
    pub(super) fn texts(&mut self) -> (&mut Queue<TextRow>, Duration) {
        (&mut self.text, self.image.served)
    }

    /// What waits for towers that are there.
    fn lanes(&self) -> [policy::Lane; 2] {
        let lanes = [self.image.lane(), self.text.lane()];
        [IMAGE, TEXT].map(|lane| match self.places[lane].is_loaded() {
            true => lanes[lane],
            false => policy::Lane { served: lanes[lane].served, ..policy::Lane::default() },
        })
    }

    /// Answers every row of a lane with an error.
    pub(super) fn answer_all(&mut self, lane: usize, error: &super::BatchError) {
        if lane == IMAGE {
            for entry in self.image.take_all() {
                drop(entry.caller.reply.send(Err(error.clone())));
            }
        } else {
            for entry in self.text.take_all() {
                drop(entry.caller.reply.send(Err(error.clone())));
            }
        }
    }

    /// Takes the next batch of a lane, and counts the bulk rows that it passes over.
    fn take(&mut self, lane: usize) -> Job {
        self.places[lane].touch(Instant::now());
        if lane == IMAGE {
            self.text.pass_over();
            Job::Image(self.image.take_batch())
        } else {
            self.image.pass_over();
            Job::Text(self.text.take_batch())
        }
    }
}
