//! `softmax(q k^T / sqrt(head_dim)) v` without a matrix of scores.
//!
//! The keys pass by in blocks. Of each query only the sums so far are kept, over the largest score so far; when a
//! larger one comes they are scaled down. What a task needs beside its result is one block of keys and values, and
//! the scores of one tile of queries.

use std::{cell::RefCell, hint::black_box, ops::Range};

use rayon::prelude::*;

use crate::{
    Level,
    epilogue::{read_line, write_line},
    math,
    packed::Line,
    product::UNROLLED,
    simd::{Kernel, Out, PANEL, Simd, by_height},
};

/// How many of what.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Pictures or texts.
    pub batch: usize,
    /// Rows of q for each.
    pub queries: usize,
    /// Rows of k and v for each.
    pub keys: usize,
    /// Heads, side by side in a row.
    pub heads: usize,
    /// Values of a head.
    pub head_dim: usize,
}

/// `[batch, rows, heads * head_dim]`, perhaps inside of something larger.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// From the first value on.
    pub values: &'a [f32],
    /// From one element of the batch to the next; 0 repeats one.
    pub batch_stride: usize,
    /// From one row to the next.
    pub row_stride: usize,
}

/// Keys of a block: with 64 values a head, keys and values of so many fill a quarter of a second-level cache of
/// 512 KiB. A whole number of panels.
const KEYS: usize = 256;

/// Fewest queries of a task where a head is cut among several: each of them packs the keys anew.
const QUERIES: usize = 48;

/// `softmax(q k^T / sqrt(head_dim)) v`, head by head.
///
/// * `[q, k, v]`: `[batch, queries, width]` and twice `[batch, keys, width]`, width being heads times head_dim
/// * returns `[batch, queries, width]`
///
/// Runs on the threads of the current pool.
///
/// # Panics
/// If there is nothing to attend to, or a view ends before its last row does.
#[must_use]
pub fn attention(level: Level, shape: Shape, [q, k, v]: [Rows<'_>; 3]) -> Vec<f32> {
    let width = shape.heads * shape.head_dim;
    let count = shape.batch * shape.queries * width;
    assert!(count > 0 && shape.keys > 0, "{shape:?}");
    for (view, rows) in [(q, shape.queries), (k, shape.keys), (v, shape.keys)] {
        let last = (shape.batch - 1) * view.batch_stride + (rows - 1) * view.row_stride;
        assert!(view.values.len() >= last + width, "{shape:?}: a view of {}", view.values.len());
    }
    let mut mixed = Vec::<f32>::with_capacity(count);
    let out = Out(mixed.as_mut_ptr());
    let heads = shape.batch * shape.heads;
    let wanted = (4 * rayon::current_num_threads()).div_ceil(heads);
    let cuts = wanted.min(shape.queries / QUERIES).max(1);
    let queries = shape.queries.div_ceil(cuts).next_multiple_of(12);
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
        SCRATCH.with_borrow_mut(|scratch| level.run(Task { head, scratch }));
    });
    // SAFETY: the tasks cover every query of every head, and each writes all values of its own.
    unsafe { mixed.set_len(count) };
    mixed
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// What a task needs beside its result; kept for the thread's next one.
struct Scratch {
    /// Panels of 16 keys: in each a line for each value of a head.
    keys: Vec<Line<f32>>,
    /// Panels of 16 values of a head: in each a line for each key.
    values: Vec<Line<f32>>,
    /// Rows of a tile: in each a score for each key.
    scores: Vec<Line<f32>>,
    /// Of each query the largest score so far, and the sum of the exponentials over it.
    sums: Vec<(f32, f32)>,
}

impl Scratch {
    const fn new() -> Self {
        Self { keys: Vec::new(), values: Vec::new(), scores: Vec::new(), sums: Vec::new() }
    }
}

/// Some queries of one head of one picture or text.
struct Head<'a> {
    shape: Shape,
    views: [Rows<'a>; 3],
    batch: usize,
    /// Of the head's first value.
    column: usize,
    queries: Range<usize>,
    out: Out,
}

