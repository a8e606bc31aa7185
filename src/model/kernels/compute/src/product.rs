//! `y = f(x W^T + b) + residual`, blocked for the caches and spread over the threads.

use std::ops::Range;

use rayon::prelude::*;

use crate::{
    Columns, Epilogue, Level, Residual,
    epilogue::Place,
    operand::{Operand, Pair},
    packed::{Ahead, Line, WIDENED},
    simd::{Kernel, Out, PANEL, Simd, by_height},
    tiles::Tiles,
};

/// Rows of x that a task works on, at most. They are read once for each panel, in order, so that a cache of the
/// second level need not hold them; more of them only make the tasks too few.
const ROWS: usize = 216;

/// Inputs of one turn of the product's loop, so that counting them costs little.
pub(crate) const UNROLLED: usize = 4;

/// Tasks for each thread, so that one which is interrupted leaves its last ones to the others.
const TASKS_PER_THREAD: usize = 4;

/// `f(x W^T + b) + residual`.
///
/// * `x`: `[rows, depth]`, row-major
/// * returns `[rows, columns]`
///
/// Runs on the threads of the current pool. A row's result does not depend on the other rows or on the number of
/// threads.
///
/// # Panics
/// If `x` is no whole number of rows, or if the residual's rows do not repeat into the result's.
#[must_use]
pub fn product(level: Level, x: &[f32], weights: &Columns<'_>, epilogue: Epilogue<'_>) -> Vec<f32> {
    let (depth, columns) = (weights.packed.depth(), weights.columns.len());
    let rows = checked_rows(x, (depth, columns), &epilogue);
    let mut y = Vec::<f32>::with_capacity(rows * columns);
    if rows * columns > 0 {
        let out = Out(y.as_mut_ptr());
        if weights.packed.is_pairs() && level.has_pairs() {
            spread::<Pair>(level, x, weights, &epilogue, out);
        } else {
            spread::<f32>(level, x, weights, &epilogue, out);
        }
    }
    // SAFETY: the tasks cover every row and every panel that has a column of `weights`, and each writes all values
    // of its own.
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
    let tasks = Tasks::new(shape, &weights.columns, rayon::current_num_threads());
    (0..tasks.count()).into_par_iter().with_max_len(1).for_each(|index| {
        let (rows, panels) = tasks.get(index);
        let block = Block { x, weights, epilogue, out, rows, panels };
        if T::INPUTS > 1 { level.run_on_pairs(block) } else { level.run(block) }
    });
}

/// The rows of `x`.
///
/// # Panics
/// If they are no whole number, or if the residual's rows do not repeat into the result's.
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

/// How the result is cut into tasks.
pub(crate) struct Tasks {
    rows: usize,
    rows_per_task: usize,
    panels: Range<usize>,
    panels_per_task: usize,
}

impl Tasks {
    /// * `height`: rows of a tile, of which a task has whole ones
    pub(crate) fn new(
        (rows, height): (usize, usize),
        columns: &Range<usize>,
        threads: usize,
    ) -> Self {
        let panels = columns.start / PANEL..columns.end.div_ceil(PANEL);
        let row_tasks = rows.div_ceil(ROWS);
        // Equal ones, of whole tiles.
        let rows_per_task = rows.div_ceil(row_tasks).next_multiple_of(height).min(rows);
        let row_tasks = rows.div_ceil(rows_per_task);
        let wanted = if threads == 1 { 1 } else { threads * TASKS_PER_THREAD };
        let panel_tasks = wanted.div_ceil(row_tasks).min(panels.len());
        Self { rows, rows_per_task, panels_per_task: panels.len().div_ceil(panel_tasks), panels }
    }

    pub(crate) fn count(&self) -> usize {
        self.rows.div_ceil(self.rows_per_task) * self.panels.len().div_ceil(self.panels_per_task)
    }

