//! Packs weights in the order in which the product reads them. A panel is 16 outputs; a line has one word for
//! each of them.

mod fill;

use std::ops::Range;

use half::f16;

use self::fill::fill;
#[cfg(target_arch = "x86_64")]
use crate::amx::{self, Tile};
use crate::{
    operand::{Operand, Pair},
    simd::{PANEL, Simd},
};

/// One word for each column of a panel, which is one cache line.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Line<T>(pub(crate) [T; PANEL]);

/// One 16-bit float for each column of a panel, which is half a cache line.
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
struct Half([f16; PANEL]);

/// The type of packed weights. Sums are always f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Element {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats with 10 bits of mantissa; values above 65504 become infinite.
    F16,
    /// 16-bit floats with 7 bits of mantissa.
    Bf16,
    /// 32-bit floats as sums of two bf16, which keeps 16 bits of mantissa. Sets with [`Level::has_tiles`]
    /// multiply them in three products and leave out the product of the two smaller parts.
    ///
    /// [`Level::has_tiles`]: crate::Level::has_tiles
    Split,
}

/// Inputs of a pass whose weights are widened to f32 first. 16 columns of them fill most of a first-level cache
/// of 32 KiB and stay there for all rows.
pub(crate) const WIDENED: usize = 384;

/// Maximum number of words of a layer whose weights are read in place in one pass. The weights come from the
/// second-level cache faster than they are used, and no sum is written and read again. If two panels are
/// multiplied together, one pass is used for every layer: servers with vectors of 16 lanes have a second-level
/// cache of 1 MiB.
const WHOLE: usize = 1152;

/// Words of a pass of a larger layer, whose words would not fit into the cache together with a tile of rows.
const PART: usize = 512;

#[derive(Debug)]
enum Lines {
    F32(Vec<Line<f32>>),
    F16(Vec<Half>),
    /// Two adjacent inputs of each column form a word, as processors multiply them. After the last word, zeros
    /// fill a whole tile of lines.
    Bf16(Vec<Line<Pair>>),
    /// As `Bf16`, with tiles of the larger parts and tiles of the smaller parts in turn.
    Split(Vec<Line<Pair>>),
}

/// Lines of a panel that processors with tiles multiply at once.
const TILE: usize = 16;

/// The contents of tiles of weights.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TileKind {
    /// Pairs of bf16.
    Pairs,
    /// Pairs of values that are sums of two bf16.
    Split,
}

/// A layer's weights and bias, packed once.
///
/// Panels of 16 columns (outputs), one after another. A panel has a line of 16 values for each input. The last
/// panel is filled up with zeros.
#[derive(Debug)]
pub struct Packed {
    lines: Lines,
    bias: Vec<Line<f32>>,
    depth: usize,
    columns: usize,
}

