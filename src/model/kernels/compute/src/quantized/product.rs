//! The product of bytes, after a pass over the inputs that makes them bytes.

use std::{hint::black_box, iter::repeat, mem::MaybeUninit, ops::Range};

use rayon::prelude::*;

use super::{Bytes, Factors, GROUP, QuantizedColumns};
use crate::{
    Epilogue, Level,
    epilogue::{Place, read_line},
    product::{Tasks, checked_rows},
    simd::{Kernel, Out, PANEL, Room, Simd},
};

/// `f(x W^T + b) + residual`, as [`product`](crate::product), with `x` rounded to bytes row by row.
///
/// * `x`: `[rows, depth]`, row-major
/// * returns `[rows, columns]`; a row of which a value is infinite or not a number gives none that is one
///
/// Runs on the threads of the current pool. A row's result does not depend on the other rows or on the number of
/// threads.
///
/// # Panics
/// If `x` is no whole number of rows, if the residual's rows do not repeat into the result's, or if the weights were
/// packed for a level with room for more.
#[must_use]
pub fn quantized_product(
    level: Level,
    x: &[f32],
    weights: &QuantizedColumns<'_>,
    epilogue: Epilogue<'_>,
) -> Vec<f32> {
    let (depth, columns) = (weights.layer.depth(), weights.columns.len());
    let rows = checked_rows(x, (depth, columns), &epilogue);
    let (room, own) = (weights.layer.room(), level.run_on_bytes(super::Ask));
    assert!(own == Room::Any || own == room, "weights packed for another level");
    let mut y = Vec::<f32>::with_capacity(rows * columns);
    if rows * columns > 0 {
        let inputs = Inputs::new(level, x, depth, room.largest_input());
        let out = Out(y.as_mut_ptr());
        let shape = (rows, TILE_ROWS);
        let threads = rayon::current_num_threads();
        let tasks = Tasks::new(shape, depth.div_ceil(4), &weights.columns, threads);
        (0..tasks.count()).into_par_iter().with_max_len(1).for_each(|index| {
            let (rows, panels) = tasks.get(index);
            let (inputs, epilogue) = (&inputs, &epilogue);
            level.run_on_bytes(Block { inputs, weights, epilogue, out, rows, panels });
        });
    }
    // SAFETY: the tasks cover every row and every panel that has a column of `weights`, and each writes all values
    // of its own.
    unsafe { y.set_len(rows * columns) };
    y
}

/// Rows of bytes.
pub(crate) struct Inputs {
    /// Rows of whole groups, filled up with zeros.
    bytes: Vec<u8>,
    row_bytes: usize,
    rows: Vec<Row>,
}

/// What a row's bytes stand for: `lowest + scale * byte`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Row {
    pub(crate) lowest: f32,
    pub(crate) scale: f32,
}

/// Rows of a task of the pass over the inputs: some 20 us of work at a width of 768.
const ROWS: usize = 32;

/// A whole number of tiles of every set.
const TILE_ROWS: usize = 12;

impl Inputs {
    pub(crate) fn new(level: Level, x: &[f32], depth: usize, largest: u8) -> Self {
        let row_bytes = depth.next_multiple_of(GROUP);
        let count = x.len() / depth;
        let mut bytes = Vec::<u8>::with_capacity(count * row_bytes);
        let mut rows = vec![Row::default(); count];
        let places =
            bytes.spare_capacity_mut()[..count * row_bytes].par_chunks_mut(ROWS * row_bytes);
        let places = places.zip(rows.par_chunks_mut(ROWS));
        places.zip(x.par_chunks(ROWS * depth)).for_each(|((bytes, rows), x)| {
            level.run(Quantize { x, depth, bytes, rows, largest: f32::from(largest) });
        });
        // SAFETY: each task has whole rows, and writes every byte of them.
        unsafe { bytes.set_len(count * row_bytes) };
        Self { bytes, row_bytes, rows }
    }

    #[cfg(test)]
    pub(crate) fn row(&self, row: usize) -> (&[u8], Row) {
        (&self.bytes[row * self.row_bytes..][..self.row_bytes], self.rows[row])
    }
}