impl Head<'_> {
    /// The values from a row's first one of this head on.
    fn row(&self, view: usize, row: usize) -> &[f32] {
        let view = &self.views[view];
        &view.values[self.batch * view.batch_stride + row * view.row_stride + self.column..]
    }

    /// Packs a block of keys and values.
    fn pack(&self, block: &Range<usize>, scratch: &mut Scratch) {
        const ZEROS: Line<f32> = Line([0.0; PANEL]);
        let dim = self.shape.head_dim;
        scratch.keys.clear();
        scratch.keys.resize(block.len().div_ceil(PANEL) * dim, ZEROS);
        for (panel, lines) in scratch.keys.chunks_exact_mut(dim).enumerate() {
            let first = block.start + panel * PANEL;
            for lane in 0..PANEL.min(block.end - first) {
                for (line, &value) in lines.iter_mut().zip(self.row(1, first + lane)) {
                    line.0[lane] = value;
                }
            }
        }
        scratch.values.clear();
        scratch.values.resize(dim.div_ceil(PANEL) * block.len(), ZEROS);
        for (index, key) in block.clone().enumerate() {
            let values = &self.row(2, key)[..dim];
            for (panel, values) in values.chunks(PANEL).enumerate() {
                let line = &mut scratch.values[panel * block.len() + index];
                line.0[..values.len()].copy_from_slice(values);
            }
        }
    }
}

struct Task<'a> {
    head: Head<'a>,
    scratch: &'a mut Scratch,
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { head, scratch } = self;
        let keys = head.shape.keys;
        scratch.scores.resize(S::ROWS * KEYS / PANEL, Line([0.0; PANEL]));
        scratch.sums.clear();
        scratch.sums.resize(head.queries.len(), (f32::NEG_INFINITY, 0.0));
        for start in (0..keys).step_by(KEYS) {
            let block = start..keys.min(start + KEYS);
            head.pack(&block, scratch);
            for query in head.queries.clone().step_by(S::ROWS) {
                let rows = head.queries.end - query;
                by_height!(S, rows, HEIGHT => head.tile::<S, HEIGHT>(simd, query, &block, scratch));
            }
        }
    }
}

impl Head<'_> {
    /// Takes a block of keys into the sums of some queries.
    #[inline(always)]
    fn tile<S: Simd, const HEIGHT: usize>(
        &self,
        simd: S,
        query: usize,
        block: &Range<usize>,
        scratch: &mut Scratch,
    ) {
        let dim = self.shape.head_dim;
        let padded = block.len().next_multiple_of(PANEL);
        let (is_first, is_last) = (block.start == 0, block.end == self.shape.keys);
        let scores = scratch.scores.as_mut_ptr().cast::<f32>();
        // Read only where it is checked: `attention` saw that the last row ends inside of the view.
        let q = self.row(0, query).as_ptr();
        for (panel, lines) in scratch.keys.chunks_exact(dim).enumerate() {
            let mut sums = [[simd.splat(0.0); 2]; HEIGHT];
            // SAFETY: `HEIGHT` queries are left, of `dim` values each; a panel has `dim` lines.
            unsafe {
                let q = (q, self.views[0].row_stride);
                multiply(simd, q, (lines.as_ptr().cast(), PANEL), dim, &mut sums);
            }
            for (row, sums) in sums.iter().enumerate() {
                // SAFETY: `scores` has `ROWS` rows of `KEYS` values, which are whole panels.
                unsafe {
                    write_line(simd, scores.add(row * KEYS + panel * PANEL), &(0..PANEL), sums);
                }
            }
        }
        let scale = (dim as f32).powf(-0.5);
        let mut factors = [1f32; HEIGHT];
        for (row, factor) in factors.iter_mut().enumerate() {
            // SAFETY: as above; nothing else refers to the row.
            let scores = unsafe { std::slice::from_raw_parts_mut(scores.add(row * KEYS), padded) };
            let sums = &mut scratch.sums[query - self.queries.start + row];
            *factor = soften(simd, scores, block.len(), scale, sums);
        }
        let out_stride = self.shape.heads * dim;
        let out = (self.batch * self.shape.queries + query) * out_stride + self.column;
        for (panel, lines) in scratch.values.chunks_exact(block.len()).enumerate() {
            let lanes = 0..PANEL.min(dim - panel * PANEL);
            let place = |row: usize| out + row * out_stride + panel * PANEL;
            let mut sums = [[simd.splat(0.0); 2]; HEIGHT];
            if !is_first {
                for ((row, sums), factor) in sums.iter_mut().enumerate().zip(factors) {
                    // SAFETY: the block before has written them, and nobody else has them.
                    *sums = unsafe { read_line(simd, self.out.0.add(place(row)), &lanes) };
                    *sums = sums.map(|sum| simd.mul(sum, simd.splat(factor)));
                }
            }
            // SAFETY: `HEIGHT` rows of scores, a value for each key; a panel has a line for each.
            unsafe {
                let lines = (lines.as_ptr().cast(), PANEL);
                multiply(simd, (scores.cast_const(), KEYS), lines, block.len(), &mut sums);
            }
            for (row, sums) in sums.iter().enumerate() {
                let (_, sum) = scratch.sums[query - self.queries.start + row];
                let factor = simd.splat(if is_last { 1.0 / sum } else { 1.0 });
                let values = sums.map(|sum| simd.mul(sum, factor));
                // SAFETY: the task's own rows, and values of the head.
                unsafe { write_line(simd, self.out.0.add(place(row)), &lanes, &values) };
            }
        }
    }
}

