//! The loop over blocks of sums, for any kind of operands and any way to finish the sums.

use std::ops::Range;

use super::{BLOCK, Kind, ROW_OF_SUMS, ROWS_OF_TILE, Sums, Tile, TileKernel, Unit};
use crate::{
    epilogue::Places,
    product::panels_of,
    simd::{PANEL, Simd},
};

/// A layer and its inputs, in tiles.
pub(super) trait Layer: Sync {
    type Kind: Kind;

    /// The tiles of 16 rows of inputs.
    fn inputs(&self, row: usize) -> &[Tile];
    /// The tiles of a panel: as many as the tiles of 16 rows of inputs.
    fn weights(&self, panel: usize) -> &[Tile];
    /// The columns of the layer that the result has.
    fn columns(&self) -> &Range<usize>;
    /// Finishes a row of sums (bias, activation, residual) and writes it.
    ///
    /// * `place`: the columns of two vectors in a row of the result, and their panels
    /// * `row`: the row of the result
    /// * `sums`: the block, the row in it, and the column of the first vector
    ///
    /// # Safety
    /// The places are inside the result, and no other thread writes them.
    unsafe fn finish<S: Simd>(
        &self,
        simd: S,
        place: (&Places, [usize; 2]),
        row: usize,
        sums: (&Sums, usize, usize),
    );
}

/// One task: some rows, beginning at a multiple of 16, times some panels.
pub(super) struct Block<'a, L> {
    pub(super) layer: &'a L,
    pub(super) rows: Range<usize>,
    pub(super) panels: Range<usize>,
}

impl<L: Layer> TileKernel for Block<'_, L> {
    #[inline(always)]
    fn run<S: Simd, U: Unit>(self, simd: S, unit: &mut U) {
        // One block is filled while the other one is finished.
        let mut sums = [Sums::ZERO, Sums::ZERO];
        let mut turn = false;
        let mut pending = Pending::nothing();
        for panel in self.panels.clone().step_by(2) {
            // Two panels are multiplied at a time. An odd last panel is paired with itself, and its second
            // result is not used.
            let panels = [panel, self.panels.end.min(panel + 2) - 1];
            let weights = panels.map(|panel| self.layer.weights(panel));
            let places = places::<S>(self.layer.columns(), panels);
            let mut ahead = self.ahead(panels[1] + 1, weights[0].len() / L::Kind::TILES);
            for row in self.rows.clone().step_by(BLOCK) {
                let [first, second] = &mut sums;
                let (full, other) = if turn { (second, first) } else { (first, second) };
                turn = !turn;
                let rows = (self.rows.end - row).min(BLOCK);
                let layer = self.layer;
                let mut between =
                    Between { simd, layer, sums: other, ahead: &mut ahead, pending: &mut pending };
                let is_tall = rows > ROWS_OF_TILE;
                let x = [row, if is_tall { row + ROWS_OF_TILE } else { row }];
                let x = x.map(|row| layer.inputs(row));
                multiply::<U, L::Kind>((unit, is_tall), x, weights, &mut between);
                // SAFETY: `full` has 32 rows of 32 words.
                unsafe { unit.store(is_tall, full.0.as_mut_ptr().cast(), ROW_OF_SUMS) };
                // SAFETY: the rows and panels belong to this task.
                unsafe { pending.finish(simd, layer, (other, BLOCK)) };
                pending = Pending { places: places.clone(), panels, row, rows, done: 0 };
            }
        }
        let [first, second] = &sums;
        // SAFETY: the rows and panels belong to this task.
        unsafe { pending.finish(simd, self.layer, (if turn { first } else { second }, BLOCK)) };
    }
}

impl<L: Layer> Block<'_, L> {
    /// Prefetches the next panels while the current ones are multiplied.
    #[inline(always)]
    fn ahead(&self, panel: usize, steps: usize) -> Ahead {
        let panels = self.panels.end.saturating_sub(panel).min(2);
        if panels == 0 {
            return Ahead { next: std::ptr::null(), lines: 0, of_step: 0 };
        }
        let tiles = self.layer.weights(panel);
        let lines = size_of_val(tiles) / LINE * panels;
        let blocks = self.rows.len().div_ceil(BLOCK);
        Ahead { next: tiles.as_ptr().cast(), lines, of_step: lines.div_ceil(blocks * steps) }
    }
}

