//! Arithmetic on single rows.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::{
    Activation, Level, math,
    simd::{Kernel, Simd},
};

/// Applies an activation in place.
pub fn activate(level: Level, activation: Activation, values: &mut [f32]) {
    level.run(Activate { activation, values });
}

/// Softmax of one row, in place.
pub fn softmax_row(level: Level, row: &mut [f32]) {
    level.run(Softmax { row });
}

/// Rows of a task of a normalisation: about 10 us of work at a width of 768.
const ROWS: usize = 16;

/// Layer normalisation of each row of `x`.
///
/// * `x`: `[rows, width]`, row-major
/// * `(weight, bias)`: as many values as a row has
/// * `eps`: added to the variance
/// * returns `[rows, width]`
///
/// It takes two passes over a row. A single pass, `E[x^2] - E[x]^2`, loses digits if a few channels are large,
/// as in the deeper layers of real checkpoints. It runs on the threads of the current pool.
///
/// # Panics
/// If the lengths do not agree.
#[must_use]
pub fn layer_norm(level: Level, x: &[f32], affine: (&[f32], &[f32]), eps: f32) -> Vec<f32> {
    let (weight, bias) = affine;
    let width = weight.len();
    assert!(width > 0 && bias.len() == width && x.len().is_multiple_of(width));
    let mut y = Vec::<f32>::with_capacity(x.len());
    let tasks = y.spare_capacity_mut()[..x.len()].par_chunks_mut(ROWS * width);
    tasks.zip(x.par_chunks(ROWS * width)).for_each(|(y, x)| {
        level.run(Normalize { x, weight, bias, eps, y });
    });
    // SAFETY: the tasks cover all rows, and each task writes all values of its rows.
    unsafe { y.set_len(x.len()) };
    y
}

struct Activate<'a> {
    activation: Activation,
    values: &'a mut [f32],
}

impl Kernel for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for values in self.values.chunks_mut(S::LANES) {
            let x = simd.load_slice(values);
            simd.store_slice(values, self.activation.apply(simd, x));
        }
    }
}

struct Softmax<'a> {
    row: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut highest = simd.splat(f32::NEG_INFINITY);
        let whole = self.row.len() / S::LANES * S::LANES;
        for values in self.row[..whole].chunks_exact(S::LANES) {
            highest = simd.max(simd.load_slice(values), highest);
        }
        let rest = self.row[whole..].iter().copied();
        let max = rest.fold(simd.max_of(highest), f32::max);
        let mut sum = 0.0;
        let mut sums = simd.splat(0.0);
        for values in self.row.chunks_mut(S::LANES) {
            let p = math::exp(simd, simd.sub(simd.load_slice(values), simd.splat(max)));
            simd.store_slice(values, p);
            if values.len() == S::LANES {
                sums = simd.add(sums, p);
            } else {
                sum = values.iter().sum::<f32>();
            }
        }
        let factor = simd.splat(1.0 / (sum + simd.sum(sums)));
        for values in self.row.chunks_mut(S::LANES) {
            let p = simd.mul(simd.load_slice(values), factor);
            simd.store_slice(values, p);
        }
    }
}

struct Normalize<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    y: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.weight.len();
        for (x, y) in self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width)) {
            let mean = sum_of(simd, x, |x| x, |x| x) / width as f32;
            let means = simd.splat(mean);
            let squared = |x| {
                let centred = simd.sub(x, means);
                simd.mul(centred, centred)
            };
            let variance = sum_of(simd, x, squared, |x| (x - mean) * (x - mean)) / width as f32;
            let factor = simd.splat(1.0 / (variance + self.eps).sqrt());
            let rows = x.chunks(S::LANES).zip(y.chunks_mut(S::LANES));
            let affine = self.weight.chunks(S::LANES).zip(self.bias.chunks(S::LANES));
            for ((x, y), (weight, bias)) in rows.zip(affine) {
                let centred = simd.mul(simd.sub(simd.load_slice(x), means), factor);
                let (weight, bias) = (simd.load_slice(weight), simd.load_slice(bias));
                simd.fill_slice(y, simd.mul_add(centred, weight, bias));
            }
        }
    }
}

/// The sum of a term for each value. There are four vectors of sums, because four additions can begin in the
/// time that one takes.
#[inline(always)]
fn sum_of<S: Simd>(
    simd: S,
    x: &[f32],
    term: impl Fn(S::F) -> S::F,
    scalar_term: impl Fn(f32) -> f32,
) -> f32 {
    let mut sums = [simd.splat(0.0); 4];
    let mut chunks = x.chunks_exact(4 * S::LANES);
    for chunk in &mut chunks {
        for (sum, values) in sums.iter_mut().zip(chunk.chunks_exact(S::LANES)) {
            *sum = simd.add(*sum, term(simd.load_slice(values)));
        }
    }
    let rest: f32 = chunks.remainder().iter().map(|&value| scalar_term(value)).sum();
    simd.sum(simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3]))) + rest
}