struct Quantize<'a> {
    x: &'a [f32],
    depth: usize,
    bytes: &'a mut [MaybeUninit<u8>],
    rows: &'a mut [Row],
    largest: f32,
}

impl Kernel for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let row_bytes = self.depth.next_multiple_of(GROUP);
        let places = self.bytes.chunks_exact_mut(row_bytes).zip(self.rows);
        for ((bytes, row), x) in places.zip(self.x.chunks_exact(self.depth)) {
            let (lowest, highest, finite) = extent(simd, x);
            let scale = (highest - lowest) / self.largest;
            let inverse = self.largest / (highest - lowest);
            *row = match finite && scale.is_finite() {
                // A row of one value, or as good as that, is all zeros above its lowest.
                true if !inverse.is_finite() => Row { lowest, scale: 0.0 },
                true => Row { lowest, scale },
                false => Row { lowest: f32::NAN, scale: f32::NAN },
            };
            let (lowest, inverse) = (simd.splat(lowest), simd.splat(inverse.min(f32::MAX)));
            let highest = simd.splat(self.largest);
            // In this order what is not a number becomes zero.
            let step = |x| {
                let step = simd.mul(simd.sub(x, lowest), inverse);
                simd.min(simd.max(step, simd.splat(0.0)), highest)
            };
            let whole = x.len() / S::LANES * S::LANES;
            for (to, x) in bytes.chunks_exact_mut(S::LANES).zip(x.chunks_exact(S::LANES)) {
                // SAFETY: as many bytes are there.
                unsafe { simd.store_u8(to.as_mut_ptr().cast(), step(simd.load_slice(x))) };
            }
            let mut last = [0u8; PANEL];
            // SAFETY: no vector has more lanes than a panel has columns.
            unsafe { simd.store_u8(last.as_mut_ptr(), step(simd.load_slice(&x[whole..]))) };
            // The rest of the row, and zeros up to a whole group.
            last[x.len() - whole..].fill(0);
            for (to, from) in bytes[whole..].iter_mut().zip(last.into_iter().chain(repeat(0))) {
                to.write(from);
            }
        }
    }
}

/// The lowest and the highest value, and whether all are finite; if they are not, the others mean nothing.
#[inline(always)]
fn extent<S: Simd>(simd: S, x: &[f32]) -> (f32, f32, bool) {
    let mut lowest = simd.splat(f32::INFINITY);
    let mut highest = simd.splat(f32::NEG_INFINITY);
    let mut nothing = simd.splat(0.0);
    let mut chunks = x.chunks_exact(S::LANES);
    for values in &mut chunks {
        let values = simd.load_slice(values);
        lowest = simd.min(values, lowest);
        highest = simd.max(values, highest);
        // Zero times any number is zero.
        nothing = simd.mul_add(values, simd.splat(0.0), nothing);
    }
    let negated = simd.sub(simd.splat(0.0), lowest);
    let mut extent = (-simd.max_of(negated), simd.max_of(highest));
    let mut nothing = simd.sum(nothing);
    for &value in chunks.remainder() {
        extent = (extent.0.min(value), extent.1.max(value));
        nothing += value * 0.0;
    }
    (extent.0, extent.1, nothing == 0.0)
}

/// One task: some rows times some panels.
struct Block<'a> {
    inputs: &'a Inputs,
    weights: &'a QuantizedColumns<'a>,
    epilogue: &'a Epilogue<'a>,
    out: Out,
    rows: Range<usize>,
    panels: Range<usize>,
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // A panel is a quarter of one of f32: a first-level cache holds most of it, or all, without a cut.
        for panel in self.panels.clone() {
            let groups = self.weights.layer.panel(panel);
            let ahead = groups.len().div_ceil(self.rows.len().div_ceil(S::BYTE_ROWS));
            let mut next = match panel + 1 < self.panels.end {
                true => self.weights.layer.panel(panel + 1).iter(),
                false => [].iter(),
            };
            let mut row = self.rows.start;
            while row < self.rows.end {
                // The next panel is on its way while this one is worked on, a part with each tile.
                for group in next.by_ref().take(ahead) {
                    simd.prefetch(group.0.as_ptr());
                    simd.prefetch(group.0.as_ptr().wrapping_add(PANEL * GROUP / 2));
                }
                // A few heights instead of all: each is code for each set.
                row += match (self.rows.end - row).min(S::BYTE_ROWS) {
                    12.. if S::BYTE_ROWS >= 12 => self.tile::<S, 12>(simd, panel, row),
                    4.. if S::BYTE_ROWS >= 4 => self.tile::<S, 4>(simd, panel, row),
                    2.. => self.tile::<S, 2>(simd, panel, row),
                    _ => self.tile::<S, 1>(simd, panel, row),
                };
            }
        }
    }
}

