//! The thread that owns the towers.

use std::{sync::Arc, time::Instant};

use super::{
    Answer, WorkerState,
    health::{Broken, Health, Memory},
    isolate::{self, RowResult, Rows},
    loading::{self, Parts},
    queue::{Caller, Entry, Row, TextRow},
    residency::Order,
    shared::{IMAGE, Job, Shared, TEXT},
};
use crate::{
    error::text,
    model::{Pass, ReaderRow, Tap, Tower, TowerError},
    preprocess::Pixels,
    telemetry::BatchRun,
    tokenize::Tokens,
};

/// Takes batches and runs them: one at a time, but for a device that goes on with a second one by itself.
pub(super) struct Worker {
    shared: Arc<Shared>,
    towers: Parts,
    memory: Memory,
    under_way: Option<UnderWay>,
    /// When the last batch ended.
    last_ended: Instant,
}

/// The batch that the device is at.
enum UnderWay {
    Image(Batch<Pixels>),
    Text(Batch<Tokens>),
    Read(Batch<ReaderRow>),
}

/// How a worker's work ended.
pub(super) enum Ended {
    /// The queues are closed and empty.
    Drained,
    /// A tower fails on everything.
    Broken,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, towers: Parts) -> Self {
        Self::with_memory(shared, towers, Memory::default())
    }

    /// A worker in the place of one that broke.
    pub(super) fn with_memory(shared: Arc<Shared>, towers: Parts, memory: Memory) -> Self {
        note_usual_row(&shared, &towers);
        Self { shared, towers, memory, under_way: None, last_ended: Instant::now() }
    }

    /// What it learned. Its towers are dropped.
    pub(super) fn into_memory(self) -> Memory {
        self.memory
    }

    /// Whether the towers embed the rows that earlier ones embedded.
    pub(super) fn proves_itself(&mut self) -> bool {
        let vision = self.towers.vision.as_deref_mut();
        vision.is_none_or(|tower| self.memory.images.is_well(tower))
            && self.towers.text.as_deref_mut().is_none_or(|tower| self.memory.texts.is_well(tower))
            && self
                .towers
                .reader
                .as_deref_mut()
                .is_none_or(|tower| self.memory.reads.is_well(tower))
    }

    /// Runs batches until the handles are closed and the queues are empty, or until a tower is broken.
    pub(super) fn work(&mut self) -> Ended {
        loop {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => return Ended::Drained,
                Err(Broken) => return Ended::Broken,
            }
        }
    }

    /// Runs like the worker of a supervisor that replaces none.
    #[cfg(test)]
    pub(super) fn run(mut self) {
        let on_exit = FailUnlessStopped(Arc::clone(&self.shared));
        self.work();
        drop(on_exit);
    }

    /// One turn of [`Worker::work`]; `false` once there will be no further one.
    #[cfg(test)]
    pub(super) fn step(&mut self) -> bool {
        let ran = self.turn();
        if ran.is_err() {
            self.shared.fail();
        }
        ran.unwrap_or(false)
    }

    /// Waits for a batch and begins it, or finishes the one under way; `false` once there will be none.
    ///
    /// With a batch under way, the next is begun only if it is full already.
    fn turn(&mut self) -> Result<bool, Broken> {
        let before = self.under_way.take();
        let job = match before {
            None => self.shared.next_job(),
            Some(_) => self.shared.next_full_job(),
        };
        if before.is_none() && job.is_none() {
            self.shared.set_state(WorkerState::Stopped);
            return Ok(false);
        }
        let begun = job.and_then(|job| self.begin(job));
        let mut ended = match before {
            Some(before) => self.finish(before),
            None => Ok(()),
        };
        match begun {
            // Nothing is left under way on a tower that is broken.
            Some(begun) if begun.is_done() || ended.is_err() => {
                ended = ended.and(self.finish(begun))
            }
            begun => self.under_way = begun,
        }
        if ended.is_err() {
            tracing::error!("a tower fails on inputs that it has embedded before; its worker ends");
        }
        ended.map(|()| true)
    }

    fn begin(&mut self, job: Job) -> Option<UnderWay> {
        match job {
            Job::Image(batch) => {
                let tower = self.towers.vision.as_deref_mut()?;
                Some(UnderWay::Image(Batch::begin(tower, batch)))
            }
            // The engine refuses texts for a model without a text tower; should one come, its reply is
            // dropped, which answers it.
            Job::Text(batch) => match divided(batch) {
                Texts::Embed(batch) => {
                    let tower = self.towers.text.as_deref_mut()?;
                    Some(UnderWay::Text(Batch::begin(tower, batch)))
                }
                Texts::Read(batch) => {
                    let tower = self.towers.reader.as_deref_mut()?;
                    Some(UnderWay::Read(Batch::begin(tower, batch)))
                }
            },
            Job::Arrived(towers) => {
                self.take_in(towers);
                None
            }
            Job::Leave(lane, order) => {
                self.let_go(lane, order);
                None
            }
            Job::Load(wanted) => {
                loading::start(&self.shared, wanted);
                None
            }
        }
    }

    fn take_in(&mut self, towers: Parts) {
        note_usual_row(&self.shared, &towers);
        let (came, bytes) = (towers.lanes(), towers.came_bytes());
        let Parts { vision, text, reader, .. } = towers;
        if came[IMAGE] {
            self.towers.vision = vision;
        }
        if came[TEXT] {
            (self.towers.text, self.towers.reader) = (text, reader);
        }
        self.shared.has_arrived(bytes);
    }

    fn let_go(&mut self, lane: usize, order: Order) {
        if lane == IMAGE {
            self.towers.vision = None;
        } else {
            (self.towers.text, self.towers.reader) = (None, None);
        }
        if let Some(keeping) = &self.shared.keeping {
            (keeping.give_back)();
        }
        self.shared.has_left(lane, order);
    }

    fn finish(&mut self, batch: UnderWay) -> Result<(), Broken> {
        let (vision, text) = (self.towers.vision.as_deref_mut(), self.towers.text.as_deref_mut());
        let lane = |lane| Lane { shared: &self.shared, lane, last_ended: self.last_ended };
        let ended = match batch {
            UnderWay::Image(batch) => match vision {
                Some(tower) => lane(IMAGE).finish(tower, batch, &mut self.memory.images),
                None => Ok(()),
            },
            UnderWay::Text(batch) => match text {
                Some(tower) => lane(TEXT).finish(tower, batch, &mut self.memory.texts),
                None => Ok(()),
            },
            UnderWay::Read(batch) => match self.towers.reader.as_deref_mut() {
                Some(tower) => lane(TEXT).finish(tower, batch, &mut self.memory.reads),
                None => Ok(()),
            },
        };
        self.last_ended = Instant::now();
        ended
    }
}

