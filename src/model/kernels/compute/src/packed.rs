//! Weights in the order in which the product reads them.

use std::ops::Range;

use half::{bf16, f16};
use rayon::prelude::*;

use crate::simd::{PANEL, Simd};

/// One value for each column of a panel: a cache line of f32, half of one of 16-bit floats.
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
pub(crate) struct Line<T>(pub(crate) [T; PANEL]);

/// What packed weights are made of. Sums are f32 whatever it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Element {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats with 10 bits of mantissa; larger values than 65504 become infinite.
    F16,
    /// 16-bit floats with 7 bits of mantissa.
    Bf16,
}

/// Inputs of a pass whose weights are widened to f32 first: 16 columns of so many fill most of a first-level cache of
/// 32 KiB, and stay there while the rows pass by.
pub(crate) const WIDENED: usize = 384;

/// Inputs of a layer that takes one pass, its weights read in place: they come from the second-level cache in order,
/// faster than they are used up, and no sum is written and read again.
const WHOLE: usize = 1152;

/// Inputs of a pass of a layer that has more of them: with those of a tile of rows they would no longer fit there.
const PART: usize = 512;

#[derive(Debug)]
enum Lines {
    F32(Vec<Line<f32>>),
    F16(Vec<Line<f16>>),
    Bf16(Vec<Line<bf16>>),
}

/// A layer's weights and bias, packed once.
///
/// Panels of 16 columns (outputs), one after the other; in a panel a line of 16 values for each input. The last
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
            Lines::Bf16(lines) => size_of_val(&lines[..]),
        };
        weights + size_of_val(&self.bias[..])
    }

    /// Some of the outputs, as a layer.
    ///
    /// # Panics
    /// If they are not there.
    #[must_use]
    pub fn part(&self, columns: Range<usize>) -> Columns<'_> {
        assert!(columns.start <= columns.end && columns.end <= self.columns, "{columns:?}");
        Columns { packed: self, columns }
    }

    /// Inputs of one pass over the rows, at most.
    pub(crate) fn pass(&self) -> usize {
        match self.lines {
            Lines::F32(_) if self.depth <= WHOLE => WHOLE,
            Lines::F32(_) => PART,
            Lines::F16(_) | Lines::Bf16(_) => WIDENED,
        }
    }

    /// The lines `inputs` of a panel: in place, or widened into `scratch`, which has room for `WIDENED` lines.
    #[inline(always)]
    pub(crate) fn block<'b, S: Simd>(
        &'b self,
        simd: S,
        panel: usize,
        inputs: Range<usize>,
        scratch: &'b mut [Line<f32>],
    ) -> &'b [Line<f32>] {
        let first = panel * self.depth;
        let range = first + inputs.start..first + inputs.end;
        match &self.lines {
            Lines::F32(lines) => &lines[range],
            Lines::F16(lines) => {
                // SAFETY: a line has a whole number of vectors.
                widen(simd, &lines[range], scratch, |from| unsafe { simd.load_f16(from) })
            }
            Lines::Bf16(lines) => {
                // SAFETY: as above.
                widen(simd, &lines[range], scratch, |from| unsafe { simd.load_bf16(from) })
            }
        }
    }

    /// The way through some lines of a panel, so that they are near when [`Packed::block`] gives them.
    ///
    /// * `steps`: how many it takes, at least
    pub(crate) fn ahead(&self, panel: usize, inputs: Range<usize>, steps: usize) -> Ahead {
        let first = panel * self.depth + inputs.start;
        let (address, line) = match &self.lines {
            Lines::F32(lines) => (lines[first..].as_ptr().cast(), size_of::<Line<f32>>()),
            Lines::F16(lines) => (lines[first..].as_ptr().cast(), size_of::<Line<f16>>()),
            Lines::Bf16(lines) => (lines[first..].as_ptr().cast(), size_of::<Line<bf16>>()),
        };
        Ahead { address, stride: (inputs.len() * line).div_ceil(steps.max(1)) }
    }

    pub(crate) fn bias(&self, panel: usize) -> &[f32; PANEL] {
        &self.bias[panel].0
    }
}

