//! Computes `y = f(x W^T + b) + residual`, blocked for the caches and spread over the threads.

use std::ops::Range;

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use crate::amx;
use crate::{
    Columns, Epilogue, Level, Packed, Residual,
    epilogue::Places,
    operand::{Operand, Pair},
    packed::{Ahead, Line, WIDENED},
    simd::{Kernel, Out, PANEL, Simd, by_height},
    tiles::Tiles,
};

/// Maximum number of rows of x in a task. They are read in order once for each panel, so the second-level cache
/// need not hold them. More rows would only make too few tasks.
const ROWS: usize = 216;

/// Inputs of one iteration of the product's loop, so that the loop counter costs little.
pub(crate) const UNROLLED: usize = 4;

/// Tasks per thread. If a thread is interrupted, others take its last tasks, so that no thread waits long.
const TASKS_PER_THREAD: usize = 16;

/// Minimum number of products of words in a task: about 20 us of work.
const WORK: usize = 1 << 20;

/// `f(x W^T + b) + residual`.
///
/// * `x`: `[rows, depth]`, row-major
/// * returns `[rows, columns]`
///
/// Runs on the threads of the current pool. A row's result does not depend on the other rows or on the number of
/// threads.
///
/// # Panics
/// If `x` is not a whole number of rows, or if the number of result rows is not a multiple of the
/// residual's rows.
#[must_use]
pub fn product(level: Level, x: &[f32], weights: &Columns<'_>, epilogue: Epilogue<'_>) -> Vec<f32> {
    let (depth, columns) = (weights.packed.depth(), weights.columns.len());
    let rows = checked_rows(x, (depth, columns), &epilogue);
    let mut y = Vec::<f32>::with_capacity(rows * columns);
    if rows * columns > 0 {
        let out = Out(y.as_mut_ptr());
        #[cfg(target_arch = "x86_64")]
        let tiles = weights.packed.tile_kind().filter(|_| level.has_tiles());
        #[cfg(target_arch = "x86_64")]
        if let Some(kind) = tiles {
            amx::product(level, x, (weights, kind), &epilogue, out);
            // SAFETY: the tiles' tasks cover every row and every column of `weights`, and each writes all of
            // its values.
            unsafe { y.set_len(rows * columns) };
            return y;
        }
        if weights.packed.is_pairs() && level.has_pairs() {
            spread::<Pair>(level, x, weights, &epilogue, out);
        } else {
            spread::<f32>(level, x, weights, &epilogue, out);
        }
    }
    // SAFETY: the tasks cover every row and every panel that has a column of `weights`, and each task writes
    // all of its values.
    unsafe { y.set_len(rows * columns) };
    y
}

/// Spreads a product over the threads.
fn spread<T: Operand>(
    level: Level,
    x: &[f32],
    weights: &Columns<'_>,
    epilogue: &Epilogue<'_>,
    out: Out,
) {
    let x = &Tiles::<T>::pack(level, x, weights.packed.depth());
    let shape = (x.rows(), x.height());
    let threads = rayon::current_num_threads();
    let tasks = Tasks::new(shape, x.depth(), &weights.columns, threads);
    (0..tasks.count()).into_par_iter().with_max_len(1).for_each(|index| {
        let (rows, panels) = tasks.get(index);
        let block = Block { x, weights, epilogue, out, rows, panels };
        if T::INPUTS > 1 { level.run_on_pairs(block) } else { level.run(block) }
    });
}

/// The number of rows of `x`.
///
/// # Panics
/// If `x` is not a whole number of rows, or if the number of result rows is not a multiple of the
/// residual's rows.
pub(crate) fn checked_rows(
    x: &[f32],
    (depth, columns): (usize, usize),
    epilogue: &Epilogue<'_>,
) -> usize {
    let rows = x.len() / depth.max(1);
    assert!(depth > 0 && x.len() == rows * depth, "{} values in rows of {depth}", x.len());
    if let Some(Residual(values)) = epilogue.residual {
        assert!(!values.is_empty() && values.len().is_multiple_of(columns.max(1)));
        assert!((rows * columns).is_multiple_of(values.len()));
    }
    rows
}

