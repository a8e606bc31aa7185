//! The side of the batcher that requests hold.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    Answer, BatchError, Share, Submit, WorkerState,
    queue::{Caller, Entry, Queue, TextRow},
    residency::{TowerKind, TowerStatus},
    shared::{IMAGE, Queues, Shared, TEXT},
};
use crate::{model::ReaderRow, preprocess::Pixels, tokenize::Tokens};

/// Submits rows to a model's worker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Embeds one image. Dropping the future withdraws the row.
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
        self.submit((IMAGE, Queues::images), row, how).await
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
        self.submit((TEXT, Queues::texts), (row, None), how).await
    }

    async fn submit<I>(
        &self,
        (lane, pick): (usize, impl FnOnce(&mut Queues) -> (&mut Queue<I>, Duration)),
        (input, share): (I, Share),
        how: Submit,
    ) -> Result<Answer, BatchError> {
        let (reply, answer) = oneshot::channel();
        let caller = Caller::new(&how, reply, share);
        let entry = Entry { input, tap: how.tap, caller };
        if !self.shared.enqueue(lane, pick, entry, how.priority)? {
            return self.shared.answer_after_load(answer, lane, how.deadline).await;
        }
        // A reply that is dropped unanswered can only mean that the worker is gone.
        answer.await.unwrap_or(Err(BatchError::WorkerGone))
    }

    /// What the worker is doing.
    #[must_use]
    pub fn state(&self) -> WorkerState {
        *self.shared.state.borrow()
    }

    /// What is known of the model's towers.
    #[must_use]
    pub fn towers(&self) -> Vec<TowerStatus> {
        self.shared.towers()
    }

    /// Why no tower can be loaded before an operator acts, where that is so.
    #[must_use]
    pub fn failed_for_good(&self) -> Option<String> {
        self.shared.failed_for_good()
    }

    /// Loads a tower unless it is there, and waits for it.
    ///
    /// # Errors
    /// [`BatchError::NotLoaded`] with the reason, [`BatchError::Closed`] or [`BatchError::WorkerGone`].
    pub async fn load(&self, tower: TowerKind) -> Result<(), BatchError> {
        self.shared.bring(tower).await
    }

    /// Unloads a tower and waits until its memory is free; `false` if it stays, because it has rows or is being loaded,
    /// or because this worker cannot load it again.
    pub async fn unload(&self, tower: TowerKind) -> bool {
        self.shared.send_away(tower).await
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
        self.shared.queues.lock().close();
        self.shared.set_state(WorkerState::Draining);
        self.shared.wake.notify_all();
        self.shared.changes.send_modify(|count| *count += 1);
    }

    /// Resolves once the worker has ended, by draining or by failure.
    pub async fn stopped(&self) {
        let mut state = self.shared.state.subscribe();
        // The sender lives in `shared`, which this handle holds, so the wait cannot fail.
        drop(state.wait_for(|state| state.is_over()).await);
    }
}