/// Tells the queue of images which size a usual row has.
fn note_usual_row(shared: &Shared, towers: &Parts) {
    if let Some(vision) = &towers.vision {
        shared.queues.lock().image.full_size = vision.usual_row().map(|row| row.size());
    }
}

impl UnderWay {
    fn is_done(&self) -> bool {
        match self {
            Self::Image(batch) => batch.is_done(),
            Self::Text(batch) => batch.is_done(),
            Self::Read(batch) => batch.is_done(),
        }
    }
}

/// The rows of a batch, which are all of one kind: rows of both kinds have no size in common.
enum Texts {
    Embed(Vec<Entry<Tokens>>),
    Read(Vec<Entry<ReaderRow>>),
}

fn divided(batch: Vec<Entry<TextRow>>) -> Texts {
    let (mut texts, mut reads) = (Vec::new(), Vec::new());
    for Entry { input, tap, caller } in batch {
        match input {
            TextRow::Embed(input) => texts.push(Entry { input, tap, caller }),
            TextRow::Read(input) => reads.push(Entry { input, tap, caller }),
        }
    }
    if reads.is_empty() { Texts::Embed(texts) } else { Texts::Read(reads) }
}

/// Marks the worker as failed when its thread ends in any other way than by draining.
pub(super) struct FailUnlessStopped(pub(super) Arc<Shared>);

