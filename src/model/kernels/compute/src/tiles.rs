//! The input of a product in the order in which its register tiles read it.

use std::{mem::MaybeUninit, ops::Range};

use rayon::prelude::*;

use crate::{
    Level,
    operand::Operand,
    simd::{Kernel, Simd},
};

/// Tiles of adjacent rows, one after the other; in a tile the rows' first words, then their second.
///
/// Read in place, the rows of a tile are apart by a multiple of 4 KiB in many layers, and share few of a cache's sets.
#[derive(Debug)]
pub(crate) struct Tiles<T> {
    words: Vec<T>,
    rows: usize,
    /// Rows of a tile. The last one repeats the last row to the end.
    height: usize,
    /// Words of a row.
    depth: usize,
}

impl<T: Operand> Tiles<T> {
    /// Copies `[rows, depth]`, spread over the threads of the current pool.
    pub(crate) fn pack(level: Level, x: &[f32], depth: usize) -> Self {
        let (rows, height) = (x.len() / depth, level.run(Height));
        let words = depth.div_ceil(T::INPUTS);
        let tiles = rows.div_ceil(height);
        // Few tasks: a copy is soon done.
        let per_task = tiles.div_ceil(rayon::current_num_threads());
        let count = tiles * height * words;
        let mut out = Vec::<T>::with_capacity(count);
        let tasks = out.spare_capacity_mut()[..count].par_chunks_mut(per_task * height * words);
        tasks.enumerate().for_each(|(task, words)| {
            level.run_on_pairs(Pack { x, depth, first: task * per_task * height, words });
        });
        // SAFETY: each task has whole tiles, and writes every row of them.
        unsafe { out.set_len(count) };
        Self { words: out, rows, height, depth: words }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Words of a row.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    pub(crate) fn height(&self) -> usize {
        self.height
    }

    /// Some words of each row of the tile that begins with a row.
    #[inline(always)]
    pub(crate) fn words(&self, row: usize, words: Range<usize>) -> &[T] {
        debug_assert!(row.is_multiple_of(self.height));
        let tile = &self.words[row * self.depth..][..self.height * self.depth];
        &tile[words.start * self.height..words.end * self.height]
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

struct Pack<'a, T> {
    x: &'a [f32],
    depth: usize,
    /// Row of the first tile.
    first: usize,
    words: &'a mut [MaybeUninit<T>],
}

impl<T: Operand> Kernel for Pack<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let last = self.x.len() / self.depth - 1;
        // Words of whole squares, but for those behind which there is no room for what a column has beside rows.
        let whole = (self.depth / T::INPUTS + 1).saturating_sub(S::LANES.div_ceil(S::ROWS));
        let whole = whole / S::LANES * S::LANES;
        let tiles = self.words.chunks_exact_mut(S::ROWS * self.depth.div_ceil(T::INPUTS));
        for (first, tile) in (self.first..).step_by(S::ROWS).zip(tiles) {
            let row = |index: usize| {
                let row = (first + index.min(S::ROWS - 1)).min(last);
                &self.x[row * self.depth..][..self.depth]
            };
            for word in (0..whole).step_by(S::LANES) {
                let rows = |index| {
                    let values = &row(index)[word * T::INPUTS..][..S::LANES * T::INPUTS];
                    // SAFETY: so many values.
                    unsafe { T::gather(simd, values.as_ptr()) }
                };
                simd.transpose(rows, |index, column| {
                    let words = &mut tile[(word + index) * S::ROWS..][..S::LANES];
                    // SAFETY: so many words, of 32 bits. Those of the next input are written again.
                    unsafe { simd.store_i32(words.as_mut_ptr().cast(), column) };
                });
            }
            for index in 0..S::ROWS {
                let words = tile[whole * S::ROWS..].chunks_exact_mut(S::ROWS);
                for (words, values) in words.zip(row(index)[whole * T::INPUTS..].chunks(T::INPUTS))
                {
                    words[index].write(T::of(values));
                }
            }
        }
    }
}
