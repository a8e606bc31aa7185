//! Whether f32 is multiplied in f32, or in three products of bf16.

use super::{Precision, runtime::Runtime};
use crate::config::{self, Agreement, DType, MatmulPrecision};

/// Maximum of 1 - cosine between embeddings computed with `high` and with `highest`, for `high` to be chosen although
/// the configuration does not ask for it.
const MOST_DISTANCE: f64 = 1e-9;

/// What the configuration asks for. Where nothing is measured, nothing is chosen by what was measured.
pub(super) fn wanted(config: &config::Model) -> Option<MatmulPrecision> {
    let unchecked = config.min_agreement == Some(Agreement::UNCHECKED);
    config.matmul_precision.or(unchecked.then_some(MatmulPrecision::Highest))
}

/// The same model in f32 as it is.
pub(super) fn highest(config: &config::Model) -> config::Model {
    config::Model { matmul_precision: Some(MatmulPrecision::Highest), ..config.clone() }
}

/// Whether embeddings may be taken for those in f32; not if the distance is no number.
pub(super) fn is_near(distance: f64) -> bool {
    distance < MOST_DISTANCE
}

/// How f32 is multiplied in the end, and why; none where it isn't.
///
/// * `distance`: of the cosine with `highest` from 1, where `high` was tried
pub(super) fn chosen(
    config: &config::Model,
    runtime: &Runtime,
    distance: Option<f64>,
) -> Option<Precision> {
    if config.dtype != DType::F32 || config.device != config::Device::Cpu {
        return None;
    }
    let measured = distance.map(|far| format!("cosines with highest are within {far:.1e} of 1"));
    let (value, why) = match (runtime.is_split(), config.matmul_precision) {
        (true, asked) => {
            let by = if asked.is_some() { "the configuration asks for it" } else { "it is faster" };
            let why = measured.map_or(by.to_owned(), |measured| format!("{by}; {measured}"));
            (MatmulPrecision::High, why)
        }
        (false, Some(MatmulPrecision::High)) => (
            MatmulPrecision::Highest,
            "this processor multiplies bf16 no faster, so that high is highest".to_owned(),
        ),
        (false, Some(MatmulPrecision::Highest)) => (
            MatmulPrecision::Highest,
            "the configuration asks for it, or measures nothing".to_owned(),
        ),
        (false, None) => match measured {
            Some(measured) => (
                MatmulPrecision::Highest,
                format!("with high, {measured}, which is more than {MOST_DISTANCE:e}"),
            ),
            None => {
                (MatmulPrecision::Highest, "this processor multiplies bf16 no faster".to_owned())
            }
        },
    };
    tracing::info!(precision = %value, why, "how f32 is multiplied");
    Some(Precision { value, why })
}
