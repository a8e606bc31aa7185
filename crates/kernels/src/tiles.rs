//! Packs the input of a product in the order in which its register tiles read it.

use std::{mem::MaybeUninit, ops::Range};

use rayon::prelude::*;

use crate::{
    Level,
    operand::Operand,
    simd::{Kernel, PANEL, Simd},
};

/// Tiles of adjacent rows, one after another. A tile has the first words of its rows, then their second words,
/// and so on.
///
/// Without packing, the rows of a tile would be a multiple of 4 KiB apart in many layers, and would compete for
/// few sets of the cache.
#[derive(Debug)]
pub(crate) struct Tiles<T> {
    words: Vec<T>,
    rows: usize,
    /// Rows of a tile. The last tile repeats the last row.
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
        // There are few tasks, because a copy is fast.
        let per_task = tiles.div_ceil(rayon::current_num_threads());
        let count = tiles * height * words;
        let mut out = Vec::<T>::with_capacity(count);
        let tasks = out.spare_capacity_mut()[..count].par_chunks_mut(per_task * height * words);
        tasks.enumerate().for_each(|(task, words)| {
            level.run_on_pairs(Pack { x, depth, first: task * per_task * height, words });
        });
        // SAFETY: the tasks cover all tiles, and each task writes every row of its tiles.
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

    /// Some words of each row of the tile that begins at `row`.
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
    /// The row of the first tile.
    first: usize,
    words: &'a mut [MaybeUninit<T>],
}

impl<T: Operand> Kernel for Pack<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let last = self.x.len() / self.depth - 1;
        let tiles = self.words.chunks_exact_mut(S::ROWS * self.depth.div_ceil(T::INPUTS));
        for (first, tile) in (self.first..).step_by(S::ROWS).zip(tiles) {
            let row =
                |index: usize| &self.x[(first + index).min(last) * self.depth..][..self.depth];
            pack_tile(simd, row, tile);
        }
    }
}

/// Writes a tile.
///
/// * `row`: the values of each of its `S::ROWS` rows
#[inline(always)]
pub(crate) fn pack_tile<'x, S: Simd, T: Operand>(
    simd: S,
    row: impl Fn(usize) -> &'x [f32],
    tile: &mut [MaybeUninit<T>],
) {
    let words = tile.len() / S::ROWS;
    // A column has more values than a tile has rows; the surplus is overwritten with the next word. For the
    // last words there is no space for a surplus.
    let whole = (words + 1).saturating_sub(S::LANES.div_ceil(S::ROWS));
    transpose::<S, T>(
        simd,
        |index| row(index.min(S::ROWS - 1)),
        |word, column| {
            let place = &mut tile[word * S::ROWS..];
            if word < whole {
                let place = &mut place[..S::LANES];
                // SAFETY: the slice has `LANES` words of 32 bits.
                unsafe { simd.store_i32(place.as_mut_ptr().cast(), column) };
            } else {
                let mut lanes = [0i32; PANEL];
                // SAFETY: the array has `PANEL` words, a vector has at most as many lanes, and a word is an
                // i32.
                unsafe {
                    simd.store_i32(lanes.as_mut_ptr(), column);
                    let place = place[..S::ROWS].as_mut_ptr().cast::<i32>();
                    place.copy_from_nonoverlapping(lanes.as_ptr(), S::ROWS);
                }
            }
        },
    );
}

/// Calls `column` with the words of `LANES` rows: the first word of each row, then the second.
///
/// * `row`: the values of a row, the same number in each
#[inline(always)]
pub(crate) fn transpose<'x, S: Simd, T: Operand>(
    simd: S,
    row: impl Fn(usize) -> &'x [f32],
    mut column: impl FnMut(usize, S::I),
) {
    let words = row(0).len().div_ceil(T::INPUTS);
    for first in (0..words).step_by(S::LANES) {
        let whole = S::LANES * T::INPUTS;
        let values = |index| {
            let values = &row(index)[first * T::INPUTS..];
            if values.len() >= whole {
                // SAFETY: the slice has the values of `LANES` words.
                return unsafe { T::gather(simd, values.as_ptr()) };
            }
            let mut copy = [0f32; 2 * PANEL];
            copy[..values.len()].copy_from_slice(values);
            // SAFETY: `copy` has the values of `LANES` words.
            unsafe { T::gather(simd, copy.as_ptr()) }
        };
        simd.transpose(values, |index, of_all| {
            if first + index < words {
                column(first + index, of_all);
            }
        });
    }
}
