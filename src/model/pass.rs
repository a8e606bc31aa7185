//! A forward pass that was begun.

use super::{Tap, TowerError};
use crate::embedding::Embedding;

/// A forward pass that was begun: its results are there, or will be. Dropped, it runs to its end and nobody sees
/// what it gave.
pub struct Pass(State);

enum State {
    Done(Vec<Embedding>),
    UnderWay(Box<dyn FnOnce() -> Result<Vec<Embedding>, TowerError> + Send>),
}

impl Pass {
    /// One that has run.
    #[must_use]
    pub fn done(embeddings: Vec<Embedding>) -> Self {
        Self(State::Done(embeddings))
    }

    /// Runs a tower that has no output but the embedding.
    ///
    /// * `taps`: the output that each row asks for
    ///
    /// # Errors
    /// Those of `run`, and [`TowerError::Shape`] if another output is asked for.
    pub fn pooled(
        taps: &[Tap],
        run: impl FnOnce() -> Result<Vec<Embedding>, TowerError>,
    ) -> Result<Self, TowerError> {
        match taps.iter().find(|&&tap| tap != Tap::Pooled) {
            None => run().map(Self::done),
            Some(tap) => Err(TowerError::Shape(format!("this tower gives no {tap:?}"))),
        }
    }

    /// One that a device is at.
    ///
    /// * `finish`: waits for the device, and gives what [`Tower::forward`](super::Tower::forward) does
    #[must_use]
    pub fn under_way(
        finish: impl FnOnce() -> Result<Vec<Embedding>, TowerError> + Send + 'static,
    ) -> Self {
        Self(State::UnderWay(Box::new(finish)))
    }

    /// Whether [`Pass::finish`] has nothing to wait for.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.0, State::Done(_))
    }

    /// Waits for the results: one unnormalised embedding a row, in order.
    ///
    /// # Errors
    /// Fails as a whole, like [`Tower::forward`](super::Tower::forward).
    pub fn finish(self) -> Result<Vec<Embedding>, TowerError> {
        match self.0 {
            State::Done(embeddings) => Ok(embeddings),
            State::UnderWay(finish) => finish(),
        }
    }
}