impl Packed {
    /// Inputs of the layer.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Outputs of the layer.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Memory of the weights, padding included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let weights = match &self.lines {
            Lines::F32(lines) => size_of_val(&lines[..]),
            Lines::F16(lines) => size_of_val(&lines[..]),
            Lines::Bf16(lines) | Lines::Split(lines) => size_of_val(&lines[..]),
        };
        weights + size_of_val(&self.bias[..])
    }

    /// A part of the outputs, as a layer.
    ///
    /// # Panics
    /// If the layer does not have these outputs.
    #[must_use]
    pub fn part(&self, columns: Range<usize>) -> Columns<'_> {
        assert!(columns.start <= columns.end && columns.end <= self.columns, "{columns:?}");
        Columns { packed: self, columns }
    }

    /// Whether the weights are pairs of bf16.
    pub(crate) fn is_pairs(&self) -> bool {
        matches!(self.lines, Lines::Bf16(_))
    }

    /// The contents of its tiles; none if the weights are not in tiles.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn tile_kind(&self) -> Option<TileKind> {
        match self.lines {
            Lines::Bf16(_) => Some(TileKind::Pairs),
            Lines::Split(_) => Some(TileKind::Split),
            Lines::F32(_) | Lines::F16(_) => None,
        }
    }

    /// The tiles of a panel.
    ///
    /// # Panics
    /// If the weights are not in tiles.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn tiles(&self, panel: usize) -> &[Tile] {
        let (Lines::Bf16(lines) | Lines::Split(lines)) = &self.lines else {
            unreachable!("no tiles: {:?}", self.lines)
        };
        let of_panel = self.lines_of_panel();
        amx::tiles_of(&lines[panel * of_panel..][..of_panel])
    }

    /// Lines of a panel, padding included.
    fn lines_of_panel(&self) -> usize {
        lines_of_panel(&self.lines, self.depth)
    }

    /// Whether the product reads the weights in place, without widening them first.
    pub(crate) fn is_in_place<T: Operand>(&self) -> bool {
        T::INPUTS > 1 || matches!(self.lines, Lines::F32(_))
    }

    /// The words of one pass. All passes over the rows are about equal, and have an even number of words so
    /// that none begins inside a pair.
    ///
    /// * `panels`: the number of panels that are multiplied at a time
    pub(crate) fn pass<T: Operand>(&self, panels: usize) -> usize {
        let words = self.depth.div_ceil(T::INPUTS);
        let most = match self.is_in_place::<T>() {
            true if words <= WHOLE || panels > 1 => words,
            true => PART,
            false => WIDENED / panels,
        };
        words.div_ceil(words.div_ceil(most)).next_multiple_of(2)
    }

    /// The lines of some inputs of a panel, in place or widened into `scratch`, which has `WIDENED` lines.
    #[inline(always)]
    pub(crate) fn numbers<'b, S: Simd>(
        &'b self,
        simd: S,
        panel: usize,
        inputs: Range<usize>,
        scratch: &'b mut [Line<f32>],
    ) -> &'b [Line<f32>] {
        let first = panel * self.depth;
        match &self.lines {
            Lines::F32(lines) => &lines[first + inputs.start..first + inputs.end],
            Lines::F16(lines) => {
                let lines = &lines[first + inputs.start..first + inputs.end];
                for (wide, narrow) in scratch.iter_mut().zip(lines) {
                    let halves = narrow.0.chunks_exact(S::LANES);
                    for (wide, narrow) in wide.0.chunks_exact_mut(S::LANES).zip(halves) {
                        // SAFETY: a line has a whole number of vectors.
                        simd.store_slice(wide, unsafe { simd.load_f16(narrow.as_ptr()) });
                    }
                }
                &scratch[..inputs.len()]
            }
            Lines::Bf16(_) => {
                let words = inputs.start / 2..inputs.end.div_ceil(2);
                for (wide, pairs) in scratch.chunks_exact_mut(2).zip(self.pairs(panel, words)) {
                    for lane in (0..PANEL).step_by(S::LANES) {
                        // SAFETY: a line has a whole number of vectors, and a pair is as large as an i32.
                        let pairs = unsafe { simd.load_i32(pairs.0[lane..].as_ptr().cast()) };
                        for (wide, values) in wide.iter_mut().zip(simd.widen_pairs(pairs)) {
                            simd.store_slice(&mut wide.0[lane..], values);
                        }
                    }
                }
                &scratch[..inputs.len()]
            }
            Lines::Split(lines) => {
                let panel = &lines[panel * self.lines_of_panel()..][..self.lines_of_panel()];
                let words = inputs.start / 2..inputs.end.div_ceil(2);
                for (wide, word) in scratch.chunks_exact_mut(2).zip(words) {
                    let large = word / TILE * 2 * TILE + word % TILE;
                    for lane in (0..PANEL).step_by(S::LANES) {
                        let [large, small] = [large, large + TILE].map(|line| {
                            // SAFETY: a line has a whole number of vectors, and a pair is as large as an i32.
                            unsafe { simd.load_i32(panel[line].0[lane..].as_ptr().cast()) }
                        });
                        let parts =
                            simd.widen_pairs(large).into_iter().zip(simd.widen_pairs(small));
                        for (wide, (large, small)) in wide.iter_mut().zip(parts) {
                            simd.store_slice(&mut wide.0[lane..], simd.add(large, small));
                        }
                    }
                }
                &scratch[..inputs.len()]
            }
        }
    }

    /// The lines of some pairs of inputs of a panel.
    ///
    /// # Panics
    /// If the weights are not pairs.
    #[inline(always)]
    pub(crate) fn pairs(&self, panel: usize, words: Range<usize>) -> &[Line<Pair>] {
        let Lines::Bf16(lines) = &self.lines else { unreachable!("no pairs: {:?}", self.lines) };
        let first = panel * self.lines_of_panel();
        &lines[first + words.start..first + words.end]
    }

    /// Addresses for prefetching the weights of some inputs of a panel.
    ///
    /// * `steps`: the minimum number of steps that prefetch
    pub(crate) fn ahead(&self, panel: usize, inputs: Range<usize>, steps: usize) -> Ahead {
        let lines = |of_line: usize| {
            let first = panel * self.lines_of_panel();
            first + inputs.start / of_line..first + inputs.end.div_ceil(of_line)
        };
        match &self.lines {
            Lines::F32(all) => Ahead::new(&all[lines(1)], steps),
            Lines::F16(all) => Ahead::new(&all[lines(1)], steps),
            Lines::Bf16(all) => Ahead::new(&all[lines(2)], steps),
            // Two inputs have two lines.
            Lines::Split(all) => Ahead::new(&all[lines(1)], steps),
        }
    }

    pub(crate) fn bias(&self, panel: usize) -> &[f32; PANEL] {
        &self.bias[panel].0
    }
}

