//! A forward pass whose failure is pinned on the rows that cause it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::BatchError;
use crate::{
    embedding::Embedding,
    error::text,
    model::{Pass, Tap, Tower, TowerError},
};

/// What a forward pass gave each row.
pub(super) type RowResult = Result<Embedding, BatchError>;

/// The rows of a pass and the output that each asks for.
#[derive(Debug)]
pub(super) struct Rows<'r, I> {
    pub(super) inputs: &'r [I],
    pub(super) taps: &'r [Tap],
}

impl<I> Clone for Rows<'_, I> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I> Copy for Rows<'_, I> {}

impl<I> Rows<'_, I> {
    fn split(self) -> (Self, Self) {
        let (left, right) = self.inputs.split_at(self.inputs.len() / 2);
        let (left_taps, right_taps) = self.taps.split_at(left.len());
        (Self { inputs: left, taps: left_taps }, Self { inputs: right, taps: right_taps })
    }
}

/// Failed passes allowed for a batch of `rows`: enough to find four bad rows by halving. A tower that fails
/// on everything stops being asked, instead of being asked twice per row.
fn failure_budget(rows: usize) -> u32 {
    4 * (rows.max(1).ilog2() + 1)
}

/// Runs a batch; see [`finish`].
pub(super) fn forward<I: Send + 'static>(
    tower: &mut dyn Tower<Input = I>,
    rows: Rows<'_, I>,
) -> Vec<RowResult> {
    let begun = begin(tower, rows);
    finish(tower, rows, begun)
}

/// Begins a batch's pass.
///
/// # Errors
/// What failed already is to be handed to [`finish`].
pub(super) fn begin<I: Send + 'static>(
    tower: &mut dyn Tower<Input = I>,
    rows: Rows<'_, I>,
) -> Result<Pass, TowerError> {
    guarded(|| tower.begin(rows.inputs, rows.taps))
}

/// Finishes a batch. When the pass fails, by error or by panic, the batch is halved until the rows at fault
/// stand alone; their mates are answered. Running out of memory is mended by the same halving.
pub(super) fn finish<I: Send + 'static>(
    tower: &mut dyn Tower<Input = I>,
    rows: Rows<'_, I>,
    begun: Result<Pass, TowerError>,
) -> Vec<RowResult> {
    let mut budget = failure_budget(rows.inputs.len());
    let mut results = Vec::with_capacity(rows.inputs.len());
    halve(tower, rows, begun, &mut budget, &mut results);
    results
}

fn halve<I: Send + 'static>(
    tower: &mut dyn Tower<Input = I>,
    rows: Rows<'_, I>,
    begun: Result<Pass, TowerError>,
    budget: &mut u32,
    results: &mut Vec<RowResult>,
) {
    match begun.and_then(|pass| embeddings(pass, rows.inputs.len())) {
        Ok(embeddings) => results.extend(embeddings.into_iter().map(finite)),
        Err(error) => {
            *budget = budget.saturating_sub(1);
            if rows.inputs.len() == 1 || *budget == 0 {
                let error = Arc::new(error);
                results
                    .extend(rows.inputs.iter().map(|_| Err(BatchError::Tower(Arc::clone(&error)))));
                return;
            }
            let (left, right) = rows.split();
            for half in [left, right] {
                let begun = begin(tower, half);
                halve(tower, half, begun, budget, results);
            }
        }
    }
}

/// What a pass gives, its row count checked.
fn embeddings(pass: Pass, rows: usize) -> Result<Vec<Embedding>, TowerError> {
    let embeddings = guarded(|| pass.finish())?;
    if embeddings.len() == rows {
        Ok(embeddings)
    } else {
        let message = format!("{} embeddings for {rows} rows", embeddings.len());
        Err(TowerError::Device(message.into()))
    }
}

/// A panic turned into an error.
fn guarded<T>(work: impl FnOnce() -> Result<T, TowerError>) -> Result<T, TowerError> {
    // A tower holds weights, which a pass does not change, and scratch, which the next pass overwrites.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = format!("the forward pass panicked: {}", text::of_panic(&*panic));
        Err(TowerError::Device(message.into()))
    })
}

fn finite(embedding: Embedding) -> RowResult {
    if embedding.is_finite() { Ok(embedding) } else { Err(BatchError::NotFinite) }
}