/// Turns scores into exponentials over the largest one so far, and takes them into the sum.
///
/// * `count`: the scores that are some; those behind them become 0
/// * returns what the sums before must be multiplied with
#[inline(always)]
fn soften<S: Simd>(
    simd: S,
    scores: &mut [f32],
    count: usize,
    scale: f32,
    (largest, total): &mut (f32, f32),
) -> f32 {
    scores[count..].fill(f32::NEG_INFINITY);
    let mut most = [simd.splat(f32::NEG_INFINITY); 2];
    for scores in scores.chunks_exact(PANEL) {
        for (most, scores) in most.iter_mut().zip(scores.chunks_exact(S::LANES)) {
            *most = simd.max(simd.load_slice(scores), *most);
        }
    }
    let before = *largest;
    let highest = simd.max_of(simd.max(most[0], most[1])) * scale;
    *largest = if highest > before { highest } else { before };
    let (scales, shift) = (simd.splat(scale), simd.splat(-*largest));
    let mut sums = simd.splat(0.0);
    for scores in scores.chunks_exact_mut(S::LANES) {
        let p = math::exp(simd, simd.mul_add(simd.load_slice(scores), scales, shift));
        simd.store_slice(scores, p);
        sums = simd.add(sums, p);
    }
    let factor = if before == *largest { 1.0 } else { (before - *largest).exp() };
    *total = *total * factor + simd.sum(sums);
    factor
}

/// Adds to `sums` the product of `HEIGHT` rows and 16 columns.
///
/// * `x`: the first value, and how far apart rows are
/// * `lines`: the first of 16 values for each input, and how far apart inputs are
///
/// # Safety
/// `depth` values of each row and lines of 16 values are readable.
#[inline(always)]
unsafe fn multiply<S: Simd, const HEIGHT: usize>(
    simd: S,
    x: (*const f32, usize),
    lines: (*const f32, usize),
    depth: usize,
    sums: &mut [[S::F; 2]; HEIGHT],
) {
    let mut local = *sums;
    // So many pointers fit the registers. The box keeps the compiler from adding up each of them anew, from the first
    // and the distance, for every input: a quarter of all instructions.
    let rows: [*const f32; HEIGHT] =
        black_box(std::array::from_fn(|row| x.0.wrapping_add(row * x.1)));
    let step = |input: usize, local: &mut [[S::F; 2]; HEIGHT]| {
        // SAFETY: the caller's promise.
        unsafe {
            let weights = read_line(simd, lines.0.add(input * lines.1), &(0..PANEL));
            for (row, sums) in rows.iter().zip(local) {
                let value = simd.splat(*row.add(input));
                for (sum, weights) in sums.iter_mut().zip(weights).take(PANEL / S::LANES) {
                    *sum = simd.mul_add(value, weights, *sum);
                }
            }
        }
    };
    let whole = depth / UNROLLED * UNROLLED;
    for input in (0..whole).step_by(UNROLLED) {
        for ahead in 0..UNROLLED {
            step(input + ahead, &mut local);
        }
    }
    for input in whole..depth {
        step(input, &mut local);
    }
    *sums = local;
}
