//! `softmax(q k^T / sqrt(head_dim)) v` without a matrix of scores, over all keys or over those before a query.
//!
//! Keys are processed in blocks. For each query only its sums so far are kept, relative to the largest score so
//! far; they are scaled down when a larger score appears. Besides its result, a task needs memory for one block
//! of keys and values, and for the scores of one tile of queries.

mod scratch;
mod softmax;
#[cfg(target_arch = "x86_64")]
mod tiles;

use std::{mem::MaybeUninit, ops::Range};

use rayon::prelude::*;

use crate::{
    Element, Level,
    epilogue::{read_line, write_line},
    operand::Operand,
    packed::{Ahead, Line},
    product::{UNROLLED, multiply, panels_of},
    simd::{Kernel, Out, PANEL, Simd, by_height},
    tiles::pack_tile,
};
use scratch::{NUMBERS, PAIRS, Scratch};
use softmax::{largest_of, soften};

/// Dimensions of an attention call, and the keys that a query sees.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Images or texts.
    pub batch: usize,
    /// Rows of q for each.
    pub queries: usize,
    /// Rows of k and v for each.
    pub keys: usize,
    /// Heads, side by side in a row.
    pub heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Whether a query sees only the keys up to its own position. The last query has the position of the last
    /// key, so there must be at least as many keys as queries.
    pub causal: bool,
}

impl Shape {
    /// The number of keys that a query sees.
    fn visible(&self, query: usize) -> usize {
        if self.causal { query + 1 + self.keys - self.queries } else { self.keys }
    }
}

/// A view `[batch, rows, heads * head_dim]`, which may be inside a larger tensor.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// The values, beginning with the first one of the view.
    pub values: &'a [f32],
    /// The distance from one element of the batch to the next; 0 repeats one element.
    pub batch_stride: usize,
    /// The distance from one row to the next.
    pub row_stride: usize,
}

/// Keys of a block, a whole number of panels. With 64 values per head, the keys and values of a block fill a
/// quarter of a second-level cache of 512 KiB.
const KEYS: usize = 256;

/// Minimum number of queries of a task if several tasks share a head: each of them packs the keys again.
const QUERIES: usize = 48;

/// `softmax(q k^T / sqrt(head_dim)) v`, head by head.
///
/// * `element`: bf16 lets a set that multiplies pairs of them round q, k, v and the softmax to it; sums are f32
/// * `[q, k, v]`: `[batch, queries, width]` and twice `[batch, keys, width]`, with width = heads * head_dim
/// * returns `[batch, queries, width]`
///
/// Runs on the threads of the current pool.
///
/// # Panics
/// If there are no keys, or a view is shorter than its rows.
#[must_use]
pub fn attention(
    level: Level,
    element: Element,
    shape: Shape,
    [q, k, v]: [Rows<'_>; 3],
) -> Vec<f32> {
    let width = shape.heads * shape.head_dim;
    let count = shape.batch * shape.queries * width;
    assert!(count > 0 && shape.keys > 0, "{shape:?}");
    assert!(!shape.causal || shape.keys >= shape.queries, "{shape:?}");
    for (view, rows) in [(q, shape.queries), (k, shape.keys), (v, shape.keys)] {
        let last = (shape.batch - 1) * view.batch_stride + (rows - 1) * view.row_stride;
        assert!(view.values.len() >= last + width, "{shape:?}: a view of {}", view.values.len());
    }
    let mut mixed = Vec::<f32>::with_capacity(count);
    let out = Out(mixed.as_mut_ptr());
    let heads = shape.batch * shape.heads;
    let in_tiles = element == Element::Bf16 && level.has_tiles();
    let wanted = (4 * rayon::current_num_threads()).div_ceil(heads);
    let cuts = wanted.min(shape.queries / QUERIES).max(1);
    let queries = shape.queries.div_ceil(cuts).next_multiple_of(if in_tiles { 32 } else { 12 });
    let cuts = shape.queries.div_ceil(queries);
    (0..heads * cuts).into_par_iter().with_max_len(1).for_each(|task| {
        let first = task % cuts * queries;
        let head = Head {
            shape,
            views: [q, k, v],
            batch: task / cuts / shape.heads,
            column: task / cuts % shape.heads * shape.head_dim,
            queries: first..shape.queries.min(first + queries),
            out,
        };
        #[cfg(target_arch = "x86_64")]
        if in_tiles {
            return tiles::attend(level, head);
        }
        if element == Element::Bf16 && level.has_pairs() {
            PAIRS.with_borrow_mut(|scratch| level.run_on_pairs(Task { head, scratch }));
        } else {
            NUMBERS.with_borrow_mut(|scratch| level.run(Task { head, scratch }));
        }
    });
    // SAFETY: the tasks cover every query of every head, and each writes all values of its own.
    unsafe { mixed.set_len(count) };
    mixed
}

/// Some queries of one head of one image or text.
struct Head<'a> {
    shape: Shape,
    views: [Rows<'a>; 3],
    batch: usize,
    /// The column of the head's first value.
    column: usize,
    queries: Range<usize>,
    out: Out,
}

impl Head<'_> {
    /// The values of a row, from the first one of this head on.
    fn row(&self, view: usize, row: usize) -> &[f32] {
        let view = &self.views[view];
        &view.values[self.batch * view.batch_stride + row * view.row_stride + self.column..]
    }

    /// The position of a query's first value of this head in the result.
    #[inline(always)]
    fn place(&self, query: usize) -> usize {
        let width = self.shape.heads * self.shape.head_dim;
        (self.batch * self.shape.queries + query) * width + self.column
    }
}

