//! A forward pass whose failure is pinned on the rows that cause it.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::BatchError;
use crate::{
    embedding::Embedding,
    model::{Tower, TowerError},
};

/// What a forward pass gave each row.
pub(super) type RowResult = Result<Embedding, BatchError>;

/// Failed passes allowed for a batch of `rows`: enough to find four bad rows by halving. A tower that fails
/// on everything stops being asked, instead of being asked twice per row.
fn failure_budget(rows: usize) -> u32 {
    4 * (rows.max(1).ilog2() + 1)
}

/// Runs a batch. When the pass fails, by error or by panic, the batch is halved until the rows at fault
/// stand alone; their mates are answered. Running out of memory is mended by the same halving.
pub(super) fn forward<I: Clone + Send + 'static>(
    tower: &mut dyn Tower<Input = I>,
    rows: &[I],
) -> Vec<RowResult> {
    let mut budget = failure_budget(rows.len());
    let mut results = Vec::with_capacity(rows.len());
    halve(tower, rows, &mut budget, &mut results);
    results
}

fn halve<I: Send + 'static>(
    tower: &mut dyn Tower<Input = I>,
    rows: &[I],
    budget: &mut u32,
    results: &mut Vec<RowResult>,
) {
    match guarded(tower, rows) {
        Ok(embeddings) => results.extend(embeddings.into_iter().map(finite)),
        Err(error) => {
            *budget = budget.saturating_sub(1);
            if rows.len() == 1 || *budget == 0 {
                let error = Arc::new(error);
                results.extend(rows.iter().map(|_| Err(BatchError::Tower(Arc::clone(&error)))));
                return;
            }
            let (left, right) = rows.split_at(rows.len() / 2);
            halve(tower, left, budget, results);
            halve(tower, right, budget, results);
        }
    }
}

/// One pass, its panic turned into an error and its row count checked.
pub(super) fn guarded<I: Send + 'static>(
    tower: &mut dyn Tower<Input = I>,
    rows: &[I],
) -> Result<Vec<Embedding>, TowerError> {
    // A tower holds weights, which a pass does not change, and scratch, which the next pass overwrites.
    let embeddings = catch_unwind(AssertUnwindSafe(|| tower.forward(rows)))
        .unwrap_or_else(|panic| Err(TowerError::Device(panic_message(&*panic).into())))?;
    if embeddings.len() == rows.len() {
        Ok(embeddings)
    } else {
        let message = format!("{} embeddings for {} rows", embeddings.len(), rows.len());
        Err(TowerError::Device(message.into()))
    }
}

fn finite(embedding: Embedding) -> RowResult {
    if embedding.is_finite() { Ok(embedding) } else { Err(BatchError::NotFinite) }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let message = panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    format!("the forward pass panicked: {}", message.as_deref().unwrap_or("no message"))
}
