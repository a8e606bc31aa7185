//! What happens when a worker cannot go on: its towers are loaded again, a bounded number of times.
//!
//! A worker ends when a tower fails on a row that it has embedded before, or by a panic of its own. The
//! rows of that batch have been answered with an error by then; the rows that wait are kept, since
//! nothing speaks against them. Then the towers are dropped, so that there is room for new ones, loaded
//! again and tried on the row that is known to be good.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{error, info};

use super::{
    WorkerState,
    health::Memory,
    loading::{LoadFailure, Parts},
    shared::Shared,
    worker::{Ended, FailUnlessStopped, Worker},
};
use crate::error::text;

/// The time in which `batch.max_restarts` counts. A device that fails more often than that is broken.
const WINDOW: Duration = Duration::from_secs(3600);
/// How long the first restart waits: a device that was reset needs a moment. Each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Runs a worker, and the next one in its place when it ends early.
pub(super) struct Supervisor {
    pub(super) shared: Arc<Shared>,
    pub(super) max_restarts: usize,
}

impl Supervisor {
    /// Returns once the queues are closed and drained, or once too many workers have ended early.
    pub(super) fn run(self, towers: Parts) {
        // Whatever ends this thread, nobody is left waiting.
        let on_exit = FailUnlessStopped(Arc::clone(&self.shared));
        let mut restarts = VecDeque::new();
        let mut worker = Some(Worker::new(Arc::clone(&self.shared), towers));
        while let Some(mut current) = worker.take() {
            match catch_unwind(AssertUnwindSafe(|| current.work())) {
                Ok(Ended::Drained) => break,
                Ok(Ended::Broken) => {}
                Err(panic) => error!(panic = text::of_panic(&*panic), "a worker panicked"),
            }
            worker = self.restart(current.into_memory(), &mut restarts);
        }
        drop(on_exit);
    }

    /// A worker with new towers, which have shown that they work; none where that is given up.
    fn restart(&self, memory: Memory, restarts: &mut VecDeque<Instant>) -> Option<Worker> {
        self.shared.set_state(WorkerState::Restarting);
        let mut memory = Some(memory);
        loop {
            let now = Instant::now();
            while restarts.front().is_some_and(|&then| now.duration_since(then) > WINDOW) {
                restarts.pop_front();
            }
            if restarts.len() >= self.max_restarts {
                error!(restarts = restarts.len(), "the worker is given up");
                return None;
            }
            let doubled = u32::try_from(restarts.len()).unwrap_or(u32::MAX).min(6);
            restarts.push_back(now);
            if !self.shared.pause(FIRST_PAUSE * 2_u32.pow(doubled)) {
                return None;
            }
            self.shared.count_restart();
            match catch_unwind(AssertUnwindSafe(|| self.reload())) {
                Ok(Ok(towers)) => {
                    let kept = memory.take().unwrap_or_default();
                    let mut worker = Worker::with_memory(Arc::clone(&self.shared), towers, kept);
                    if worker.proves_itself() {
                        info!("the worker runs again, with new towers");
                        self.shared.resume();
                        return Some(worker);
                    }
                    error!("the new towers fail as well");
                    memory = Some(worker.into_memory());
                }
                Ok(Err(failure)) => {
                    error!(error = %failure.error, "the towers cannot be loaded again");
                }
                Err(panic) => {
                    error!(panic = text::of_panic(&*panic), "loading the towers again panicked");
                }
            }
        }
    }

    /// Those towers that the worker had.
    fn reload(&self) -> Result<Parts, LoadFailure> {
        let held = self.shared.held();
        match &self.shared.keeping {
            Some(keeping) if held.contains(&true) => (keeping.loader)(held),
            _ => Ok(Parts::default()),
        }
    }
}
