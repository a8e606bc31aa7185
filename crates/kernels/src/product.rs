//! `y = f(x W^T + b) + residual`, blocked for the caches and spread over the threads.

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

/// Rows of x that a task works on, at most. They are read once for each panel, in order, so that a cache of the
/// second level need not hold them; more of them only make the tasks too few.
const ROWS: usize = 216;

/// Inputs of one turn of the product's loop, so that counting them costs little.
pub(crate) const UNROLLED: usize = 4;

/// Tasks for each thread, so that one which is interrupted leaves its last ones to the others, and none waits long.
const TASKS_PER_THREAD: usize = 16;

/// Products of words in a task, at least: some 20 us of work.
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
/// If `x` is no whole number of rows, or if the residual's rows do not repeat into the result's.
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
            // SAFETY: as below.
            unsafe { y.set_len(rows * columns) };
            return y;
        }
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
    let threads = rayon::current_num_threads();
    let tasks = Tasks::new(shape, x.depth(), &weights.columns, threads);
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
    /// * `words`: of a row of inputs, multiplied at once
    pub(crate) fn new(
        (rows, height): (usize, usize),
        words: usize,
        columns: &Range<usize>,
        threads: usize,
    ) -> Self {
        let panels = columns.start / PANEL..columns.end.div_ceil(PANEL);
        let row_tasks = rows.div_ceil(ROWS);
        // Equal ones, of whole tiles.
        let rows_per_task = rows.div_ceil(row_tasks).next_multiple_of(height).min(rows);
        let row_tasks = rows.div_ceil(rows_per_task);
        let most = if threads == 1 { 1 } else { threads * TASKS_PER_THREAD };
        let wanted = (rows * columns.len() * words / WORK).clamp(1, most);
        let panel_tasks = wanted.div_ceil(row_tasks).min(panels.len());
        // An even number: some sets take two at a time.
        let panels_per_task = panels.len().div_ceil(panel_tasks).next_multiple_of(2);
        Self { rows, rows_per_task, panels_per_task, panels }
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
        let step = packed.pass::<T>(panels_of::<S>());
        let room = if packed.is_in_place::<T>() { 0 } else { WIDENED };
        let mut scratch = vec![Line([0f32; PANEL]); room];
        let (first, second) = scratch.split_at_mut(room / panels_of::<S>());
        for start in (0..depth).step_by(step) {
            let words = start..depth.min(start + step);
            for panel in self.panels.clone().step_by(panels_of::<S>()) {
                let lines = T::lines(simd, packed, (panel, words.clone()), first);
                // One that is left over goes along with itself.
                let panels = [panel, self.panels.end.min(panel + panels_of::<S>()) - 1];
                let lines = match panels_of::<S>() {
                    1 => [lines; 2],
                    _ => [lines, T::lines(simd, packed, (panels[1], words.clone()), second)],
                };
                let tiles = self.rows.len().div_ceil(S::ROWS);
                // The next panels are on their way while these are worked on.
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

/// Panels beside each other in a register tile, which has two vectors of each row.
pub(crate) const fn panels_of<S: Simd>() -> usize {
    2 * S::LANES / PANEL
}

/// Where a register tile is.
struct Tile<'a, T> {
    /// The first and the last, where it has two.
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
        // SAFETY: the task's own values, which the pass before has written.
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

/// What the sums of a tile begin with.
#[inline(always)]
fn bias<S: Simd>(simd: S, packed: &Packed, panels: [usize; 2]) -> [S::F; 2] {
    let [first, second] = panels.map(|panel| packed.bias(panel));
    let second = &second[PANEL - S::LANES..];
    [simd.load_slice(first), simd.load_slice(second)]
}

/// The product of a tile's first `HEIGHT` rows and two vectors of columns.
///
/// * `x`: of each input the words of all rows of a tile, `S::ROWS`
/// * `lines`: a line for each of them; of the second panel too, where it takes two for two vectors
/// * `start`: what is in each row before
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
    // That they are one panel's is what the compiler can't know: it would count through both.
    let lines = if panels_of::<S>() == 1 { [lines[0]; 2] } else { lines };
    let mut addresses = [ahead[0].address, ahead[1].address];
    let turns = turns(lines[0]);
    let of_turn = UNROLLED * S::ROWS;
    let (whole, rest) = x.split_at(turns * of_turn);
    let pairs = lines[0].chunks_exact(UNROLLED).zip(lines[1].chunks_exact(UNROLLED));
    for (x, (first, second)) in whole.chunks_exact(of_turn).zip(pairs) {
        // One at a time: many at once would keep the loads of this tile waiting.
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

/// Turns of the loop over so many inputs, without the rest.
fn turns<T>(lines: &[Line<T>]) -> usize {
    lines.len() / UNROLLED
}
