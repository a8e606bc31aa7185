//! Converts the inputs of a product to bytes.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::{GROUP, GROUPS};
#[cfg(target_arch = "x86_64")]
use crate::amx::{ROWS_OF_TILE, Tile};
use crate::{
    Level,
    simd::{Kernel, PANEL, Simd},
};

/// Maximum number of bytes of a row that are multiplied together.
const CHUNK: usize = GROUP * GROUPS;

/// Some bytes of a row, which are one cache line and one row of a tile.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Chunk([u8; CHUNK]);

/// The order of rows of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Row by row.
    Rows,
    /// The first chunks of 16 rows, then their next chunks, and so on. Missing rows are zeros.
    Tiles,
}

/// Rows of inputs as bytes.
pub(crate) struct Inputs {
    /// The bytes in whole chunks, filled up with zeros.
    chunks: Vec<Chunk>,
    /// Chunks of a row.
    of_row: usize,
    rows: Vec<Row>,
    order: Order,
}

/// The meaning of a row's bytes: `lowest + scale * byte`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Row {
    pub(crate) lowest: f32,
    pub(crate) scale: f32,
}

/// Rows of a task of the pass over the inputs, a whole number of tiles: about 20 us of work at a width of 768.
const ROWS: usize = 32;

/// Rows of a tile.
const TILE: usize = 16;

impl Inputs {
    /// * `(x, depth)`: `[rows, depth]`
    /// * `largest`: the largest byte
    pub(crate) fn new(
        level: Level,
        (x, depth): (&[f32], usize),
        largest: u8,
        order: Order,
    ) -> Self {
        let of_row = depth.div_ceil(CHUNK);
        let count = x.len() / depth;
        let held = match order {
            Order::Rows => count,
            Order::Tiles => count.next_multiple_of(TILE),
        };
        let mut chunks = Vec::<Chunk>::with_capacity(held * of_row);
        let mut rows = vec![Row::default(); count];
        let places = chunks.spare_capacity_mut()[..held * of_row].par_chunks_mut(ROWS * of_row);
        let places = places.zip(rows.par_chunks_mut(ROWS));
        places.zip(x.par_chunks(ROWS * depth)).for_each(|((chunks, rows), x)| {
            let largest = f32::from(largest);
            level.run(Quantize { x, depth, chunks, rows, largest, order });
        });
        // SAFETY: each task has whole rows or whole tiles of rows, and writes every chunk of them.
        unsafe { chunks.set_len(held * of_row) };
        Self { chunks, of_row, rows, order }
    }

    /// The number of rows.
    pub(crate) fn count(&self) -> usize {
        self.rows.len()
    }

    /// The address of a row's first byte, and the distance between rows.
    #[inline(always)]
    pub(crate) fn place(&self, row: usize) -> (*const u8, usize) {
        debug_assert_eq!(self.order, Order::Rows);
        let chunks = &self.chunks[row * self.of_row..];
        (chunks.as_ptr().cast(), self.of_row * size_of_val(&chunks[0].0))
    }

    /// The tiles of the 16 rows from `row` on, which must be a multiple of 16.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn tiles(&self, row: usize) -> &[Tile] {
        const { assert!(size_of::<Chunk>() * TILE == size_of::<Tile>() && TILE == ROWS_OF_TILE) };
        debug_assert!(self.order == Order::Tiles && row.is_multiple_of(TILE));
        let chunks = &self.chunks[row * self.of_row..][..TILE * self.of_row];
        // SAFETY: the chunks are `of_row` tiles of 16 chunks. They are aligned to 64 bytes, have no padding,
        // and live as long as the result.
        unsafe { std::slice::from_raw_parts(chunks.as_ptr().cast(), self.of_row) }
    }

    /// The meaning of the bytes of some rows.
    #[inline(always)]
    pub(crate) fn meanings(&self, row: usize, count: usize) -> &[Row] {
        &self.rows[row..row + count]
    }

    /// The bytes of a row, padding included, and their meaning.
    #[cfg(test)]
    pub(crate) fn row(&self, row: usize) -> (Vec<u8>, Row) {
        let chunks = (0..self.of_row).map(|at| {
            self.chunks[match self.order {
                Order::Rows => row * self.of_row + at,
                Order::Tiles => (row / TILE * self.of_row + at) * TILE + row % TILE,
            }]
        });
        (chunks.flat_map(|chunk| chunk.0).collect(), self.rows[row])
    }
}

struct Quantize<'a> {
    x: &'a [f32],
    depth: usize,
    chunks: &'a mut [MaybeUninit<Chunk>],
    rows: &'a mut [Row],
    largest: f32,
    order: Order,
}

impl Kernel for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let of_row = self.depth.div_ceil(CHUNK);
        let count = self.rows.len();
        let rows = self.rows.iter_mut().zip(self.x.chunks_exact(self.depth)).enumerate();
        for (index, (row, x)) in rows {
            let (lowest, highest, finite) = extent(simd, x);
            let scale = (highest - lowest) / self.largest;
            let inverse = self.largest / (highest - lowest);
            *row = match finite && scale.is_finite() {
                // If all values of a row are equal, or nearly equal, all its bytes are zero.
                true if !inverse.is_finite() => Row { lowest, scale: 0.0 },
                true => Row { lowest, scale },
                false => Row { lowest: f32::NAN, scale: f32::NAN },
            };
            let (lowest, inverse) = (simd.splat(lowest), simd.splat(inverse.min(f32::MAX)));
            let highest = simd.splat(self.largest);
            // In this order of operations NaN becomes zero.
            let step = |x| {
                let step = simd.mul(simd.sub(x, lowest), inverse);
                simd.min(simd.max(step, simd.splat(0.0)), highest)
            };
            let (first, distance) = match self.order {
                Order::Rows => (index * of_row, 1),
                Order::Tiles => (index / TILE * TILE * of_row + index % TILE, TILE),
            };
            for (at, values) in x.chunks(CHUNK).enumerate() {
                let place = self.chunks[first + at * distance].as_mut_ptr().cast::<u8>();
                let whole = values.len() / S::LANES * S::LANES;
                for (piece, values) in values.chunks_exact(S::LANES).enumerate() {
                    // SAFETY: a chunk has one byte for each value, which are a whole number of vectors.
                    unsafe {
                        simd.store_u8(place.add(piece * S::LANES), step(simd.load_slice(values)))
                    };
                }
                if whole < CHUNK {
                    let mut last = [0u8; PANEL];
                    // SAFETY: a vector has at most as many lanes as a panel has columns.
                    unsafe {
                        simd.store_u8(last.as_mut_ptr(), step(simd.load_slice(&values[whole..])))
                    };
                    // The rest of the row, and zeros up to a whole chunk.
                    last[values.len() - whole..].fill(0);
                    let mut rest = [0u8; CHUNK];
                    rest[..S::LANES].copy_from_slice(&last[..S::LANES]);
                    // SAFETY: the chunk has exactly this many bytes left.
                    unsafe { place.add(whole).copy_from(rest.as_ptr(), CHUNK - whole) };
                }
            }
        }
        if self.order == Order::Tiles {
            for index in count..count.next_multiple_of(TILE) {
                let first = index / TILE * TILE * of_row + index % TILE;
                for at in 0..of_row {
                    self.chunks[first + at * TILE].write(Chunk([0; CHUNK]));
                }
            }
        }
    }
}

/// The lowest and the highest value, and whether all values are finite. If they are not, the first two have no
/// meaning.
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
        // Zero times a finite number is zero; otherwise the result is NaN.
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