struct Task<'a, T> {
    head: Head<'a>,
    scratch: &'a mut Scratch<T>,
}

impl<T: Operand> Kernel for Task<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { head, scratch } = self;
        let (keys, dim) = (head.shape.keys, head.shape.head_dim);
        scratch.sums.clear();
        scratch.sums.resize(head.queries.len(), (f32::NEG_INFINITY, 0.0));
        for start in (0..keys).step_by(KEYS) {
            let block = start..keys.min(start + KEYS);
            scratch.reserve((S::ROWS, 1), dim, block.len());
            scratch.pack(simd, &head, &block);
            for query in head.queries.clone().step_by(S::ROWS) {
                let rows = head.queries.end - query;
                by_height!(S, rows, HEIGHT => {
                    head.tile::<S, T, HEIGHT>(simd, query, &block, scratch);
                });
            }
        }
    }
}

impl Head<'_> {
    /// Adds a block of keys to the sums of some queries.
    #[inline(always)]
    fn tile<S: Simd, T: Operand, const HEIGHT: usize>(
        &self,
        simd: S,
        query: usize,
        block: &Range<usize>,
        scratch: &mut Scratch<T>,
    ) {
        let scores = scratch.scores.as_mut_ptr().cast::<f32>();
        self.score::<S, T, HEIGHT>(simd, query, scratch);
        let scale = (self.shape.head_dim as f32).powf(-0.5);
        let padded = block.len().next_multiple_of(PANEL);
        let sums = &mut scratch.sums[query - self.queries.start..][..HEIGHT];
        // SAFETY: `scores` has `ROWS` rows of `KEYS` values; nothing else refers to them.
        let row =
            |row: usize| unsafe { std::slice::from_raw_parts_mut(scores.add(row * KEYS), padded) };
        let mut factors = [1f32; HEIGHT];
        // The largest scores of all rows are computed first, so that their latencies overlap.
        for (index, (factor, (largest, _))) in factors.iter_mut().zip(&mut *sums).enumerate() {
            let scores = row(index);
            scores[self.visible(query + index, block)..].fill(f32::NEG_INFINITY);
            let (before, highest) = (*largest, largest_of(simd, scores) * scale);
            if highest > before {
                *largest = highest;
                *factor = if block.start == 0 { 0.0 } else { (before - highest).exp() };
            }
        }
        for (index, (factor, (largest, total))) in factors.iter().zip(sums).enumerate() {
            let scores = row(index);
            *total = *total * factor + soften(simd, scores, scale, *largest);
            if self.shape.causal {
                // The exponential of a hidden score is tiny, but not zero.
                scores[self.visible(query + index, block)..].fill(0.0);
            }
            T::narrow(simd, scores);
        }
        self.mix(simd, (query, block), factors, scratch);
    }

    /// The number of a block's keys that a query sees.
    #[inline(always)]
    fn visible(&self, query: usize, block: &Range<usize>) -> usize {
        self.shape.visible(query).saturating_sub(block.start).min(block.len())
    }

    /// The scores of some queries with a block of keys.
    #[inline(always)]
    fn score<S: Simd, T: Operand, const HEIGHT: usize>(
        &self,
        simd: S,
        query: usize,
        scratch: &mut Scratch<T>,
    ) {
        let dim = self.shape.head_dim;
        let words = dim.div_ceil(T::INPUTS);
        let row = |index: usize| &self.row(0, query + index.min(HEIGHT - 1))[..dim];
        let queries: *mut [T] = scratch.queries.as_mut_slice();
        // SAFETY: `MaybeUninit<T>` has the layout of `T`; nothing is read through it, and only valid words are
        // written.
        let queries = unsafe { &mut *(queries as *mut [MaybeUninit<T>]) };
        pack_tile(simd, row, queries);
        let scores = scratch.scores.as_mut_ptr().cast::<f32>();
        let panels = scratch.keys.len() / words;
        for first in (0..panels).step_by(panels_of::<S>()) {
            // An odd last panel is paired with itself.
            let lines = [first, panels.min(first + panels_of::<S>()) - 1]
                .map(|panel| &scratch.keys[panel * words..][..words]);
            let near = || Ahead { address: lines[0].as_ptr().cast(), stride: 0 };
            let sums = multiply::<S, T, HEIGHT>(
                simd,
                &scratch.queries,
                lines,
                &mut [near(), near()],
                [simd.splat(0.0); 2],
            );
            for (row, sums) in sums.into_iter().enumerate() {
                for (vector, sums) in sums.into_iter().enumerate() {
                    let at = row * KEYS + first * PANEL + vector * S::LANES;
                    // SAFETY: `scores` has `ROWS` rows of `KEYS` values, which are an even number of panels.
                    unsafe { simd.store(scores.add(at), sums) };
                }
            }
        }
    }

    /// Adds a block of values to the result of some queries.
    ///
    /// * `factors`: the factors for the previous sums
    #[inline(always)]
    fn mix<S: Simd, T: Operand, const HEIGHT: usize>(
        &self,
        simd: S,
        (query, block): (usize, &Range<usize>),
        factors: [f32; HEIGHT],
        scratch: &Scratch<T>,
    ) {
        let dim = self.shape.head_dim;
        let words = block.len().div_ceil(T::INPUTS);
        let (is_first, is_last) = (block.start == 0, block.end == self.shape.keys);
        let weights = scratch.scores.as_ptr().cast::<T>();
        let place = |row: usize, panel: usize| self.place(query + row) + panel * PANEL;
        let lanes = |panel: usize| 0..PANEL.min(dim - panel * PANEL);
        let panels = dim.div_ceil(PANEL);
        for first in (0..panels).step_by(panels_of::<S>()) {
            let last = panels.min(first + panels_of::<S>()) - 1;
            let mut sums = [[simd.splat(0.0); 2]; HEIGHT];
            if !is_first {
                for panel in first..=last {
                    for ((row, sums), factor) in sums.iter_mut().enumerate().zip(factors) {
                        // SAFETY: the previous block has written these values, and only this task accesses
                        // them.
                        let values = unsafe {
                            read_line(simd, self.out.0.add(place(row, panel)), &lanes(panel))
                        };
                        for (sum, value) in sums[panel - first..].iter_mut().zip(values) {
                            *sum = simd.mul(value, simd.splat(factor));
                        }
                    }
                }
            }
            let lines =
                [first, last].map(|panel| scratch.values[panel * words..][..words].as_ptr());
            // SAFETY: there are `HEIGHT` rows with one word for each line.
            unsafe { multiply_rows(simd, weights, lines, words, &mut sums) };
            for panel in first..=last {
                for (row, sums) in sums.iter().enumerate() {
                    let (_, sum) = scratch.sums[query - self.queries.start + row];
                    let factor = simd.splat(if is_last { 1.0 / sum } else { 1.0 });
                    let values = [simd.mul(sums[panel - first], factor), simd.mul(sums[1], factor)];
                    // SAFETY: the rows belong to this task, and the values to this head.
                    unsafe {
                        let to = self.out.0.add(place(row, panel));
                        write_line(simd, to, &lanes(panel), &values);
                    }
                }
            }
        }
    }
}

