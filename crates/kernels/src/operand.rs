//! The operands of products: words of 32 bits, each with one f32 or a pair of bf16.

use std::ops::Range;

use half::bf16;

use crate::{
    Packed,
    packed::Line,
    simd::{PANEL, Simd, pair_of},
};

/// A word of 32 bits, of a product's inputs or of its weights.
pub(crate) trait Operand: Copy + Default + Send + Sync + 'static {
    /// Inputs in a word.
    const INPUTS: usize;
    /// One word for each lane of a vector.
    type Vector<S: Simd>: Copy;

    /// Makes a word of its values; the last one may be missing.
    fn of(values: &[f32]) -> Self;
    /// The lines of some words of a panel.
    ///
    /// * `scratch`: a buffer for [`WIDENED`](crate::packed::WIDENED) lines, used if the weights have another
    ///   type
    fn lines<'b, S: Simd>(
        simd: S,
        packed: &'b Packed,
        place: (usize, Range<usize>),
        scratch: &'b mut [Line<f32>],
    ) -> &'b [Line<Self>];
    /// One word for each lane of a vector.
    ///
    /// # Safety
    /// The values of `LANES` words are readable from `from` on.
    unsafe fn gather<S: Simd>(simd: S, from: *const f32) -> S::I;
    fn splat<S: Simd>(self, simd: S) -> Self::Vector<S>;
    fn load<S: Simd>(simd: S, line: &Line<Self>, vector: usize) -> Self::Vector<S>;
    /// Stores `LANES` words. A word is made of both values of a lane, or of the first one only.
    ///
    /// # Safety
    /// `LANES` words are writable from `to` on.
    unsafe fn join<S: Simd>(simd: S, to: *mut i32, values: [S::F; 2]);
    /// Converts values to words in place. The words are at the front of the slice, and there may be fewer.
    fn narrow<S: Simd>(simd: S, values: &mut [f32]);
    /// Adds the product to the sums.
    fn multiply<S: Simd>(simd: S, x: Self::Vector<S>, w: Self::Vector<S>, sums: S::F) -> S::F;
}

impl Operand for f32 {
    const INPUTS: usize = 1;
    type Vector<S: Simd> = S::F;

    #[inline(always)]
    fn of(values: &[f32]) -> Self {
        values[0]
    }

    #[inline(always)]
    fn lines<'b, S: Simd>(
        simd: S,
        packed: &'b Packed,
        (panel, inputs): (usize, Range<usize>),
        scratch: &'b mut [Line<f32>],
    ) -> &'b [Line<Self>] {
        packed.numbers(simd, panel, inputs, scratch)
    }

    #[inline(always)]
    unsafe fn gather<S: Simd>(simd: S, from: *const f32) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { simd.load_i32(from.cast()) }
    }

    #[inline(always)]
    fn splat<S: Simd>(self, simd: S) -> S::F {
        simd.splat(self)
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, line: &Line<Self>, vector: usize) -> S::F {
        debug_assert!((vector + 1) * S::LANES <= PANEL);
        // SAFETY: `vector` is less than the number of vectors in a line.
        unsafe { simd.load(line.0.as_ptr().add(vector * S::LANES)) }
    }

    #[inline(always)]
    unsafe fn join<S: Simd>(simd: S, to: *mut i32, values: [S::F; 2]) {
        // SAFETY: the caller's promise.
        unsafe { simd.store(to.cast(), values[0]) }
    }

    #[inline(always)]
    fn narrow<S: Simd>(_: S, _: &mut [f32]) {}

    #[inline(always)]
    fn multiply<S: Simd>(simd: S, x: S::F, w: S::F, sums: S::F) -> S::F {
        simd.mul_add(x, w, sums)
    }
}

/// Two bf16, the first in the lower half.
#[derive(Debug, Clone, Copy, Default)]
#[repr(transparent)]
pub(crate) struct Pair(i32);

impl Pair {
    /// Splits two values, the last of which may be missing, into sums of two bf16: the nearest one and the
    /// rest.
    pub(crate) fn split(values: &[f32]) -> [Self; 2] {
        let large = |value: f32| bf16::from_f32(value).to_f32();
        let values = [values[0], values.get(1).copied().unwrap_or(0.0)];
        [Self(pair_of(values)), Self(pair_of(values.map(|value| value - large(value))))]
    }
}

impl Operand for Pair {
    const INPUTS: usize = 2;
    type Vector<S: Simd> = S::I;

    #[inline(always)]
    fn of(values: &[f32]) -> Self {
        Self(pair_of([values[0], values.get(1).copied().unwrap_or(0.0)]))
    }

    #[inline(always)]
    fn lines<'b, S: Simd>(
        _: S,
        packed: &'b Packed,
        (panel, words): (usize, Range<usize>),
        _: &'b mut [Line<f32>],
    ) -> &'b [Line<Self>] {
        packed.pairs(panel, words)
    }

    #[inline(always)]
    unsafe fn gather<S: Simd>(simd: S, from: *const f32) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { simd.load_pairs(from) }
    }

    #[inline(always)]
    fn splat<S: Simd>(self, simd: S) -> S::I {
        simd.splat_i32(self.0)
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, line: &Line<Self>, vector: usize) -> S::I {
        debug_assert!((vector + 1) * S::LANES <= PANEL);
        // SAFETY: `vector` is less than the number of vectors in a line, and a pair is an i32.
        unsafe { simd.load_i32(line.0.as_ptr().add(vector * S::LANES).cast()) }
    }

    #[inline(always)]
    unsafe fn join<S: Simd>(simd: S, to: *mut i32, values: [S::F; 2]) {
        // SAFETY: the caller's promise.
        unsafe { simd.store_i32(to, simd.join_pairs(values)) }
    }

    #[inline(always)]
    fn narrow<S: Simd>(simd: S, values: &mut [f32]) {
        debug_assert!(values.len().is_multiple_of(PANEL));
        let place = values.as_mut_ptr();
        for word in (0..values.len() / 2).step_by(S::LANES) {
            if 2 * (word + S::LANES) <= values.len() {
                // SAFETY: there are two values for each word, and no value is read after it was overwritten.
                unsafe {
                    let pairs = simd.load_pairs(place.add(2 * word));
                    simd.store_i32(place.add(word).cast(), pairs);
                }
            } else {
                // Only half a vector is left: the panel has an odd number of vectors.
                let mut copy = [0f32; 2 * PANEL];
                copy[..values.len() - 2 * word].copy_from_slice(&values[2 * word..]);
                // SAFETY: `copy` has two values for each lane, and the row has at least as many further values
                // after the written words.
                unsafe {
                    let pairs = simd.load_pairs(copy.as_ptr());
                    simd.store_i32(place.add(word).cast(), pairs);
                }
            }
        }
    }

    #[inline(always)]
    fn multiply<S: Simd>(simd: S, x: S::I, w: S::I, sums: S::F) -> S::F {
        simd.add_pairs(x, w, sums)
    }
}