/// The division of the result into tasks.
pub(crate) struct Tasks {
    rows: usize,
    rows_per_task: usize,
    panels: Range<usize>,
    panels_per_task: usize,
}

impl Tasks {
    /// * `height`: rows of a tile; a task has whole tiles
    /// * `words`: the words of a row of inputs
    pub(crate) fn new(
        (rows, height): (usize, usize),
        words: usize,
        columns: &Range<usize>,
        threads: usize,
    ) -> Self {
        let panels = columns.start / PANEL..columns.end.div_ceil(PANEL);
        let row_tasks = rows.div_ceil(ROWS);
        // Tasks are equal and have whole tiles.
        let rows_per_task = rows.div_ceil(row_tasks).next_multiple_of(height).min(rows);
        let row_tasks = rows.div_ceil(rows_per_task);
        let most = if threads == 1 { 1 } else { threads * TASKS_PER_THREAD };
        let wanted = (rows * columns.len() * words / WORK).clamp(1, most);
        let panel_tasks = wanted.div_ceil(row_tasks).min(panels.len());
        // The number of panels is even, because some sets multiply two at a time.
        let panels_per_task = panels.len().div_ceil(panel_tasks).next_multiple_of(2);
        Self { rows, rows_per_task, panels_per_task, panels }
    }

    pub(crate) fn count(&self) -> usize {
        self.rows.div_ceil(self.rows_per_task) * self.panels.len().div_ceil(self.panels_per_task)
    }

    /// The rows and panels of a task. Neighbouring tasks have the same panels, so that threads share weights in
    /// the caches.
    pub(crate) fn get(&self, index: usize) -> (Range<usize>, Range<usize>) {
        let row_tasks = self.rows.div_ceil(self.rows_per_task);
        let row = index % row_tasks * self.rows_per_task;
        let panel = self.panels.start + index / row_tasks * self.panels_per_task;
        (
            row..self.rows.min(row + self.rows_per_task),
            panel..self.panels.end.min(panel + self.panels_per_task),
        )
    }
}

/// One task: some rows times some panels.
struct Block<'a, T> {
    x: &'a Tiles<T>,
    weights: &'a Columns<'a>,
    epilogue: &'a Epilogue<'a>,
    out: Out,
    rows: Range<usize>,
    panels: Range<usize>,
}

impl<T: Operand> Kernel for Block<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let packed = self.weights.packed;
        let depth = packed.depth().div_ceil(T::INPUTS);
        let step = packed.pass::<T>(panels_of::<S>());
        let room = if packed.is_in_place::<T>() { 0 } else { WIDENED };
        let mut scratch = vec![Line([0f32; PANEL]); room];
        let (first, second) = scratch.split_at_mut(room / panels_of::<S>());
        for start in (0..depth).step_by(step) {
            let words = start..depth.min(start + step);
            for panel in self.panels.clone().step_by(panels_of::<S>()) {
                let lines = T::lines(simd, packed, (panel, words.clone()), first);
                // An odd last panel is paired with itself.
                let panels = [panel, self.panels.end.min(panel + panels_of::<S>()) - 1];
                let lines = match panels_of::<S>() {
                    1 => [lines; 2],
                    _ => [lines, T::lines(simd, packed, (panels[1], words.clone()), second)],
                };
                let tiles = self.rows.len().div_ceil(S::ROWS);
                // The next panels are prefetched while these are multiplied.
                let mut ahead = [1, 2].map(|next| {
                    let next = self.panels.end.min(panels[1] + next + 1) - 1;
                    let inputs = words.start * T::INPUTS..words.end * T::INPUTS;
                    packed.ahead(next, inputs, tiles * turns(lines[0]))
                });
                for row in self.rows.clone().step_by(S::ROWS) {
                    let tile = Tile { panels, words: &words, lines, row };
                    by_height!(S, self.rows.end - row, HEIGHT => {
                        self.tile::<S, HEIGHT>(simd, &tile, &mut ahead);
                    });
                }
            }
        }
    }
}

/// The number of panels in a register tile, which has two vectors of each row.
pub(crate) const fn panels_of<S: Simd>() -> usize {
    2 * S::LANES / PANEL
}

/// The place of a register tile.
struct Tile<'a, T> {
    /// The first and the last panel of the tile.
    panels: [usize; 2],
    words: &'a Range<usize>,
    lines: [&'a [Line<T>]; 2],
    row: usize,
}