/// The places of the vectors of two panels in a row of the result; each panel may have two vectors.
#[inline(always)]
fn places<S: Simd>(columns: &Range<usize>, panels: [usize; 2]) -> [Places; 2] {
    match panels_of::<S>() {
        1 => panels.map(|panel| Places::new::<S>(columns, [panel; 2])),
        _ => [panels; 2].map(|panels| Places::new::<S>(columns, panels)),
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// The next bytes to prefetch, and how many in each step.
struct Ahead {
    next: *const u8,
    lines: usize,
    of_step: usize,
}

impl Ahead {
    #[inline(always)]
    fn fetch<U: Unit>(&mut self, unit: &U) {
        let lines = self.of_step.min(self.lines);
        self.lines -= lines;
        for _ in 0..lines {
            unit.prefetch(self.next);
            self.next = self.next.wrapping_add(LINE);
        }
    }
}

/// Other work during each step of a product. This is a trait, because the compiler need not inline a closure,
/// and a closure that is not inlined is compiled without the set's instructions.
pub(crate) trait Beside<U> {
    fn step(&mut self, unit: &U);
}

/// No other work.
pub(crate) struct Nothing;

impl<U> Beside<U> for Nothing {
    #[inline(always)]
    fn step(&mut self, _: &U) {}
}

/// Prefetches weights and finishes the previous block.
struct Between<'a, S, L> {
    simd: S,
    layer: &'a L,
    sums: &'a Sums,
    ahead: &'a mut Ahead,
    pending: &'a mut Pending,
}

impl<S: Simd, L: Layer, U: Unit> Beside<U> for Between<'_, S, L> {
    #[inline(always)]
    fn step(&mut self, unit: &U) {
        self.ahead.fetch(unit);
        // SAFETY: the rows and panels belong to the task that made this value.
        unsafe { self.pending.finish(self.simd, self.layer, (self.sums, AT_ONCE)) };
    }
}

/// Computes the sums of a block in all its steps, with some other work in each.
///
/// * `is_tall`: whether there is a second tile of rows; otherwise the second slice of `x` is not read
/// * `x`, `w`: the same number of tiles in each slice
#[inline(always)]
pub(crate) fn multiply<U: Unit, K: Kind>(
    (unit, is_tall): (&mut U, bool),
    x: [&[Tile]; 2],
    w: [&[Tile]; 2],
    beside: &mut impl Beside<U>,
) {
    let tiles = w[0].len();
    assert!(x[0].len() == tiles && x[1].len() == tiles && w[1].len() == tiles);
    unit.zero();
    for tile in (0..tiles).step_by(K::TILES) {
        let at = |tiles: &[Tile]| tiles.as_ptr().wrapping_add(tile);
        // SAFETY: each slice has `tiles` tiles, a step reads `TILES` of them, and there is a whole number of
        // steps.
        unsafe {
            match is_tall {
                true => K::add::<U, 2>(unit, x.map(at), w.map(at)),
                false => K::add::<U, 1>(unit, x.map(at), w.map(at)),
            }
        }
        beside.step(unit);
    }
}

/// A block of sums that is not in the result yet.
struct Pending {
    places: [Places; 2],
    panels: [usize; 2],
    /// The first row in the result.
    row: usize,
    rows: usize,
    /// Rows that are finished.
    done: usize,
}

/// Rows that are finished in a step: the 24 steps of a layer with 768 inputs are enough for a block.
const AT_ONCE: usize = 2;

impl Pending {
    fn nothing() -> Self {
        let nowhere = || Places::nowhere();
        Self { places: [nowhere(), nowhere()], panels: [0; 2], row: 0, rows: 0, done: 0 }
    }

    /// Finishes some rows, or the remaining ones.
    ///
    /// # Safety
    /// The block belongs to this task.
    #[inline(always)]
    unsafe fn finish<S: Simd, L: Layer>(
        &mut self,
        simd: S,
        layer: &L,
        (sums, most): (&Sums, usize),
    ) {
        let [first, last] = self.panels;
        let (panels, groups) = match panels_of::<S>() {
            1 => ([[first; 2], [last; 2]], if first == last { 1 } else { 2 }),
            _ => ([[first, last]; 2], 1),
        };
        let end = self.rows.min(self.done + most);
        while self.done < end {
            for (group, place) in self.places.iter().zip(panels).enumerate().take(groups) {
                let sums = (sums, self.done, group * PANEL);
                // SAFETY: the caller's promise.
                unsafe { layer.finish(simd, place, self.row + self.done, sums) };
            }
            self.done += 1;
        }
    }
}
