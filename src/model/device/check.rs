//! Whether our kernels give what candle's operations give, before anybody is answered with them.

use super::Own;
use crate::{
    config::{CudaKernels, DType, MatmulPrecision},
    embedding::Embedding,
    model::{LoadError, TowerError, family::Towers, probe::Probe},
};

/// How often a batch runs with our kernels: one by one, as a graph that was just captured, and as one from before.
const RUNS: usize = 3;

/// Most that a row may be off, relative to its length. The two ways round differently: a few units of the type's last
/// place for each of some tens of layers. What is wrong is off by as much as the row itself.
fn tolerance(dtype: DType, precision: Option<MatmulPrecision>) -> f64 {
    match dtype {
        DType::F32 if precision == Some(MatmulPrecision::High) => 1e-2,
        DType::F32 => 1e-4,
        DType::F16 => 1e-2,
        DType::Bf16 | DType::Int8 => 5e-2,
    }
}

impl Own {
    /// Runs a batch both ways, and goes on with candle's operations if the outputs differ.
    ///
    /// # Errors
    /// Fails if candle's operations do.
    pub(in crate::model) fn check(
        &self,
        towers: &mut Towers,
        probe: &Probe,
        (dtype, precision): (DType, Option<MatmulPrecision>),
    ) -> Result<(), LoadError> {
        if !self.is_in_use() {
            return Ok(());
        }
        let ours: Result<Vec<_>, _> = (0..RUNS).map(|_| outputs(towers, probe)).collect();
        self.use_them(false);
        let theirs = outputs(towers, probe).map_err(|error| match &ours {
            Ok(_) => LoadError::from(error),
            Err(first) => LoadError::new(format!(
                "{error}; own kernels failed before it, which may have broken the device: {first}; try \
                 --cuda-kernels candle"
            )),
        })?;
        let most = tolerance(dtype, precision);
        match ours.map(|runs| runs.iter().map(|ours| difference(ours, &theirs)).fold(0.0, worst)) {
            Ok(off) if off <= most => {
                tracing::info!(difference = off, "own kernels give what candle's operations give");
                let in_tf32 = match (dtype, precision) {
                    (DType::F32, Some(MatmulPrecision::High)) => ", and multiply f32 in TF32",
                    _ => "",
                };
                let why =
                    format!("they differ from candle's operations by {off:.1e} of a row{in_tf32}");
                self.choose(CudaKernels::Own, why);
            }
            Ok(off) => {
                tracing::error!(
                    difference = off,
                    most,
                    "own kernels differ from candle's operations, which are used instead"
                );
                let why =
                    format!("own kernels differ from them by {off:.1e} of a row, above {most:e}");
                self.choose(CudaKernels::Candle, why);
            }
            Err(error) => {
                tracing::error!(%error, "own kernels failed; candle's operations are used instead");
                self.choose(CudaKernels::Candle, format!("own kernels failed: {error}"));
            }
        }
        Ok(())
    }
}

fn outputs(towers: &mut Towers, probe: &Probe) -> Result<Vec<Embedding>, TowerError> {
    use crate::model::Tower as _;
    let mut outputs = Vec::new();
    if let Some(vision) = &mut towers.vision {
        outputs.extend(vision.forward(&probe.pixels)?);
    }
    if let Some(text) = &mut towers.text {
        outputs.extend(text.forward(&probe.tokens)?);
    }
    Ok(outputs)
}

/// How far the worst row is off, relative to its length; not a number if one has none.
fn difference(ours: &[Embedding], theirs: &[Embedding]) -> f64 {
    if ours.len() != theirs.len() {
        return f64::INFINITY;
    }
    let of_row = |(own, other): (&Embedding, &Embedding)| {
        let (own, other) = (own.as_slice(), other.as_slice());
        let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
        let off = own.iter().zip(other).map(|(&a, &b)| f64::from(a) - f64::from(b));
        let length = squares(&mut other.iter().map(|&value| f64::from(value)));
        match own.len() == other.len() {
            true => (squares(&mut { off }) / length).sqrt(),
            false => f64::INFINITY,
        }
    };
    ours.iter().zip(theirs).map(of_row).fold(0.0, worst)
}

/// The greater, or what is no number.
fn worst(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[f32]]) -> Vec<Embedding> {
        rows.iter().copied().map(Embedding::new).collect()
    }

    #[test]
    fn the_worst_row_counts_relative_to_its_length() {
        let theirs = rows(&[&[3.0, 4.0], &[0.0, 100.0]]);
        assert_eq!(difference(&theirs, &theirs), 0.0);
        let ours = rows(&[&[3.0, 4.5], &[1.0, 100.0]]);
        assert!((difference(&ours, &theirs) - 0.1).abs() < 1e-12);
        // One row in the place of another, and rows that are missing or cut.
        assert!(difference(&rows(&[&[0.0, 100.0], &[3.0, 4.0]]), &theirs) > 0.9);
        assert_eq!(difference(&theirs[..1], &theirs), f64::INFINITY);
        assert_eq!(difference(&rows(&[&[3.0], &[0.0]]), &theirs), f64::INFINITY);
    }

    #[test]
    fn what_is_no_number_is_worse_than_any() {
        let theirs = rows(&[&[1.0, 0.0], &[1.0, 1.0]]);
        for at in 0..2 {
            let mut ours = rows(&[&[1.0, 0.0], &[1.0, 1.0]]);
            ours[at] = Embedding::new(&[f32::NAN, 1.0][..]);
            let off = difference(&ours, &theirs);
            assert!(off.is_nan(), "{off}");
            // Nothing that is no number is within a tolerance.
            let is_near = off <= tolerance(DType::Bf16, None);
            assert!(!is_near);
        }
        // Nor is a row that is all zeros on both sides.
        assert!(difference(&rows(&[&[0.0]]), &rows(&[&[0.0]])).is_nan());
    }
}
