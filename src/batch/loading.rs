//! How towers come into memory again: on a thread of their own, within the bound on the memory of all.

use std::{
    error::Error,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    budget::{MemoryBudget, Refused},
    shared::{IMAGE, Shared, TEXT},
};
use crate::{
    error::text,
    model::{Reader, TextTower, VisionTower},
};

/// Towers on their way to a worker.
#[derive(Default)]
pub struct Parts {
    /// Embeds images.
    pub vision: Option<VisionTower>,
    /// Embeds texts.
    pub text: Option<TextTower>,
    /// Reads texts together with an image; it comes and goes with `text`.
    pub reader: Option<Reader>,
    /// Bytes of the weights of the vision tower, and of the two others together.
    pub bytes: [u64; 2],
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "towers {:?}", self.lanes())
    }
}

impl Parts {
    /// Which lanes they serve.
    pub(super) fn lanes(&self) -> [bool; 2] {
        [self.vision.is_some(), self.text.is_some() || self.reader.is_some()]
    }

    /// Bytes of each lane's tower; none where none came.
    pub(super) fn came_bytes(&self) -> [Option<u64>; 2] {
        let came = self.lanes();
        [IMAGE, TEXT].map(|lane| came[lane].then_some(self.bytes[lane]))
    }
}

/// Why towers could not be loaded.
#[derive(Debug)]
pub struct LoadFailure {
    /// What went wrong.
    pub error: Box<dyn Error + Send + Sync>,
    /// Whether no later attempt can succeed before an operator acts.
    pub for_good: bool,
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for LoadFailure {
    fn from(error: E) -> Self {
        Self { error: error.into(), for_good: false }
    }
}

/// Loads towers of one model: the vision tower, that of texts with its reader, or both. It may give more than was asked
/// for.
pub type Loader = Arc<dyn Fn([bool; 2]) -> Result<Parts, LoadFailure> + Send + Sync>;

/// How the towers of a model come and go.
pub struct Keeping {
    /// Loads them.
    pub loader: Loader,
    /// Which of the towers the model has: vision, text.
    pub towers: [bool; 2],
    /// After how long without a row a tower is unloaded; never where it is none.
    pub idle: Option<Duration>,
    /// Whether a tower may be unloaded for another one.
    pub may_yield: bool,
    /// Bytes that the weights take where they were never loaded.
    pub expected_bytes: [u64; 2],
    /// The bound on the weights of all towers.
    pub budget: Arc<MemoryBudget>,
    /// Gives freed memory back to the system.
    pub give_back: fn(),
}

impl fmt::Debug for Keeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeping").field("idle", &self.idle).finish_non_exhaustive()
    }
}

/// Begins to load towers that were marked as being loaded.
pub(super) fn start(shared: &Arc<Shared>, wanted: [bool; 2]) {
    let own = Arc::clone(shared);
    let thread = std::thread::Builder::new().name(format!("load-{}", shared.model));
    if let Err(error) = thread.spawn(move || run(&own, wanted)) {
        shared.load_failed(wanted, &error.into());
    }
}

fn run(shared: &Arc<Shared>, wanted: [bool; 2]) {
    let Some(keeping) = &shared.keeping else { return };
    let begun = Instant::now();
    let expected = shared.expected_bytes(wanted);
    match keeping.budget.reserve(expected, || shared.wants(wanted)) {
        Ok(()) => {}
        Err(Refused::NotWanted) => return shared.load_given_up(wanted),
        Err(refused @ Refused::TooLarge { .. }) => {
            return failed(shared, wanted, &LoadFailure { error: refused.into(), for_good: false });
        }
    }
    let waited = begun.elapsed();
    match load(keeping, wanted) {
        Ok(parts) => {
            let bytes = parts.bytes.iter().sum();
            keeping.budget.correct(expected, bytes);
            if !keeping.may_yield {
                keeping.budget.pin(bytes, true);
            }
            shared.metrics.model_loads.with_label_values(&[&shared.model, "ok"]).inc();
            let seconds = begun.elapsed().as_secs_f64();
            shared.metrics.model_load_duration.with_label_values(&[&shared.model]).observe(seconds);
            let [vision, text] = parts.lanes();
            tracing::info!(
                model = shared.model,
                vision,
                text,
                seconds,
                ?waited,
                "towers were loaded"
            );
            shared.deliver(parts);
            // The estimate may have been too low, and then something has to go.
            drop(keeping.budget.reserve(0, || shared.is_open()));
        }
        Err(failure) => {
            keeping.budget.release(expected);
            failed(shared, wanted, &failure);
        }
    }
}

fn load(keeping: &Keeping, wanted: [bool; 2]) -> Result<Parts, LoadFailure> {
    let parts = catch_unwind(AssertUnwindSafe(|| (keeping.loader)(wanted)));
    let parts = parts.unwrap_or_else(|panic| {
        Err(format!("loading panicked: {}", text::of_panic(&*panic)).into())
    })?;
    let came = parts.lanes();
    if [IMAGE, TEXT].into_iter().any(|lane| wanted[lane] && !came[lane]) {
        return Err("the checkpoint has lost a tower".into());
    }
    Ok(parts)
}

fn failed(shared: &Shared, wanted: [bool; 2], failure: &LoadFailure) {
    shared.metrics.model_loads.with_label_values(&[&shared.model, "failed"]).inc();
    tracing::error!(model = shared.model, error = %failure.error, "towers cannot be loaded");
    shared.load_failed(wanted, failure);
}