impl<T: Operand> Block<'_, T> {
    #[inline(always)]
    fn tile<S: Simd, const HEIGHT: usize>(
        &self,
        simd: S,
        tile: &Tile<'_, T>,
        ahead: &mut [Ahead; 2],
    ) {
        let x = self.x.words(tile.row, tile.words.clone());
        let (is_first, is_last) = (tile.words.start == 0, tile.words.end == self.x.depth());
        let start = match is_first {
            true => bias(simd, self.weights.packed, tile.panels),
            false => [simd.splat(0.0); 2],
        };
        let mut sums = multiply::<S, T, HEIGHT>(simd, x, tile.lines, ahead, start);
        let places = Places::new::<S>(&self.weights.columns, tile.panels);
        let place = (self.out, tile.row);
        // SAFETY: the values belong to this task, and the previous pass has written them.
        unsafe {
            if !is_first {
                sums = places.add(simd, place, sums);
            }
            match is_last {
                true => places.finish(simd, self.epilogue, place, sums),
                false => places.put(simd, place, sums),
            }
        }
    }
}

/// The initial values of a tile's sums.
#[inline(always)]
fn bias<S: Simd>(simd: S, packed: &Packed, panels: [usize; 2]) -> [S::F; 2] {
    let [first, second] = panels.map(|panel| packed.bias(panel));
    let second = &second[PANEL - S::LANES..];
    [simd.load_slice(first), simd.load_slice(second)]
}

/// The product of a tile's first `HEIGHT` rows and two vectors of columns.
///
/// * `x`: for each input the words of all `S::ROWS` rows of a tile
/// * `lines`: a line for each input, also of the second panel if two panels are needed for two vectors
/// * `start`: the initial sums of each row
#[inline(always)]
pub(crate) fn multiply<S: Simd, T: Operand, const HEIGHT: usize>(
    simd: S,
    x: &[T],
    lines: [&[Line<T>]; 2],
    ahead: &mut [Ahead; 2],
    start: [S::F; 2],
) -> [[S::F; 2]; HEIGHT] {
    let mut sums = [start; HEIGHT];
    let mut step = |x: &[T], first: &Line<T>, second: &Line<T>| {
        let second = T::load(simd, second, PANEL / S::LANES - 1);
        let weights = [T::load(simd, first, 0), second];
        for (word, sums) in x.iter().zip(&mut sums) {
            let word = word.splat(simd);
            for (sum, weights) in sums.iter_mut().zip(weights) {
                *sum = T::multiply(simd, word, weights, *sum);
            }
        }
    };
    // Tells the compiler that both slices are the same panel, so that it keeps one loop counter.
    let lines = if panels_of::<S>() == 1 { [lines[0]; 2] } else { lines };
    let mut addresses = [ahead[0].address, ahead[1].address];
    let turns = turns(lines[0]);
    let of_turn = UNROLLED * S::ROWS;
    let (whole, rest) = x.split_at(turns * of_turn);
    let pairs = lines[0].chunks_exact(UNROLLED).zip(lines[1].chunks_exact(UNROLLED));
    for (x, (first, second)) in whole.chunks_exact(of_turn).zip(pairs) {
        // One prefetch at a time, because many at once would delay the loads of this tile.
        for (address, ahead) in addresses.iter_mut().zip(&*ahead).take(panels_of::<S>()) {
            simd.prefetch(*address);
            *address = address.wrapping_add(ahead.stride);
        }
        for (x, (first, second)) in x.chunks_exact(S::ROWS).zip(first.iter().zip(second)) {
            step(x, first, second);
        }
    }
    for (ahead, address) in ahead.iter_mut().zip(addresses) {
        ahead.address = address;
    }
    let lines = lines.map(|lines| &lines[turns * UNROLLED..]);
    for (x, (first, second)) in rest.chunks_exact(S::ROWS).zip(lines[0].iter().zip(lines[1])) {
        step(x, first, second);
    }
    sums
}

/// Iterations of the loop over the inputs, without the remainder.
fn turns<T>(lines: &[Line<T>]) -> usize {
    lines.len() / UNROLLED
}
