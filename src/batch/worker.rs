//! The thread that owns the towers.

use std::{sync::Arc, time::Instant};

use super::{
    Answer, Towers, WorkerState,
    isolate::{self, RowResult, Rows},
    queue::{Entry, Row},
    shared::{IMAGE, Job, Shared, TEXT},
};
use crate::{
    model::{Tap, Tower},
    preprocess::Pixels,
    tokenize::Tokens,
};

/// Batches that may fail on every row before any row has succeeded. Until one has, there is nothing to tell
/// a broken tower from a bad input by.
const UNPROVEN_FAILURES: u32 = 3;

/// Takes batches and runs them, one at a time.
pub struct Worker {
    shared: Arc<Shared>,
    towers: Towers,
    memory: Memory,
}

/// What a worker knows of its towers' health; the next worker takes it over.
#[derive(Default)]
pub(super) struct Memory {
    images: Health<Pixels>,
    texts: Health<Tokens>,
}

/// How a worker's work ended.
pub(super) enum Ended {
    /// The queues are closed and empty.
    Drained,
    /// A tower fails on everything.
    Broken,
}

/// What tells a broken tower from a bad input: the last row that succeeded must succeed again.
struct Health<I> {
    good_row: Option<(I, Tap)>,
    unproven_failures: u32,
}

impl<I> Default for Health<I> {
    fn default() -> Self {
        Self { good_row: None, unproven_failures: 0 }
    }
}

/// The tower fails on everything.
struct Broken;

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, towers: Towers) -> Self {
        Self::with_memory(shared, towers, Memory::default())
    }

    /// A worker in the place of one that broke.
    pub(super) fn with_memory(shared: Arc<Shared>, towers: Towers, memory: Memory) -> Self {
        shared.queues.lock().image.full_size = towers.vision.usual_row().map(|row| row.size());
        Self { shared, towers, memory }
    }

    /// What it learned. Its towers are dropped.
    pub(super) fn into_memory(self) -> Memory {
        self.memory
    }

    /// Whether the towers embed the rows that earlier ones embedded.
    pub(super) fn proves_itself(&mut self) -> bool {
        self.memory.images.is_well(self.towers.vision.as_mut())
            && self.towers.text.as_deref_mut().is_none_or(|tower| self.memory.texts.is_well(tower))
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

    /// Runs batches until the handles are closed and the queues are empty, or until a tower is broken.
    pub fn run(mut self) {
        // Whatever ends this thread, a defect of the worker itself included, nobody is left waiting.
        let on_exit = FailUnlessStopped(Arc::clone(&self.shared));
        while self.step() {}
        drop(on_exit);
    }

    /// Waits for one batch and runs it; `false` once there is nothing more to do.
    pub fn step(&mut self) -> bool {
        let ran = self.turn();
        if ran.is_err() {
            self.shared.fail();
        }
        ran.unwrap_or(false)
    }

    /// Waits for one batch and runs it; `false` once there will be none.
    fn turn(&mut self) -> Result<bool, Broken> {
        let ran = match self.shared.next_job() {
            None => {
                self.shared.set_state(WorkerState::Stopped);
                return Ok(false);
            }
            Some(Job::Image(batch)) => {
                let tower = self.towers.vision.as_mut();
                Batch { shared: &self.shared, lane: IMAGE }.run(
                    tower,
                    batch,
                    &mut self.memory.images,
                )
            }
            Some(Job::Text(batch)) => match self.towers.text.as_deref_mut() {
                Some(tower) => Batch { shared: &self.shared, lane: TEXT }.run(
                    tower,
                    batch,
                    &mut self.memory.texts,
                ),
                // The engine refuses texts for a model without a text tower; should one come, its reply is
                // dropped, which answers it.
                None => Ok(()),
            },
        };
        if ran.is_err() {
            tracing::error!("a tower fails on inputs that it has embedded before; its worker ends");
        }
        ran.map(|()| true)
    }
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

/// Where a batch runs, for its accounts.
struct Batch<'s> {
    shared: &'s Shared,
    lane: usize,
}

impl Batch<'_> {
    fn run<I: Row + Clone + Send + 'static>(
        &self,
        tower: &mut dyn Tower<Input = I>,
        batch: Vec<Entry<I>>,
        health: &mut Health<I>,
    ) -> Result<(), Broken> {
        let mut waiting = Vec::with_capacity(batch.len());
        let mut inputs = Vec::with_capacity(batch.len());
        let mut taps = Vec::with_capacity(batch.len());
        for entry in batch {
            inputs.push(entry.input);
            taps.push(entry.tap);
            waiting.push((entry.reply, entry.submitted, entry.span));
        }
        let rows = Rows { inputs: &inputs, taps: &taps };
        let started = Instant::now();
        let results = isolate::forward(tower, rows);
        let forward = started.elapsed();

        self.account(&inputs, &results, forward);
        let verdict = health.judge(tower, rows, &results);
        let batch_rows = inputs.len();
        for ((reply, submitted, span), result) in waiting.into_iter().zip(results) {
            if let Err(error) = &result {
                span.in_scope(|| tracing::warn!(error = error_chain(error), "a row failed"));
            }
            let queued = started.saturating_duration_since(submitted);
            let answer = result.map(|embedding| Answer { embedding, queued, forward, batch_rows });
            // A caller that left meanwhile has no use for it.
            drop(reply.send(answer));
        }
        verdict
    }

    fn account<I: Row>(&self, rows: &[I], results: &[RowResult], forward: std::time::Duration) {
        let metrics = &self.shared.lanes[self.lane];
        metrics.batch_rows.observe(rows.len() as f64);
        metrics.embedded.inc_by(results.iter().filter(|result| result.is_ok()).count() as u64);
        let size = rows.first().map_or(0, Row::size);
        let queues = &mut *self.shared.queues.lock();
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

impl<I: Clone + Send + 'static> Health<I> {
    /// Remembers a good row; where every row failed, tries the tower on one that is known to be good.
    fn judge(
        &mut self,
        tower: &mut dyn Tower<Input = I>,
        rows: Rows<'_, I>,
        results: &[RowResult],
    ) -> Result<(), Broken> {
        if let Some(good) = results.iter().position(Result::is_ok) {
            if self.good_row.is_none() {
                self.good_row = Some((rows.inputs[good].clone(), rows.taps[good]));
            }
            return Ok(());
        }
        if self.good_row.is_none() {
            self.unproven_failures += 1;
        }
        if self.is_well(tower) { Ok(()) } else { Err(Broken) }
    }

    /// Whether a tower embeds the row that is known to be good; without one, whether it has not failed too
    /// often yet.
    fn is_well(&self, tower: &mut dyn Tower<Input = I>) -> bool {
        match &self.good_row {
            Some((input, tap)) => {
                let row = Rows { inputs: std::slice::from_ref(input), taps: &[*tap] };
                isolate::forward(tower, row)[0].is_ok()
            }
            None => self.unproven_failures < UNPROVEN_FAILURES,
        }
    }
}

/// An error with its causes, for the log.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
