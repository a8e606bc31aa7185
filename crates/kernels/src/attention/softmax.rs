//! Computes the softmax of a block of scores, relative to the largest score so far.

use crate::{
    math,
    simd::{PANEL, Simd},
};

/// The largest score of some panels.
#[inline(always)]
pub(super) fn largest_of<S: Simd>(simd: S, scores: &[f32]) -> f32 {
    let mut most = [simd.splat(f32::NEG_INFINITY); 2];
    for scores in scores.chunks_exact(PANEL) {
        for (most, scores) in most.iter_mut().zip(scores.chunks_exact(S::LANES)) {
            *most = simd.max(simd.load_slice(scores), *most);
        }
    }
    simd.max_of(simd.max(most[0], most[1]))
}

/// Replaces scores by exponentials relative to the largest score so far.
///
/// * returns their sum
#[inline(always)]
pub(super) fn soften<S: Simd>(simd: S, scores: &mut [f32], scale: f32, largest: f32) -> f32 {
    let (scales, shift) = (simd.splat(scale), simd.splat(-largest));
    let mut sums = simd.splat(0.0);
    for scores in scores.chunks_exact_mut(S::LANES) {
        let p = math::exp(simd, simd.mul_add(simd.load_slice(scores), scales, shift));
        simd.store_slice(scores, p);
        sums = simd.add(sums, p);
    }
    simd.sum(sums)
}
