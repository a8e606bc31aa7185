//! Items that are given up before their row waits for a batch.

use std::time::Instant;

use super::{Context, Engine};
use crate::{cpu_pool::JobPanicked, telemetry::Metrics};

/// An item on its way to the queue. Counts it if it is dropped there: its client left, or its deadline
/// passed. From the queue on, the queue counts.
pub(super) struct OnItsWay<'e> {
    metrics: &'e Metrics,
    deadline: Instant,
    arrived: bool,
}

impl<'e> OnItsWay<'e> {
    pub(super) fn new(metrics: &'e Metrics, context: &Context) -> Self {
        Self { metrics, deadline: context.deadline, arrived: false }
    }

    /// The item got its answer, or goes on to the next stage.
    pub(super) fn arrive(mut self) {
        self.arrived = true;
    }
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        if self.arrived {
            return;
        }
        let reason = if Instant::now() < self.deadline { "cancelled" } else { "expired" };
        self.metrics.dropped.with_label_values(&[reason]).inc();
    }
}

impl Engine {
    /// Runs an item's job on the CPU pool. If the item is given up before the job's turn comes, the job is
    /// skipped.
    ///
    /// # Errors
    /// Fails if the job panicked.
    pub(super) async fn on_pool<T: Send + 'static>(
        &self,
        context: &Context,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JobPanicked> {
        let item = OnItsWay::new(&self.metrics, context);
        let held = context.work.clone();
        let job = move || {
            let result = job();
            drop(held);
            result
        };
        let result = self.pool.run(job).await;
        item.arrive();
        result
    }
}