    /// Rows and panels of a task. The rows change first, so that threads which are close share weights.
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
        let step = packed.pass::<T>();
        let mut scratch = [Line([0f32; PANEL]); WIDENED];
        for start in (0..depth).step_by(step) {
            let words = start..depth.min(start + step);
            for panel in self.panels.clone() {
                let lines = T::lines(simd, packed, (panel, words.clone()), &mut scratch);
                let tiles = self.rows.len().div_ceil(S::ROWS);
                // The next panel is on its way while this one is worked on.
                let next = self.panels.end.min(panel + 2) - 1;
                let inputs = words.start * T::INPUTS..words.end * T::INPUTS;
                let mut ahead = packed.ahead(next, inputs, tiles * turns(lines));
                for row in self.rows.clone().step_by(S::ROWS) {
                    let tile = Tile { panel, words: &words, lines, row };
                    by_height!(S, self.rows.end - row, HEIGHT => {
                        self.tile::<S, HEIGHT>(simd, &tile, &mut ahead);
                    });
                }
            }
        }
    }
}

/// Where a register tile is.
struct Tile<'a, T> {
    panel: usize,
    words: &'a Range<usize>,
    lines: &'a [Line<T>],
    row: usize,
}

impl<T: Operand> Block<'_, T> {
    #[inline(always)]
    fn tile<S: Simd, const HEIGHT: usize>(&self, simd: S, tile: &Tile<'_, T>, ahead: &mut Ahead) {
        let place = Place::new(&self.weights.columns, tile.panel);
        let mut sums = [[simd.splat(0.0); 2]; HEIGHT];
        if tile.words.start > 0 {
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the task's own values, which the pass before has written.
                *sums = unsafe { place.read(simd, self.out, tile.row + row) };
            }
        }
        let x = self.x.words(tile.row, tile.words.clone());
        let sums = multiply(simd, x, tile.lines, ahead, sums);
        // SAFETY: the task's own values.
        unsafe {
            if tile.words.end == self.x.depth() {
                let bias = self.weights.packed.bias(tile.panel);
                place.finish(simd, (self.epilogue, bias), (self.out, tile.row), sums);
            } else {
                place.write(simd, (self.out, tile.row), sums);
            }
        }
    }
}

/// Adds to `sums` the product of a tile's first `HEIGHT` rows and 16 columns.
///
/// * `x`: of each input the words of all rows of a tile, `S::ROWS`
/// * `lines`: a line for each of them
#[inline(always)]
fn multiply<S: Simd, T: Operand, const HEIGHT: usize>(
    simd: S,
    x: &[T],
    lines: &[Line<T>],
    ahead: &mut Ahead,
    mut sums: [[S::F; 2]; HEIGHT],
) -> [[S::F; 2]; HEIGHT] {
    let mut step = |x: &[T], line: &Line<T>| {
        let last = PANEL / S::LANES - 1;
        let weights = [T::load(simd, line, 0), T::load(simd, line, last)];
        for (word, sums) in x.iter().zip(&mut sums) {
            for (sum, weights) in sums.iter_mut().zip(weights).take(PANEL / S::LANES) {
                *sum = T::multiply(simd, word.splat(simd), weights, *sum);
            }
        }
    };
    let mut address = ahead.address;
    for (x, lines) in x.chunks_exact(UNROLLED * S::ROWS).zip(lines.chunks_exact(UNROLLED)) {
        // One at a time: many at once would keep the loads of this tile waiting.
        simd.prefetch(address);
        address = address.wrapping_add(ahead.stride);
        for (x, line) in x.chunks_exact(S::ROWS).zip(lines) {
            step(x, line);
        }
    }
    ahead.address = address;
    let rest = turns(lines) * UNROLLED;
    for (x, line) in x[rest * S::ROWS..].chunks_exact(S::ROWS).zip(&lines[rest..]) {
        step(x, line);
    }
    sums
}

/// Turns of the loop over so many inputs, without the rest.
fn turns<T>(lines: &[Line<T>]) -> usize {
    lines.len() / UNROLLED
}
