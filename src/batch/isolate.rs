//! A forward pass whose failure is pinned on the rows that cause it.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::BatchError;
use crate::{
    embedding::Embedding,
    model::{Tap, Tower, TowerError},
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

/// Runs a batch. When the pass fails, by error or by panic, the batch is halved until the rows at fault
/// stand alone; their mates are answered. Running out of memory is mended by the same halving.
pub(super) fn forward<I: Clone + Send + 'static>(
    tower: &mut dyn Tower<Input = I>,
    rows: Rows<'_, I>,
) -> Vec<RowResult> {
    let mut budget = failure_budget(rows.inputs.len());
    let mut results = Vec::with_capacity(rows.inputs.len());
    halve(tower, rows, &mut budget, &mut results);
    results
}

fn halve<I: Send + 'static>(
    tower: &mut dyn Tower<Input = I>,
    rows: Rows<'_, I>,
    budget: &mut u32,
    results: &mut Vec<RowResult>,
) {
    match guarded(tower, rows) {
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
            halve(tower, left, budget, results);
            halve(tower, right, budget, results);
        }
    }
}

/// One pass, its panic turned into an error and its row count checked.
pub(super) fn guarded<I: Send + 'static>(
    tower: &mut dyn Tower<Input = I>,
    rows: Rows<'_, I>,
) -> Result<Vec<Embedding>, TowerError> {
    // A tower holds weights, which a pass does not change, and scratch, which the next pass overwrites.
    let embeddings = catch_unwind(AssertUnwindSafe(|| tower.tapped(rows.inputs, rows.taps)))
        .unwrap_or_else(|panic| {
            let message = format!("the forward pass panicked: {}", panic_message(&*panic));
            Err(TowerError::Device(message.into()))
        })?;
    if embeddings.len() == rows.inputs.len() {
        Ok(embeddings)
    } else {
        let message = format!("{} embeddings for {} rows", embeddings.len(), rows.inputs.len());
        Err(TowerError::Device(message.into()))
    }
}

fn finite(embedding: Embedding) -> RowResult {
    if embedding.is_finite() { Ok(embedding) } else { Err(BatchError::NotFinite) }
}

pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let message = panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    message.unwrap_or_else(|| "no message".to_owned())
}
