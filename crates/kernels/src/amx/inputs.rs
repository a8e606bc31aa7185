//! Packs the inputs of a product in the order of tiles.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::{Kind, Split, Tile};
use crate::{
    Level,
    simd::{Kernel, PANEL, Simd},
};

/// Rows of a tile.
pub(crate) const ROWS_OF_TILE: usize = 16;

/// Inputs of a row in a tile of bf16.
pub(crate) const VALUES: usize = 32;

/// Rows of inputs as tiles of bf16: the first inputs of 16 rows, then their next inputs, and so on. The last
/// tiles are filled up with zeros.
pub(crate) struct Inputs {
    tiles: Vec<Tile>,
    rows: usize,
    /// Tiles of 16 rows.
    of_rows: usize,
}

impl Inputs {
    /// Copies `[rows, depth]`, spread over the threads of the current pool.
    pub(crate) fn pack<K: Kind>(level: Level, x: &[f32], depth: usize) -> Self {
        let rows = x.len() / depth;
        let of_rows = depth.div_ceil(VALUES) * K::TILES;
        let count = rows.div_ceil(ROWS_OF_TILE);
        let mut tiles = Vec::<Tile>::with_capacity(count * of_rows);
        // There are few tasks, because a copy is fast.
        let per_task = count.div_ceil(rayon::current_num_threads());
        let tasks =
            tiles.spare_capacity_mut()[..count * of_rows].par_chunks_mut(per_task * of_rows);
        tasks.zip(x.par_chunks(per_task * ROWS_OF_TILE * depth)).for_each(|(tiles, x)| {
            level.run_on_pairs(Pack::<K> { x, depth, tiles, kind: std::marker::PhantomData });
        });
        // SAFETY: the tasks cover all tiles, and each task writes every row of its tiles.
        unsafe { tiles.set_len(count * of_rows) };
        Self { tiles, rows, of_rows }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The tiles of the 16 rows from `row` on, which must be a multiple of 16.
    #[inline(always)]
    pub(crate) fn tiles(&self, row: usize) -> &[Tile] {
        debug_assert!(row.is_multiple_of(ROWS_OF_TILE));
        &self.tiles[row / ROWS_OF_TILE * self.of_rows..][..self.of_rows]
    }
}

struct Pack<'a, K> {
    x: &'a [f32],
    depth: usize,
    tiles: &'a mut [MaybeUninit<Tile>],
    kind: std::marker::PhantomData<K>,
}

impl<K: Kind> Kernel for Pack<'_, K> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let of_rows = self.depth.div_ceil(VALUES) * K::TILES;
        let blocks = self.tiles.chunks_exact_mut(of_rows);
        for (tiles, x) in blocks.zip(self.x.chunks(ROWS_OF_TILE * self.depth)) {
            let row = |row: usize| x.chunks_exact(self.depth).nth(row).unwrap_or(&[]);
            // SAFETY: `tiles` has `of_rows` tiles, and the function writes all of them.
            unsafe { pack_rows::<S, K>(simd, row, tiles.as_mut_ptr().cast(), of_rows) };
        }
    }
}

/// Writes the tiles of 16 rows.
///
/// * `row`: the values of each row; fewer than the tiles have, or none, are filled up with zeros
///
/// # Safety
/// `count` tiles are writable from `tiles` on.
#[inline(always)]
pub(crate) unsafe fn pack_rows<'x, S: Simd, K: Kind>(
    simd: S,
    row: impl Fn(usize) -> &'x [f32],
    tiles: *mut Tile,
    count: usize,
) {
    for at in 0..ROWS_OF_TILE {
        let values = row(at);
        for step in 0..count / K::TILES {
            let values = values.get(step * VALUES..).unwrap_or(&[]);
            let mut copy = [0f32; VALUES];
            let values = match values.first_chunk::<VALUES>() {
                Some(values) => values,
                None => {
                    copy[..values.len()].copy_from_slice(values);
                    &copy
                }
            };
            // SAFETY: the caller promises writable tiles; this writes a row of 64 bytes in one tile, or in two.
            unsafe { pack_values::<S, K>(simd, values, tiles.add(step * K::TILES), at) };
        }
    }
}

/// Writes a row of a tile, or of two tiles if values are sums of two bf16.
///
/// # Safety
/// The tiles are writable.
#[inline(always)]
unsafe fn pack_values<S: Simd, K: Kind>(
    simd: S,
    values: &[f32; VALUES],
    tile: *mut Tile,
    row: usize,
) {
    let place = |part: usize| tile.wrapping_add(part).cast::<i32>().wrapping_add(row * PANEL);
    // SAFETY: there are two values for each word, and the caller promises writable tiles.
    let write = |values: &[f32; VALUES], to: *mut i32| unsafe {
        for word in (0..PANEL).step_by(S::LANES) {
            simd.store_i32(to.add(word), simd.load_pairs(values.as_ptr().add(2 * word)));
        }
    };
    if K::TILES == Split::TILES {
        let parts = split(simd, values);
        write(&parts[0], place(0));
        write(&parts[1], place(1));
    } else {
        write(values, place(0));
    }
}

/// Splits values into sums of two: the nearest value with 8 bits of mantissa, and the rest, which is exact.
#[inline(always)]
fn split<S: Simd>(simd: S, values: &[f32; VALUES]) -> [[f32; VALUES]; 2] {
    let mut parts = [[0f32; VALUES]; 2];
    for at in (0..VALUES).step_by(S::LANES) {
        let x = simd.load_slice(&values[at..]);
        // Adding and subtracting a multiple of the value rounds it to the remaining bits.
        let much = simd.mul(x, simd.splat(65537.0));
        let large = simd.sub(much, simd.sub(much, x));
        simd.store_slice(&mut parts[0][at..], large);
        simd.store_slice(&mut parts[1][at..], simd.sub(x, large));
    }
    parts
}
