//! A pool of threads for CPU work before and after the towers: base64, image decoding, resizing; scores.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use tokio::sync::oneshot;

use crate::error::text;

/// Threads separate from those of the async runtime and of the towers.
///
/// Jobs start in the order in which they came. Admission limits how many wait, because every job belongs to an
/// admitted item.
#[derive(Debug)]
pub struct CpuPool {
    pool: ThreadPool,
}

/// The job panicked. Only the input of this job is at fault.
#[derive(Debug, thiserror::Error)]
#[error("the job panicked: {message}")]
pub struct JobPanicked {
    /// The panic's message.
    pub message: String,
}

impl CpuPool {
    /// A pool of `threads`; 0 means one per core.
    ///
    /// * `name`: begins the names of the threads
    ///
    /// # Errors
    /// Fails if the threads cannot be started.
    pub fn new(name: &'static str, threads: usize) -> Result<Self, ThreadPoolBuildError> {
        let name = move |index| format!("{name}-{index}");
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(name).build()?;
        Ok(Self { pool })
    }

    /// Runs a job and waits for its result. A job is skipped if its caller was cancelled before it started.
    ///
    /// # Errors
    /// Fails if the job panicked.
    pub async fn run<T, F>(&self, job: F) -> Result<T, JobPanicked>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let span = tracing::Span::current();
        self.pool.spawn_fifo(move || {
            if reply.is_closed() {
                return;
            }
            // The job owns all data that it changes, so a panic leaves no inconsistent state.
            let outcome = span.in_scope(|| catch_unwind(AssertUnwindSafe(job)));
            drop(
                reply.send(
                    outcome.map_err(|panic| JobPanicked {
                        message: text::of_panic(&*panic).to_owned(),
                    }),
                ),
            );
        });
        answer
            .await
            .unwrap_or_else(|_| Err(JobPanicked { message: "the pool dropped the job".to_owned() }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    };

    use super::*;

    #[tokio::test]
    async fn a_panic_fails_its_own_job_only() {
        let pool = CpuPool::new("job", 1).expect("one thread starts");
        let error = pool.run(|| -> u32 { panic!("bad {}", "picture") }).await.expect_err("panics");
        assert_eq!(error.message, "bad picture");
        assert_eq!(pool.run(|| 7).await.expect("the thread lives on"), 7);
    }

    #[tokio::test]
    async fn a_job_whose_caller_left_is_skipped() {
        let pool = CpuPool::new("job", 1).expect("one thread starts");
        let (open, gate) = mpsc::channel::<()>();
        let blocked = pool.run(move || gate.recv());
        let ran = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ran);
        let abandoned = pool.run(move || flag.store(true, Ordering::SeqCst));
        tokio::pin!(blocked);
        {
            // Poll both once, so that both are queued; then cancel the second one.
            tokio::pin!(abandoned);
            assert!(futures::poll!(&mut blocked).is_pending());
            assert!(futures::poll!(&mut abandoned).is_pending());
        }
        open.send(()).expect("the job waits");
        blocked.await.expect("no panic").expect("the gate opened");
        pool.run(|| ()).await.expect("everything before it is done");
        assert!(!ran.load(Ordering::SeqCst));
    }
}
