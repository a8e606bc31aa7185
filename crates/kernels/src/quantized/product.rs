//! The product of bytes, after a pass that converts the inputs to bytes.

use std::{hint::black_box, ops::Range};

use rayon::prelude::*;

use super::{
    Bytes, Factors, GROUP, QuantizedColumns,
    inputs::{Inputs, Order, Row},
};
#[cfg(target_arch = "x86_64")]
use crate::amx;
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
/// * returns `[rows, columns]`; a row with an infinite value or NaN gives only NaN
///
/// Runs on the threads of the current pool. A row's result does not depend on the other rows or on the number of
/// threads.
///
/// # Panics
/// If `x` is not a whole number of rows, if the number of result rows is not a multiple of the
/// residual's rows, or if the weights were packed for a set with a larger range of bytes.
#[must_use]
pub fn quantized_product(
    level: Level,
    x: &[f32],
    weights: &QuantizedColumns<'_>,
    epilogue: Epilogue<'_>,
) -> Vec<f32> {
    let (depth, columns) = (weights.layer.depth(), weights.columns.len());
    let rows = checked_rows(x, (depth, columns), &epilogue);
    let (room, own) = (weights.layer.room(), level.room());
    assert!(own == Room::Any || own == room, "weights packed for another level");
    let mut y = Vec::<f32>::with_capacity(rows * columns);
    if rows * columns > 0 {
        spread(level, x, weights, &epilogue, Out(y.as_mut_ptr()));
    }
    // SAFETY: the tasks cover every row and every panel that has a column of `weights`, and each task writes
    // all of its values.
    unsafe { y.set_len(rows * columns) };
    y
}

/// Rows of a task are a multiple of this, which is a whole number of tiles of every set.
const TILE_ROWS: usize = 12;

/// Spreads a product over the threads.
fn spread(
    level: Level,
    x: &[f32],
    weights: &QuantizedColumns<'_>,
    epilogue: &Epilogue<'_>,
    out: Out,
) {
    let (depth, largest) = (weights.layer.depth(), weights.layer.room().largest_input());
    #[cfg(target_arch = "x86_64")]
    if level.has_tiles() {
        let inputs = Inputs::new(level, (x, depth), largest, Order::Tiles);
        return amx::quantized_product(level, inputs, weights, epilogue, out);
    }
    let inputs = &Inputs::new(level, (x, depth), largest, Order::Rows);
    let shape = (inputs.count(), TILE_ROWS);
    let threads = rayon::current_num_threads();
    let tasks = Tasks::new(shape, depth.div_ceil(4), &weights.columns, threads);
    (0..tasks.count()).into_par_iter().with_max_len(1).for_each(|index| {
        let (rows, panels) = tasks.get(index);
        level.run_on_bytes(Block { inputs, weights, epilogue, out, rows, panels });
    });
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
        // A panel of bytes is a quarter of one of f32, so a first-level cache holds all or most of it without
        // another division.
        for panel in self.panels.clone().step_by(panels_of::<S>()) {
            // An odd last panel is paired with itself.
            let panels = [panel, self.panels.end.min(panel + panels_of::<S>()) - 1];
            let behind = panels[1] + 1..self.panels.end.min(panels[1] + 1 + panels_of::<S>());
            let steps = self.rows.len().div_ceil(S::BYTE_ROWS) * layer.groups_of_panel();
            // The next panels are prefetched while these are multiplied.
            let mut ahead = Ahead::new(layer.panels(behind), steps);
            let mut row = self.rows.start;
            while row < self.rows.end {
                // Only a few heights are compiled, because each of them is separate code for each set.
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
        // SAFETY: these are rows of `inputs` in this task, and each has as many groups as the panels.
        let sums: [[S::I; 2]; HEIGHT] =
            unsafe { multiply(simd, inputs.place(first), groups, ahead) };
        let factors = panels.map(|panel| &layer.factors[panel]);
        let rows = inputs.meanings(first, HEIGHT);
        let values = dequantize(simd, &sums, factors, rows);
        let places = Places::new::<S>(&self.weights.columns, panels);
        // SAFETY: the values belong to this task.
        unsafe { places.finish(simd, self.epilogue, (self.out, first), values) };
        HEIGHT
    }
}

/// Converts sums to values and adds the bias.
#[inline(always)]
pub(crate) fn dequantize<S: Simd, const HEIGHT: usize>(
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

/// Sums of products of `HEIGHT` rows and two vectors of columns.
///
/// * `x`: the address of the first byte, and the distance between rows
/// * `groups`: the groups of each vector's panel
///
/// # Safety
/// Each row has as many readable groups of bytes as there are groups of weights.
#[inline(always)]
unsafe fn multiply<S: Simd, const HEIGHT: usize>(
    simd: S,
    x: (*const u8, usize),
    groups: [&[Bytes]; 2],
    ahead: &mut Ahead,
) -> [[S::I; 2]; HEIGHT] {
    let mut sums = [[simd.splat_i32(0); 2]; HEIGHT];
    // These pointers fit into the registers; otherwise the compiler would add the distances in the loop.
    let rows: [*const u8; HEIGHT] =
        black_box(std::array::from_fn(|row| x.0.wrapping_add(row * x.1)));
    // Tells the compiler that both slices are the same panel, so that it keeps one loop counter.
    let groups = if panels_of::<S>() == 1 { [groups[0]; 2] } else { groups };
    let mut address = ahead.address;
    for (index, (first, second)) in groups[0].iter().zip(groups[1]).enumerate() {
        simd.prefetch(address);
        address = address.wrapping_add(ahead.stride);
        // SAFETY: a group has twice four bytes for each of 16 columns.
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
/// The panel has `LANES` columns from `column` on.
#[inline(always)]
unsafe fn load<S: Simd>(simd: S, group: &Bytes, column: usize) -> [S::I; 2] {
    let from = group.0.as_ptr().wrapping_add(column * 4);
    // SAFETY: the caller's promise.
    unsafe { [simd.load_i32(from.cast()), simd.load_i32(from.wrapping_add(PANEL * 4).cast())] }
}
