//! Attention with both of its products in tiles of bf16, 32 queries at a time.

use std::{cell::RefCell, ops::Range};

use super::{
    Head, KEYS,
    scratch::{PAIRS, Scratch},
    softmax::{largest_of, soften},
};
use crate::{
    Level,
    amx::{
        self, BLOCK, Nothing, Pairs, ROWS_OF_TILE, Sums, Tile, TileKernel, Unit, multiply,
        pack_rows, tiles_of,
    },
    epilogue::{read_line, write_line},
    operand::Pair,
    simd::{PANEL, Simd},
};

thread_local! {
    static TILES: RefCell<[Vec<Tile>; 2]> = const { RefCell::new([const { Vec::new() }; 2]) };
}

/// Computes the attention of some queries of one head.
pub(super) fn attend(level: Level, head: Head<'_>) {
    PAIRS.with_borrow_mut(|scratch| {
        TILES.with_borrow_mut(|[queries, weights]| {
            level.run_on_tiles(Task { head, scratch, queries, weights });
        });
    });
}

struct Task<'a> {
    head: Head<'a>,
    scratch: &'a mut Scratch<Pair>,
    /// 32 queries, and later their weights for a block of keys.
    queries: &'a mut Vec<Tile>,
    weights: &'a mut Vec<Tile>,
}

/// Inputs in a row of a tile.
const STEP: usize = 2 * PANEL;

impl TileKernel for Task<'_> {
    #[inline(always)]
    fn run<S: Simd, U: Unit>(mut self, simd: S, unit: &mut U) {
        let (keys, dim) = (self.head.shape.keys, self.head.shape.head_dim);
        let queries = self.head.queries.clone();
        self.scratch.sums.clear();
        self.scratch.sums.resize(queries.len(), (f32::NEG_INFINITY, 0.0));
        self.queries.resize(2 * dim.div_ceil(STEP), Tile::ZERO);
        for start in (0..keys).step_by(KEYS) {
            let block = start..keys.min(start + KEYS);
            self.scratch.reserve((BLOCK, PANEL), dim, block.len());
            self.scratch.pack(simd, &self.head, &block);
            self.weights.resize(2 * block.len().div_ceil(STEP), Tile::ZERO);
            for query in queries.clone().step_by(BLOCK) {
                let rows = query..queries.end.min(query + BLOCK);
                let is_tall = rows.len() > ROWS_OF_TILE;
                self.tile((simd, unit, is_tall), &rows, &block);
            }
        }
    }
}