/// What is asked for next, and how far it is to what comes after it.
pub(crate) struct Ahead {
    pub(crate) address: *const u8,
    /// In bytes. Smaller than a cache's line, where many steps are taken: then some ask again for what has come.
    pub(crate) stride: usize,
}

/// Widens lines into scratch memory, vector by vector.
#[inline(always)]
fn widen<'b, S: Simd, T>(
    simd: S,
    lines: &[Line<T>],
    scratch: &'b mut [Line<f32>],
    load: impl Fn(*const T) -> S::F,
) -> &'b [Line<f32>] {
    let scratch = &mut scratch[..lines.len()];
    for (wide, line) in scratch.iter_mut().zip(lines) {
        for (wide, narrow) in wide.0.chunks_exact_mut(S::LANES).zip(line.0.chunks_exact(S::LANES)) {
            simd.store_slice(wide, load(narrow.as_ptr()));
        }
    }
    scratch
}

/// Some of a layer's outputs.
#[derive(Debug, Clone)]
pub struct Columns<'p> {
    pub(crate) packed: &'p Packed,
    pub(crate) columns: Range<usize>,
}

/// Fills a [`Packed`], so that weights which are stored in pieces never exist in one.
#[derive(Debug)]
pub struct Packer {
    packed: Packed,
    filled: usize,
}

impl Packer {
    /// Room for `columns` outputs of `depth` inputs.
    #[must_use]
    pub fn new(columns: usize, depth: usize, element: Element) -> Self {
        let panels = columns.div_ceil(PANEL);
        // Zero pages, where the allocator has them: they are first touched by the threads that fill them.
        let lines = match element {
            Element::F32 => Lines::F32(vec![Line([0.0; PANEL]); panels * depth]),
            Element::F16 => Lines::F16(vec![Line([f16::ZERO; PANEL]); panels * depth]),
            Element::Bf16 => Lines::Bf16(vec![Line([bf16::ZERO; PANEL]); panels * depth]),
        };
        let bias = vec![Line([0.0; PANEL]); panels];
        Self { packed: Packed { lines, bias, depth, columns }, filled: 0 }
    }

    /// Packs the weights of the next outputs.
    ///
    /// * `weights`: `[outputs, depth]`, row-major, as `torch.nn.Linear` has them
    ///
    /// # Panics
    /// If they are no whole number of rows, or more than there is room for.
    pub fn push(&mut self, weights: &[f32]) {
        let depth = self.packed.depth;
        let rows = weights.len() / depth.max(1);
        assert!(weights.len() == rows * depth && self.filled + rows <= self.packed.columns);
        if rows == 0 {
            return;
        }
        let columns = self.filled..self.filled + rows;
        match &mut self.packed.lines {
            Lines::F32(lines) => fill(lines, &columns, weights, |value| value),
            Lines::F16(lines) => fill(lines, &columns, weights, f16::from_f32),
            Lines::Bf16(lines) => fill(lines, &columns, weights, bf16::from_f32),
        }
        self.filled = columns.end;
    }

    /// Sets the bias of all outputs; it is zero otherwise.
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

/// Writes the weights of some outputs to their places, a task a panel.
fn fill<T: Copy + Send + Sync>(
    lines: &mut [Line<T>],
    columns: &Range<usize>,
    weights: &[f32],
    convert: impl Fn(f32) -> T + Sync,
) {
    let depth = weights.len() / columns.len();
    let (first, last) = (columns.start / PANEL, columns.end.div_ceil(PANEL));
    let panels = lines[first * depth..last * depth].par_chunks_exact_mut(depth);
    panels.enumerate().for_each(|(index, panel)| {
        let origin = (first + index) * PANEL;
        let lanes = columns.start.max(origin)..columns.end.min(origin + PANEL);
        let rows = &weights[(lanes.start - columns.start) * depth..][..lanes.len() * depth];
        // So many inputs at a time, that the lines written stay in the first cache.
        for (block, lines) in panel.chunks_mut(64).enumerate() {
            for (lane, row) in (lanes.start - origin..).zip(rows.chunks_exact(depth)) {
                for (line, &value) in lines.iter_mut().zip(&row[block * 64..]) {
                    line.0[lane] = convert(value);
                }
            }
        }
    });
}
