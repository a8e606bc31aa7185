//! The input of a product in the order in which its register tiles read it.

use std::{mem::MaybeUninit, ops::Range};

use rayon::prelude::*;

use crate::{
    Level,
    simd::{Kernel, Simd},
};

/// Tiles of adjacent rows, one after the other; in a tile the rows' values of the first input, then of the second.
///
/// Read in place, the rows of a tile are apart by a multiple of 4 KiB in many layers, and share few of a cache's sets.
#[derive(Debug)]
pub(crate) struct Tiles {
    values: Vec<f32>,
    rows: usize,
    /// Rows of a tile. The last one repeats the last row to the end.
    height: usize,
    depth: usize,
}

impl Tiles {
    /// Copies `[rows, depth]`, spread over the threads of the current pool.
    pub(crate) fn pack(level: Level, x: &[f32], depth: usize) -> Self {
        let (rows, height) = (x.len() / depth, level.run(Height));
        let tiles = rows.div_ceil(height);
        // Few tasks: a copy is soon done.
        let per_task = tiles.div_ceil(rayon::current_num_threads());
        let count = tiles * height * depth;
        let mut values = Vec::<f32>::with_capacity(count);
        let tasks = values.spare_capacity_mut()[..count].par_chunks_mut(per_task * height * depth);
        tasks.enumerate().for_each(|(task, values)| {
            level.run(Pack { x, depth, first: task * per_task * height, values });
        });
        // SAFETY: each task has whole tiles, and writes every row of them.
        unsafe { values.set_len(count) };
        Self { values, rows, height, depth }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn height(&self) -> usize {
        self.height
    }

    /// Some inputs of the tile that begins with a row.
    #[inline(always)]
    pub(crate) fn inputs(&self, row: usize, inputs: Range<usize>) -> &[f32] {
        debug_assert!(row.is_multiple_of(self.height));
        let tile = &self.values[row * self.depth..][..self.height * self.depth];
        &tile[inputs.start * self.height..inputs.end * self.height]
    }
}

struct Height;

impl Kernel for Height {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        S::ROWS
    }
}

struct Pack<'a> {
    x: &'a [f32],
    depth: usize,
    /// Row of the first tile.
    first: usize,
    values: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let last = self.x.len() / self.depth - 1;
        let tiles = self.values.chunks_exact_mut(S::ROWS * self.depth);
        for (row, tile) in (self.first..).step_by(S::ROWS).zip(tiles) {
            for (index, row) in (row..row + S::ROWS).enumerate() {
                let values = &self.x[row.min(last) * self.depth..][..self.depth];
                for (inputs, &value) in tile.chunks_exact_mut(S::ROWS).zip(values) {
                    inputs[index].write(value);
                }
            }
        }
    }
}