/// Adds to `sums` the product of `HEIGHT` rows and two vectors of columns.
///
/// * `x`: rows of `KEYS` words; a constant distance between rows needs no registers
/// * `lines`: a line for each word, also of the second panel if two panels are needed for two vectors
///
/// # Safety
/// `words` words of each row and `words` lines are readable.
#[inline(always)]
unsafe fn multiply_rows<S: Simd, T: Operand, const HEIGHT: usize>(
    simd: S,
    x: *const T,
    lines: [*const Line<T>; 2],
    words: usize,
    sums: &mut [[S::F; 2]; HEIGHT],
) {
    let mut local = *sums;
    let lines = if panels_of::<S>() == 1 { [lines[0]; 2] } else { lines };
    let whole = words / UNROLLED * UNROLLED;
    for at in (0..whole).step_by(UNROLLED) {
        for ahead in 0..UNROLLED {
            // SAFETY: the caller promises readable words and lines.
            unsafe { multiply_word(simd, x, lines, at + ahead, &mut local) };
        }
    }
    for at in whole..words {
        // SAFETY: the caller promises readable words and lines.
        unsafe { multiply_word(simd, x, lines, at, &mut local) };
    }
    *sums = local;
}

/// The part of one word in [`multiply_rows`]. This is not a closure, because the compiler need not inline a
/// closure, and a closure that is not inlined is compiled without the set's instructions.
///
/// # Safety
/// Word `at` of each row and line `at` are readable.
#[inline(always)]
unsafe fn multiply_word<S: Simd, T: Operand, const HEIGHT: usize>(
    simd: S,
    x: *const T,
    lines: [*const Line<T>; 2],
    at: usize,
    sums: &mut [[S::F; 2]; HEIGHT],
) {
    // SAFETY: the caller promises readable words and lines.
    let (first, second) = unsafe { (&*lines[0].add(at), &*lines[1].add(at)) };
    let weights = [T::load(simd, first, 0), T::load(simd, second, PANEL / S::LANES - 1)];
    for (row, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller promises readable words and lines.
        let word = unsafe { *x.add(row * KEYS + at) }.splat(simd);
        for (sum, weights) in sums.iter_mut().zip(weights) {
            *sum = T::multiply(simd, word, weights, *sum);
        }
    }
}