impl Block<'_> {
    /// * returns the tile's height
    #[inline(always)]
    fn tile<S: Simd, const HEIGHT: usize>(&self, simd: S, panel: usize, first: usize) -> usize {
        let (layer, inputs) = (self.weights.layer, self.inputs);
        let place = Place::new(&self.weights.columns, panel);
        // SAFETY: rows of `inputs` that the task has, each of as many groups as the panel.
        let sums: [[S::I; 2]; HEIGHT] = unsafe {
            let bytes = inputs.bytes.as_ptr().add(first * inputs.row_bytes);
            multiply(simd, (bytes, inputs.row_bytes), layer.panel(panel))
        };
        let factors = &layer.factors[panel];
        let rows = &inputs.rows[first..first + HEIGHT];
        let values = dequantize(simd, &sums, factors, rows);
        // SAFETY: the task's own values.
        unsafe { place.finish(simd, (self.epilogue, &factors.bias.0), (self.out, first), values) };
        HEIGHT
    }
}

#[inline(always)]
fn dequantize<S: Simd, const HEIGHT: usize>(
    simd: S,
    sums: &[[S::I; 2]; HEIGHT],
    factors: &Factors,
    rows: &[Row],
) -> [[S::F; 2]; HEIGHT] {
    let mut values = [[simd.splat(0.0); 2]; HEIGHT];
    // SAFETY: lines have 16 values.
    let (scales, totals) = unsafe {
        (
            read_line(simd, factors.scales.0.as_ptr(), &(0..PANEL)),
            read_line(simd, factors.totals.0.as_ptr(), &(0..PANEL)),
        )
    };
    for ((values, sums), row) in values.iter_mut().zip(sums).zip(rows) {
        for index in 0..PANEL / S::LANES {
            let above = simd.mul(simd.to_f32(sums[index]), simd.splat(row.scale));
            let sum = simd.mul_add(totals[index], simd.splat(row.lowest), above);
            values[index] = simd.mul(sum, scales[index]);
        }
    }
    values
}

/// The sums of products of `HEIGHT` rows and 16 columns.
///
/// * `x`: the first byte, and how far apart rows are
///
/// # Safety
/// As many groups of bytes of each row are readable as there are of weights.
#[inline(always)]
unsafe fn multiply<S: Simd, const HEIGHT: usize>(
    simd: S,
    x: (*const u8, usize),
    groups: &[Bytes],
) -> [[S::I; 2]; HEIGHT] {
    let mut sums = [[simd.splat_i32(0); 2]; HEIGHT];
    // As in the product of floats: so many pointers fit the registers.
    let rows: [*const u8; HEIGHT] =
        black_box(std::array::from_fn(|row| x.0.wrapping_add(row * x.1)));
    for (index, group) in groups.iter().enumerate() {
        let mut weights = [[simd.splat_i32(0); 2]; 2];
        for (vector, weights) in weights.iter_mut().enumerate().take(PANEL / S::LANES) {
            for (half, weights) in weights.iter_mut().enumerate() {
                let from = group.0.as_ptr().wrapping_add((half * PANEL + vector * S::LANES) * 4);
                // SAFETY: a group has two times four bytes for each of 16 columns.
                *weights = unsafe { simd.load_i32(from.cast()) };
            }
        }
        for (row, sums) in rows.iter().zip(&mut sums) {
            let inputs = [0, 4].map(|half| {
                // SAFETY: the caller's promise.
                let four = unsafe { row.add(index * GROUP + half).cast::<i32>().read_unaligned() };
                simd.splat_i32(four)
            });
            for (sum, weights) in sums.iter_mut().zip(weights).take(PANEL / S::LANES) {
                *sum = simd.add_products(inputs, weights, *sum);
            }
        }
    }
    sums
}