/// The next address to prefetch, and the distance to the one after it.
pub(crate) struct Ahead {
    pub(crate) address: *const u8,
    /// The distance in bytes. With many steps it is smaller than a cache line, so that some lines are
    /// prefetched more than once.
    pub(crate) stride: usize,
}

impl Ahead {
    /// * `steps`: the minimum number of steps to reach the end
    pub(crate) fn new<T>(values: &[T], steps: usize) -> Self {
        Self { address: values.as_ptr().cast(), stride: size_of_val(values).div_ceil(steps.max(1)) }
    }
}

/// A part of a layer's outputs.
#[derive(Debug, Clone)]
pub struct Columns<'p> {
    pub(crate) packed: &'p Packed,
    pub(crate) columns: Range<usize>,
}

/// Fills a [`Packed`] piece by piece, so that the unpacked weights are never in memory as a whole.
#[derive(Debug)]
pub struct Packer {
    packed: Packed,
    filled: usize,
}

impl Packer {
    /// Allocates `columns` outputs of `depth` inputs.
    #[must_use]
    pub fn new(columns: usize, depth: usize, element: Element) -> Self {
        let panels = columns.div_ceil(PANEL);
        let zeros = |lines| vec![Line([Pair::default(); PANEL]); lines];
        // The allocator gives zero pages if it can, so that the threads that fill them touch them first.
        let lines = match element {
            Element::F32 => Lines::F32(vec![Line([0.0; PANEL]); panels * depth]),
            Element::F16 => Lines::F16(vec![Half([f16::ZERO; PANEL]); panels * depth]),
            Element::Bf16 => Lines::Bf16(zeros(panels * depth.div_ceil(2 * TILE) * TILE)),
            Element::Split => Lines::Split(zeros(panels * depth.div_ceil(2 * TILE) * 2 * TILE)),
        };
        let bias = vec![Line([0.0; PANEL]); panels];
        Self { packed: Packed { lines, bias, depth, columns }, filled: 0 }
    }

    /// Packs the weights of the next outputs.
    ///
    /// * `weights`: `[outputs, depth]`, row-major, as `torch.nn.Linear` has them
    ///
    /// # Panics
    /// If the weights are not a whole number of rows, or more than were allocated.
    pub fn push(&mut self, weights: &[f32]) {
        let depth = self.packed.depth;
        let rows = weights.len() / depth.max(1);
        assert!(weights.len() == rows * depth && self.filled + rows <= self.packed.columns);
        if rows == 0 {
            return;
        }
        let columns = self.filled..self.filled + rows;
        let of_panel = self.packed.lines_of_panel();
        let source = (&columns, weights);
        match &mut self.packed.lines {
            Lines::F32(lines) => fill(lines, (of_panel, 1), source, |lines, line, lane, values| {
                lines[line].0[lane] = values[0];
            }),
            Lines::F16(lines) => fill(lines, (of_panel, 1), source, |lines, line, lane, values| {
                lines[line].0[lane] = f16::from_f32(values[0]);
            }),
            Lines::Bf16(lines) => {
                fill(lines, (of_panel, 2), source, |lines, line, lane, values| {
                    lines[line].0[lane] = Pair::of(values);
                })
            }
            Lines::Split(lines) => {
                fill(lines, (of_panel, 2), source, |lines, word, lane, values| {
                    let line = word / TILE * 2 * TILE + word % TILE;
                    let [large, small] = Pair::split(values);
                    lines[line].0[lane] = large;
                    lines[line + TILE].0[lane] = small;
                })
            }
        }
        self.filled = columns.end;
    }

    /// Sets the bias of all outputs, which is zero by default.
    ///
    /// # Panics
    /// If there is not one value for each output.
    pub fn set_bias(&mut self, bias: &[f32]) {
        assert_eq!(bias.len(), self.packed.columns);
        for (line, bias) in self.packed.bias.iter_mut().zip(bias.chunks(PANEL)) {
            line.0[..bias.len()].copy_from_slice(bias);
        }
    }

    /// # Panics
    /// If weights are missing.
    #[must_use]
    pub fn finish(self) -> Packed {
        assert_eq!(self.filled, self.packed.columns, "weights are missing");
        self.packed
    }
}

/// Lines of a panel with `depth` inputs, padding included.
fn lines_of_panel(lines: &Lines, depth: usize) -> usize {
    match lines {
        Lines::F32(_) | Lines::F16(_) => depth,
        Lines::Bf16(_) => depth.div_ceil(2 * TILE) * TILE,
        Lines::Split(_) => depth.div_ceil(2 * TILE) * 2 * TILE,
    }
}
