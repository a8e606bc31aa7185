//! The side of the batcher that requests hold.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    Answer, BatchError, Share, Submit, WorkerState,
    queue::{Entry, Queue, TextRow},
    shared::{Queues, Shared},
};
use crate::{model::ReaderRow, preprocess::Pixels, tokenize::Tokens};

/// Submits rows to a model's worker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Embeds one picture. Dropping the future withdraws the row.
    ///
    /// # Errors
    /// Any [`BatchError`].
    pub async fn embed_image(&self, row: Pixels, how: Submit) -> Result<Answer, BatchError> {
        self.embed_shared((row, None), how).await
    }

    /// The same, with a share of the server's bounds that the row holds.
    ///
    /// # Errors
    /// Any [`BatchError`].
    pub async fn embed_shared(
        &self,
        row: (Pixels, Share),
        how: Submit,
    ) -> Result<Answer, BatchError> {
        self.submit(|queues| (&mut queues.image, queues.text.served), row, how).await
    }

    /// Embeds one text. Dropping the future withdraws the row.
    ///
    /// # Errors
    /// Any [`BatchError`].
    pub async fn embed_text(&self, row: Tokens, how: Submit) -> Result<Answer, BatchError> {
        self.text(TextRow::Embed(row), how).await
    }

    /// Has the reader do one piece of its work. Dropping the future withdraws the row.
    ///
    /// # Errors
    /// Any [`BatchError`].
    pub async fn read(&self, row: ReaderRow, how: Submit) -> Result<Answer, BatchError> {
        self.text(TextRow::Read(row), how).await
    }

    async fn text(&self, row: TextRow, how: Submit) -> Result<Answer, BatchError> {
        self.submit(|queues| (&mut queues.text, queues.image.served), (row, None), how).await
    }

    async fn submit<I>(
        &self,
        pick: impl FnOnce(&mut Queues) -> (&mut Queue<I>, Duration),
        (input, share): (I, Share),
        how: Submit,
    ) -> Result<Answer, BatchError> {
        let (reply, answer) = oneshot::channel();
        let entry = Entry {
            input,
            tap: how.tap,
            reply,
            submitted: Instant::now(),
            deadline: how.deadline,
            span: tracing::Span::current(),
            share,
        };
        self.shared.enqueue(pick, entry, how.priority)?;
        // A reply that is dropped unanswered can only mean that the worker is gone.
        answer.await.unwrap_or(Err(BatchError::WorkerGone))
    }

    /// What the worker is doing.
    #[must_use]
    pub fn state(&self) -> WorkerState {
        *self.shared.state.borrow()
    }

    /// How long a queue that is full now needs to make room: the `Retry-After` of the engine's own
    /// admission.
    #[must_use]
    pub fn drain_estimate(&self) -> Duration {
        Shared::drain_estimate(&self.shared.queues.lock())
    }

    /// Brings the queue gauges up to date, before a scrape: ages grow without anything happening.
    pub fn refresh_metrics(&self) {
        self.shared.show(&self.shared.queues.lock());
    }

    /// Stops taking rows. What was accepted is still answered; [`Handle::stopped`] tells when.
    pub fn close(&self) {
        self.shared.queues.lock().closed = true;
        self.shared.set_state(WorkerState::Draining);
        self.shared.wake.notify_all();
    }

    /// Resolves once the worker has ended, by draining or by failure.
    pub async fn stopped(&self) {
        let mut state = self.shared.state.subscribe();
        // The sender lives in `shared`, which this handle holds, so the wait cannot fail.
        drop(state.wait_for(|state| state.is_over()).await);
    }
}
