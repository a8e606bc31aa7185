//! The comparisons of the integration tests, on any device and in any type. Prints a line for each instead of
//! stopping at the first difference.

#[path = "../../it/golden/grids.rs"]
mod grids;
#[path = "../../it/golden/reference.rs"]
#[expect(dead_code, reason = "shared with the integration tests")]
mod reference;
#[path = "../../it/golden/stages.rs"]
mod stages;

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use serde_json::json;
use siglip_server::config;

use self::reference::{Comparison, Judge};
use crate::Placed;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    placed: Placed,
    /// Only the checks with this in their names.
    #[arg(long, default_value = "")]
    only: String,
}

/// Maximum difference of a stage from the f32 reference, and of a row from the same row in another batch,
/// relative to the largest value.
///
/// In f32 the first is the same as on the processor. The second is larger, because a product of another size is
/// summed in another order. In 16 bits about twice what PyTorch's own towers, in the same type on a processor,
/// are off by at their worst stage: 3.6e-3 in f16 and 2.6e-2 in bf16, both in the tower of 27 layers.
fn tolerances(dtype: config::DType) -> [f64; 2] {
    match dtype {
        config::DType::F32 => [1e-5, 1e-5],
        config::DType::F16 => [8e-3, 8e-3],
        config::DType::Bf16 | config::DType::Int8 => [6e-2, 6e-2],
    }
}

/// A comparison and the checkpoint that it is made with.
type Check = (&'static str, fn(&Judge, &str), &'static str);

const CHECKS: [Check; 22] = [
    ("stages", stages::check, "tiny"),
    ("stages", stages::check, "odd-shapes"),
    ("stages", stages::check, "text-length-16"),
    ("stages", stages::check, "giant-like"),
    ("stages", stages::check, "erf-gelu"),
    ("stages", stages::check, "identity-text-head"),
    ("stages", stages::check, "vision-only"),
    ("stages", stages::check, "vision-headless"),
    ("stages", stages::check, "headless-27"),
    ("stages", stages::check, "open-clip-erf"),
    ("stages", stages::check, "open-clip-tanh"),
    ("stages", stages::check, "open-clip-bare"),
    ("naflex", grids::check, "naflex-down"),
    ("naflex", grids::check, "naflex-up"),
    ("naflex", grids::check, "naflex-vision-only"),
    ("batch", stages::check_mates, "tiny"),
    ("batch", stages::check_mates, "odd-shapes"),
    ("batch", stages::check_mates, "vision-headless"),
    ("features", stages::check_taps, "tiny"),
    ("features", stages::check_taps, "headless-27"),
    ("overlap", |judge, name| stages::check_begun(judge, name, 200), "tiny"),
    ("overlap", |judge, name| stages::check_begun(judge, name, 200), "odd-shapes"),
];

/// What the last panic said.
static PANIC: Mutex<String> = Mutex::new(String::new());

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let model = config::Model {
        // Checkpoints with a few random layers agree less than real ones. The agreement is measured here, so it
        // is not checked at load.
        min_agreement: Some(config::Agreement::UNCHECKED),
        ..arguments.placed.model("")?
    };
    let judge = Judge::noting(model, tolerances(arguments.placed.model("")?.dtype));
    panic::set_hook(Box::new(|panic| {
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = panic.to_string();
    }));
    for (kind, check, name) in CHECKS {
        if !format!("{kind} {name}").contains(&arguments.only) {
            continue;
        }
        let start = Instant::now();
        let ended = panic::catch_unwind(AssertUnwindSafe(|| check(&judge, name)));
        let error = ended
            .is_err()
            .then(|| std::mem::take(&mut *PANIC.lock().unwrap_or_else(PoisonError::into_inner)));
        report((kind, name), &judge.take(), error, start);
    }
    Ok(())
}

fn report(
    (kind, name): (&str, &str),
    comparisons: &[Comparison],
    error: Option<String>,
    start: Instant,
) {
    let share = |comparison: &&Comparison| comparison.difference / comparison.tolerance;
    let worst = comparisons.iter().max_by(|a, b| share(a).total_cmp(&share(b)));
    let over: Vec<_> = comparisons
        .iter()
        .filter(|comparison| comparison.difference > comparison.tolerance)
        .map(|comparison| json!([comparison.stage, comparison.difference]))
        .collect();
    let line = json!({
        "check": kind,
        "checkpoint": name,
        "passed": error.is_none() && over.is_empty() && !comparisons.is_empty(),
        "comparisons": comparisons.len(),
        "worst_stage": worst.map(|worst| &worst.stage),
        "worst": worst.map(|worst| worst.difference),
        "tolerance": worst.map(|worst| worst.tolerance),
        "over": over,
        "error": error,
        "seconds": start.elapsed().as_secs_f64(),
    });
    println!("{line}");
}