impl Task<'_> {
    /// Adds a block of keys to the sums of some queries.
    #[inline(always)]
    fn tile<S: Simd, U: Unit>(
        &mut self,
        (simd, unit, is_tall): (S, &mut U, bool),
        rows: &Range<usize>,
        block: &Range<usize>,
    ) {
        self.score((simd, unit, is_tall), rows);
        let factors = self.weigh(simd, rows, block);
        let scores = self.scratch.scores.as_ptr().cast::<f32>();
        let of_rows = self.weights.len() / 2;
        for (half, tiles) in
            self.weights.chunks_exact_mut(of_rows).take(if is_tall { 2 } else { 1 }).enumerate()
        {
            let weights = |row: usize| match half * ROWS_OF_TILE + row {
                // SAFETY: `scores` has 32 rows of `KEYS` values, and nothing writes to them at the same time.
                row if row < rows.len() => unsafe {
                    std::slice::from_raw_parts(scores.add(row * KEYS), block.len())
                },
                _ => &[],
            };
            // SAFETY: `tiles` has `of_rows` tiles.
            unsafe { pack_rows::<S, Pairs>(simd, weights, tiles.as_mut_ptr(), of_rows) };
        }
        self.mix((simd, unit, is_tall), (rows, block), &factors);
    }

    /// The scores of some queries with a block of keys.
    #[inline(always)]
    fn score<S: Simd, U: Unit>(
        &mut self,
        (simd, unit, is_tall): (S, &mut U, bool),
        rows: &Range<usize>,
    ) {
        let dim = self.head.shape.head_dim;
        let of_rows = self.queries.len() / 2;
        for (half, tiles) in
            self.queries.chunks_exact_mut(of_rows).take(if is_tall { 2 } else { 1 }).enumerate()
        {
            let query = |row: usize| match rows.start + half * ROWS_OF_TILE + row {
                row if row < rows.end => &self.head.row(0, row)[..dim],
                _ => &[],
            };
            // SAFETY: `tiles` has `of_rows` tiles.
            unsafe { pack_rows::<S, Pairs>(simd, query, tiles.as_mut_ptr(), of_rows) };
        }
        let x = [0, usize::from(is_tall)].map(|half| &self.queries[half * of_rows..][..of_rows]);
        let keys = tiles_of(&self.scratch.keys);
        let scores = self.scratch.scores.as_mut_ptr().cast::<i32>();
        let panels = keys.len() / of_rows;
        for first in (0..panels).step_by(2) {
            // Two panels are multiplied at a time. An odd last panel is paired with itself, and its second
            // result is not used.
            let panels = [first, panels.min(first + 2) - 1];
            let w = panels.map(|panel| &keys[panel * of_rows..][..of_rows]);
            multiply::<U, Pairs>((unit, is_tall), x, w, &mut Nothing);
            // SAFETY: `scores` has 32 rows of `KEYS` words, which are an even number of panels.
            unsafe { unit.store(is_tall, scores.add(first * PANEL), 4 * KEYS) };
        }
    }

    /// Replaces scores by weights.
    ///
    /// * returns the factors for the previous sums
    #[inline(always)]
    fn weigh<S: Simd>(
        &mut self,
        simd: S,
        rows: &Range<usize>,
        block: &Range<usize>,
    ) -> [f32; BLOCK] {
        let scores = self.scratch.scores.as_mut_ptr().cast::<f32>();
        let scale = (self.head.shape.head_dim as f32).powf(-0.5);
        let padded = block.len().next_multiple_of(PANEL);
        // SAFETY: `scores` has 32 rows of `KEYS` values; nothing else refers to them.
        let row =
            |row: usize| unsafe { std::slice::from_raw_parts_mut(scores.add(row * KEYS), padded) };
        let sums = &mut self.scratch.sums[rows.start - self.head.queries.start..][..rows.len()];
        let mut factors = [1f32; BLOCK];
        for (index, (factor, (largest, _))) in factors.iter_mut().zip(&mut *sums).enumerate() {
            let scores = row(index);
            scores[self.head.visible(rows.start + index, block)..].fill(f32::NEG_INFINITY);
            let (before, highest) = (*largest, largest_of(simd, scores) * scale);
            if highest > before {
                *largest = highest;
                *factor = if block.start == 0 { 0.0 } else { (before - highest).exp() };
            }
        }
        for (index, (factor, (largest, total))) in factors.iter().zip(sums).enumerate() {
            let scores = row(index);
            *total = *total * factor + soften(simd, scores, scale, *largest);
            if self.head.shape.causal {
                // The exponential of a hidden score is tiny, but not zero.
                scores[self.head.visible(rows.start + index, block)..].fill(0.0);
            }
        }
        factors
    }

    /// Adds a block of values to the result of some queries.
    #[inline(always)]
    fn mix<S: Simd, U: Unit>(
        &mut self,
        (simd, unit, is_tall): (S, &mut U, bool),
        (rows, block): (&Range<usize>, &Range<usize>),
        factors: &[f32; BLOCK],
    ) {
        let head = &self.head;
        let dim = head.shape.head_dim;
        let (is_first, is_last) = (block.start == 0, block.end == head.shape.keys);
        let of_rows = self.weights.len() / 2;
        let x = [0, usize::from(is_tall)].map(|half| &self.weights[half * of_rows..][..of_rows]);
        let values = tiles_of(&self.scratch.values);
        let totals = &self.scratch.sums[rows.start - head.queries.start..];
        let mut sums = Sums::ZERO;
        let panels = dim.div_ceil(PANEL);
        for first in (0..panels).step_by(2) {
            let last = panels.min(first + 2) - 1;
            let w = [first, last].map(|panel| &values[panel * of_rows..][..of_rows]);
            multiply::<U, Pairs>((unit, is_tall), x, w, &mut Nothing);
            // SAFETY: `sums` has 32 rows of 32 words.
            unsafe { unit.store(is_tall, sums.0.as_mut_ptr().cast(), amx::ROW_OF_SUMS) };
            for panel in first..=last {
                let lanes = 0..PANEL.min(dim - panel * PANEL);
                for (index, (factor, (_, total))) in
                    factors.iter().zip(totals).take(rows.len()).enumerate()
                {
                    let at = head.place(rows.start + index) + panel * PANEL;
                    let mut mixed = [simd.splat(0.0); 2];
                    if !is_first {
                        // SAFETY: the previous block has written these values, and only this task accesses
                        // them.
                        mixed = unsafe { read_line(simd, head.out.0.add(at), &lanes) };
                    }
                    let end = simd.splat(if is_last { 1.0 / total } else { 1.0 });
                    for (vector, mixed) in mixed.iter_mut().enumerate().take(PANEL / S::LANES) {
                        let column = (panel - first) * PANEL + vector * S::LANES;
                        let sum = sums.floats(simd, index, column);
                        *mixed = simd.mul(simd.mul_add(*mixed, simd.splat(*factor), sum), end);
                    }
                    // SAFETY: the rows belong to this task, and the values to this head.
                    unsafe { write_line(simd, head.out.0.add(at), &lanes, &mixed) };
                }
            }
        }
    }
}
