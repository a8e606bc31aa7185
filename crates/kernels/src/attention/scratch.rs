//! Packs the keys and values of a block in the order of the products.

use std::{cell::RefCell, ops::Range};

use super::{Head, KEYS};
use crate::{
    operand::{Operand, Pair},
    packed::Line,
    simd::{PANEL, Simd},
    tiles::transpose,
};

thread_local! {
    pub(super) static NUMBERS: RefCell<Scratch<f32>> = const { RefCell::new(Scratch::new()) };
    pub(super) static PAIRS: RefCell<Scratch<Pair>> = const { RefCell::new(Scratch::new()) };
}

/// The buffers of a task. They are kept for the thread's next task.
pub(super) struct Scratch<T> {
    /// The queries of a tile, in the order of the product.
    pub(super) queries: Vec<T>,
    /// Panels of 16 keys, with a line for each word of a head.
    pub(super) keys: Vec<Line<T>>,
    /// Panels of 16 values of a head, with a line for each word of keys.
    pub(super) values: Vec<Line<T>>,
    /// Rows of a tile, with a score for each key, which later becomes a weight.
    pub(super) scores: Vec<Line<f32>>,
    /// For each query the largest score so far, and the sum of exponentials relative to it.
    pub(super) sums: Vec<(f32, f32)>,
    /// The number of lines of a panel is a multiple of this; further lines are zeros.
    multiple: usize,
}

impl<T: Operand> Scratch<T> {
    const fn new() -> Self {
        Self {
            queries: Vec::new(),
            keys: Vec::new(),
            values: Vec::new(),
            scores: Vec::new(),
            sums: Vec::new(),
            multiple: 1,
        }
    }

    /// Allocates the buffers of a block. Old contents are overwritten.
    ///
    /// * `(rows, multiple)`: rows of a tile, and the number whose multiple the lines of a panel are
    pub(super) fn reserve(&mut self, (rows, multiple): (usize, usize), dim: usize, block: usize) {
        let lines = |values: usize| values.div_ceil(T::INPUTS).next_multiple_of(multiple);
        self.multiple = multiple;
        self.queries.resize(dim.div_ceil(T::INPUTS) * rows, T::default());
        let line = Line([T::default(); PANEL]);
        self.keys.resize(block.div_ceil(PANEL) * lines(dim), line);
        self.values.resize(dim.div_ceil(PANEL) * lines(block), line);
        self.scores.resize(rows * KEYS / PANEL, Line([0.0; PANEL]));
    }

    /// Packs a block of keys and values.
    #[inline(always)]
    pub(super) fn pack<S: Simd>(&mut self, simd: S, head: &Head<'_>, block: &Range<usize>) {
        let dim = head.shape.head_dim;
        let words = dim.div_ceil(T::INPUTS);
        let zeros = Line([T::default(); PANEL]);
        let of_panel = words.next_multiple_of(self.multiple);
        for (panel, lines) in self.keys.chunks_exact_mut(of_panel).enumerate() {
            lines[words..].fill(zeros);
            for lane in (0..PANEL).step_by(S::LANES) {
                // Scores after the last key are overwritten later.
                let key =
                    |index: usize| (block.start + panel * PANEL + lane + index).min(block.end - 1);
                let row = |index: usize| &head.row(1, key(index))[..dim];
                transpose::<S, T>(simd, row, |word, column| {
                    let to = &mut lines[word].0[lane..lane + S::LANES];
                    // SAFETY: the slice has `LANES` words of 32 bits.
                    unsafe { simd.store_i32(to.as_mut_ptr().cast(), column) };
                });
            }
        }
        let words = block.len().div_ceil(T::INPUTS);
        let of_panel = words.next_multiple_of(self.multiple);
        for lines in self.values.chunks_exact_mut(of_panel) {
            lines[words..].fill(zeros);
        }
        for word in 0..words {
            let key = block.start + word * T::INPUTS;
            let rows = [key, (key + 1).min(block.end - 1)].map(|key| &head.row(2, key)[..dim]);
            // An odd last key has no partner. The partner's weight is zero, so it adds nothing.
            let is_whole = key + T::INPUTS <= block.end;
            for at in (0..dim).step_by(S::LANES) {
                let [first, mut second] = rows.map(|row| simd.load_slice(&row[at..]));
                if !is_whole {
                    second = simd.splat(0.0);
                }
                let line = &mut self.values[at / PANEL * of_panel + word];
                let to = &mut line.0[at % PANEL..][..S::LANES];
                // SAFETY: the slice has `LANES` words of 32 bits.
                unsafe { T::join(simd, to.as_mut_ptr().cast(), [first, second]) };
            }
        }
    }
}