impl Drop for FailUnlessStopped {
    fn drop(&mut self) {
        if *self.0.state.borrow() != WorkerState::Stopped {
            self.0.fail();
        }
    }
}

/// Rows whose pass was begun.
struct Batch<I> {
    inputs: Vec<I>,
    taps: Vec<Tap>,
    callers: Vec<Caller>,
    begun: Instant,
    /// What failed at once is retried when it is finished, like what fails later.
    pass: Result<Pass, TowerError>,
}

impl<I: Send + 'static> Batch<I> {
    fn begin(tower: &mut dyn Tower<Input = I>, entries: Vec<Entry<I>>) -> Self {
        let mut callers = Vec::with_capacity(entries.len());
        let mut inputs = Vec::with_capacity(entries.len());
        let mut taps = Vec::with_capacity(entries.len());
        for Entry { input, tap, caller } in entries {
            inputs.push(input);
            taps.push(tap);
            callers.push(caller);
        }
        let begun = Instant::now();
        let pass = isolate::begin(tower, Rows { inputs: &inputs, taps: &taps });
        Self { inputs, taps, callers, begun, pass }
    }

    fn is_done(&self) -> bool {
        self.pass.as_ref().map_or(true, Pass::is_done)
    }
}

/// Where a batch ends, for its accounts.
struct Lane<'s> {
    shared: &'s Shared,
    lane: usize,
    /// When the batch before it ended.
    last_ended: Instant,
}

impl Lane<'_> {
    fn finish<I: Row + Clone + Send + 'static>(
        &self,
        tower: &mut dyn Tower<Input = I>,
        batch: Batch<I>,
        health: &mut Health<I>,
    ) -> Result<(), Broken> {
        let Batch { inputs, taps, callers, begun, pass } = batch;
        let rows = Rows { inputs: &inputs, taps: &taps };
        let results = isolate::finish(tower, rows, pass);
        // One that was begun ahead waited for the device until the one before it had ended.
        let started = begun.max(self.last_ended);
        let forward = started.elapsed();

        self.account(&inputs, &results, forward);
        let verdict = health.judge(tower, rows, &results);
        let run = BatchRun {
            model: &self.shared.model,
            tower: if self.lane == IMAGE { "image" } else { "text" },
            rows: inputs.len(),
            forward,
        };
        let batch = run.span(callers.iter().filter_map(|caller| caller.trace.as_ref()));
        for (Caller { reply, submitted, span, .. }, result) in callers.into_iter().zip(results) {
            if let Err(error) = &result {
                span.in_scope(|| tracing::warn!(error = text::chain(error), "a row failed"));
            }
            let queued = started.saturating_duration_since(submitted);
            let answer = result.map(|embedding| {
                let batch = batch.clone();
                Answer { embedding, queued, forward, batch }
            });
            // A caller that left meanwhile has no use for it.
            drop(reply.send(answer));
        }
        verdict
    }

    fn account<I: Row>(&self, rows: &[I], results: &[RowResult], forward: std::time::Duration) {
        let metrics = &self.shared.lanes[self.lane];
        metrics.batch_rows.observe(rows.len() as f64);
        metrics.embedded.inc_by(results.iter().filter(|result| result.is_ok()).count() as u64);
        let size = rows.first().map_or((0, 1), |row| (row.size(), row.weight()));
        let queues = &mut *self.shared.queues.lock();
        queues.places[self.lane].touch(Instant::now());
        let capacity = if self.lane == IMAGE {
            queues.image.account(rows.len(), forward);
            queues.image.capacity(size)
        } else {
            queues.text.account(rows.len(), forward);
            queues.text.capacity(size)
        };
        metrics.fill_ratio.set(rows.len() as f64 / capacity as f64);
    }
}
