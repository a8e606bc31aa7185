//! The product of bytes, after a pass over the inputs that makes them bytes.

use std::{hint::black_box, iter::repeat, mem::MaybeUninit, ops::Range};

use rayon::prelude::*;

use super::{Bytes, Factors, GROUP, QuantizedColumns};
use crate::{
    Epilogue, Level,
    epilogue::Places,
    packed::{Ahead, Line},
    product::{Tasks, checked_rows, panels_of},
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
        let layer = self.weights.layer;
        // A panel is a quarter of one of f32: a first-level cache holds most of it, or all, without a cut.
        for panel in self.panels.clone().step_by(panels_of::<S>()) {
            // One that is left over goes along with itself.
            let panels = [panel, self.panels.end.min(panel + panels_of::<S>()) - 1];
            let behind = panels[1] + 1..self.panels.end.min(panels[1] + 1 + panels_of::<S>());
            let steps = self.rows.len().div_ceil(S::BYTE_ROWS) * layer.groups_of_panel();
            // The next panels are on their way while these are worked on.
            let mut ahead = Ahead::new(layer.panels(behind), steps);
            let mut row = self.rows.start;
            while row < self.rows.end {
                // A few heights instead of all: each is code for each set.
                row += match (self.rows.end - row).min(S::BYTE_ROWS) {
                    12.. if S::BYTE_ROWS >= 12 => self.tile::<S, 12>(simd, panels, row, &mut ahead),
                    4.. if S::BYTE_ROWS >= 4 => self.tile::<S, 4>(simd, panels, row, &mut ahead),
                    2.. => self.tile::<S, 2>(simd, panels, row, &mut ahead),
                    _ => self.tile::<S, 1>(simd, panels, row, &mut ahead),
                };
            }
        }
    }
}

impl Block<'_> {
    /// * returns the tile's height
    #[inline(always)]
    fn tile<S: Simd, const HEIGHT: usize>(
        &self,
        simd: S,
        panels: [usize; 2],
        first: usize,
        ahead: &mut Ahead,
    ) -> usize {
        let (layer, inputs) = (self.weights.layer, self.inputs);
        let groups = panels.map(|panel| layer.panels(panel..panel + 1));
        // SAFETY: rows of `inputs` that the task has, each of as many groups as the panels.
        let sums: [[S::I; 2]; HEIGHT] = unsafe {
            let bytes = inputs.bytes.as_ptr().add(first * inputs.row_bytes);
            multiply(simd, (bytes, inputs.row_bytes), groups, ahead)
        };
        let factors = panels.map(|panel| &layer.factors[panel]);
        let rows = &inputs.rows[first..first + HEIGHT];
        let values = dequantize(simd, &sums, factors, rows);
        let places = Places::new::<S>(&self.weights.columns, panels);
        // SAFETY: the task's own values.
        unsafe { places.finish(simd, self.epilogue, (self.out, first), values) };
        HEIGHT
    }
}

/// The values that sums stand for, with the bias.
#[inline(always)]
fn dequantize<S: Simd, const HEIGHT: usize>(
    simd: S,
    sums: &[[S::I; 2]; HEIGHT],
    factors: [&Factors; 2],
    rows: &[Row],
) -> [[S::F; 2]; HEIGHT] {
    let vectors = |line: fn(&Factors) -> &Line<f32>| {
        let [first, second] = factors.map(|factors| &line(factors).0);
        [simd.load_slice(first), simd.load_slice(&second[PANEL - S::LANES..])]
    };
    let scales = vectors(|factors| &factors.scales);
    let totals = vectors(|factors| &factors.totals);
    let bias = vectors(|factors| &factors.bias);
    let mut values = [[simd.splat(0.0); 2]; HEIGHT];
    for ((values, sums), row) in values.iter_mut().zip(sums).zip(rows) {
        let (scale, lowest) = (simd.splat(row.scale), simd.splat(row.lowest));
        for (vector, value) in values.iter_mut().enumerate() {
            let above = simd.mul(simd.to_f32(sums[vector]), scale);
            let sum = simd.mul_add(totals[vector], lowest, above);
            *value = simd.mul_add(sum, scales[vector], bias[vector]);
        }
    }
    values
}

/// The sums of products of `HEIGHT` rows and two vectors of columns.
///
/// * `x`: the first byte, and how far apart rows are
/// * `groups`: of the panel of each vector
///
/// # Safety
/// As many groups of bytes of each row are readable as there are of weights.
#[inline(always)]
unsafe fn multiply<S: Simd, const HEIGHT: usize>(
    simd: S,
    x: (*const u8, usize),
    groups: [&[Bytes]; 2],
    ahead: &mut Ahead,
) -> [[S::I; 2]; HEIGHT] {
    let mut sums = [[simd.splat_i32(0); 2]; HEIGHT];
    // So many pointers fit the registers; the compiler would add up the distances in the loop.
    let rows: [*const u8; HEIGHT] =
        black_box(std::array::from_fn(|row| x.0.wrapping_add(row * x.1)));
    // That they are one panel's is what the compiler can't know: it would count through both.
    let groups = if panels_of::<S>() == 1 { [groups[0]; 2] } else { groups };
    let mut address = ahead.address;
    for (index, (first, second)) in groups[0].iter().zip(groups[1]).enumerate() {
        simd.prefetch(address);
        address = address.wrapping_add(ahead.stride);
        // SAFETY: a group has two times four bytes for each of 16 columns.
        let weights = unsafe { [load(simd, first, 0), load(simd, second, PANEL - S::LANES)] };
        for (row, sums) in rows.iter().zip(&mut sums) {
            let inputs = [0, 4].map(|half| {
                // SAFETY: the caller's promise.
                let four = unsafe { row.add(index * GROUP + half).cast::<i32>().read_unaligned() };
                simd.splat_i32(four)
            });
            for (sum, weights) in sums.iter_mut().zip(weights) {
                *sum = simd.add_products(inputs, weights, *sum);
            }
        }
    }
    ahead.address = address;
    sums
}

/// The weights of a vector of columns, of the first four inputs and of the others.
///
/// # Safety
/// The panel has as many columns from `column` on.
#[inline(always)]
unsafe fn load<S: Simd>(simd: S, group: &Bytes, column: usize) -> [S::I; 2] {
    let from = group.0.as_ptr().wrapping_add(column * 4);
    // SAFETY: the caller's promise.
    unsafe { [simd.load_i32(from.cast()), simd.load_i32(from.wrapping_add(PANEL * 4).cast())] }
}
