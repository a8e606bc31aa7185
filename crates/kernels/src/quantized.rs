//! Layers whose weights and inputs are bytes. Sums of products are exact integers.
//!
//! Each output has its own scale, `w = scale * q` with q from -127 to 127, which is found when the weights are
//! packed. Each row of inputs has a scale and a lowest value, `x = lowest + scale * q` with q from 0 on, which
//! are found when the product begins. Then `x . w = scale_x scale_w (q_x . q_w) + lowest scale_w (1 . q_w)`;
//! the last factor is a constant of the output.
//!
//! The range of the bytes depends on the instruction set: `Room`. If sums have 16 bits, the scale of an output
//! is also chosen so that no four weights in one sum overflow it. For trained weights, which are as often
//! positive as negative, this is close to the scale that their largest value gives anyway.

mod inputs;
mod product;

use std::ops::Range;

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use crate::amx::Tile;

pub use self::product::quantized_product;
#[cfg(target_arch = "x86_64")]
pub(crate) use self::{inputs::Inputs, product::dequantize};
use crate::{
    Level,
    packed::Line,
    simd::{Kernel, PANEL, Room, Simd},
};

/// Inputs that are multiplied together.
pub(crate) const GROUP: usize = 8;

/// Groups of a panel that form a tile. A panel has a whole number of tiles.
const GROUPS: usize = 8;

/// Groups of a panel with `depth` inputs.
fn groups_of_panel(depth: usize) -> usize {
    depth.div_ceil(GROUP * GROUPS) * GROUPS
}

/// Weights of a group for each column of a panel: first those of the first four inputs, column by column, then
/// those of the others.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Bytes(pub(crate) [i8; PANEL * GROUP]);

/// Factors that turn the sums of a panel into values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factors {
    /// The scales of the weights.
    pub(crate) scales: Line<f32>,
    /// The sums of each output's weights.
    pub(crate) totals: Line<f32>,
    pub(crate) bias: Line<f32>,
}

/// A layer's weights as bytes, and its bias, packed once for one instruction set.
#[derive(Debug)]
pub struct Quantized {
    /// Panel by panel, group by group; inputs and outputs are filled up with zeros.
    pub(crate) groups: Vec<Bytes>,
    /// One entry per panel.
    pub(crate) factors: Vec<Factors>,
    depth: usize,
    columns: usize,
    room: Room,
}

impl Quantized {
    /// Maximum number of inputs of a layer, so that no sum overflows: 65536 * 255 * 127 < 2^31.
    pub const MOST_INPUTS: usize = 65536;

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
        size_of_val(&self.groups[..]) + size_of_val(&self.factors[..])
    }

    /// The range of bytes for which its weights were packed.
    pub(crate) fn room(&self) -> Room {
        self.room
    }

    pub(crate) fn groups_of_panel(&self) -> usize {
        groups_of_panel(self.depth)
    }

    /// The tiles of a panel.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn tiles(&self, panel: usize) -> &[Tile] {
        const { assert!(size_of::<Bytes>() * GROUPS == size_of::<Tile>()) };
        let groups = self.panels(panel..panel + 1);
        // SAFETY: the groups are a whole number of tiles of `GROUPS` groups. They are aligned to 64 bytes, have
        // no padding, and live as long as the result.
        unsafe { std::slice::from_raw_parts(groups.as_ptr().cast(), groups.len() / GROUPS) }
    }

    /// The groups of some panels.
    pub(crate) fn panels(&self, panels: Range<usize>) -> &[Bytes] {
        let groups = self.groups_of_panel();
        &self.groups[panels.start * groups..panels.end * groups]
    }
}

/// Fills a [`Quantized`] piece by piece, so that the unpacked weights are never in memory as a whole.
#[derive(Debug)]
pub struct Quantizer {
    layer: Quantized,
    filled: usize,
}

impl Quantizer {
    /// Allocates `columns` outputs of `depth` inputs, to be multiplied with the set `level`.
    ///
    /// # Panics
    /// If there are more inputs than [`Quantized::MOST_INPUTS`].
    #[must_use]
    pub fn new(columns: usize, depth: usize, level: Level) -> Self {
        assert!(depth <= Quantized::MOST_INPUTS, "{depth} inputs");
        let panels = columns.div_ceil(PANEL);
        let zeros = Line([0.0; PANEL]);
        let layer = Quantized {
            groups: vec![Bytes([0; PANEL * GROUP]); panels * groups_of_panel(depth)],
            factors: vec![Factors { scales: zeros, totals: zeros, bias: zeros }; panels],
            depth,
            columns,
            room: level.room(),
        };
        Self { layer, filled: 0 }
    }

    /// Packs the weights of the next outputs.
    ///
    /// * `weights`: `[outputs, depth]`, row-major, as `torch.nn.Linear` has them
    ///
    /// # Panics
    /// If the weights are not a whole number of rows, or more than were allocated.
    pub fn push(&mut self, weights: &[f32]) {
        let Quantized { groups, factors, depth, columns, room } = &mut self.layer;
        let (depth, room) = (*depth, *room);
        let rows = weights.len() / depth.max(1);
        assert!(weights.len() == rows * depth && self.filled + rows <= *columns);
        if rows == 0 {
            return;
        }
        let columns = self.filled..self.filled + rows;
        let touched = columns.start / PANEL..columns.end.div_ceil(PANEL);
        let groups = groups.par_chunks_exact_mut(groups_of_panel(depth)).zip(factors);
        let panels = groups.enumerate().skip(touched.start).take(touched.len());
        panels.for_each(|(panel, (groups, factors))| {
            let origin = panel * PANEL;
            for column in columns.start.max(origin)..columns.end.min(origin + PANEL) {
                let row = &weights[(column - columns.start) * depth..][..depth];
                let lane = column - origin;
                let scale = scale(row, room);
                factors.scales.0[lane] = scale;
                factors.totals.0[lane] = fill(groups, lane, row, scale) as f32;
            }
        });
        self.filled = columns.end;
    }

    /// Sets the bias of all outputs, which is zero by default.
    ///
    /// # Panics
    /// If there is not one value for each output.
    pub fn set_bias(&mut self, bias: &[f32]) {
        assert_eq!(bias.len(), self.layer.columns);
        for (factors, bias) in self.layer.factors.iter_mut().zip(bias.chunks(PANEL)) {
            factors.bias.0[..bias.len()].copy_from_slice(bias);
        }
    }

    /// # Panics
    /// If weights are missing.
    #[must_use]
    pub fn finish(self) -> Quantized {
        assert_eq!(self.filled, self.layer.columns, "weights are missing");
        self.layer
    }
}

/// A part of a layer's outputs.
#[derive(Debug, Clone)]
pub struct QuantizedColumns<'q> {
    pub(crate) layer: &'q Quantized,
    pub(crate) columns: Range<usize>,
}

impl Quantized {
    /// A part of the outputs, as a layer.
    ///
    /// # Panics
    /// If the layer does not have these outputs.
    #[must_use]
    pub fn part(&self, columns: Range<usize>) -> QuantizedColumns<'_> {
        assert!(columns.start <= columns.end && columns.end <= self.columns, "{columns:?}");
        QuantizedColumns { layer: self, columns }
    }
}

/// Asks a set for its `Room`.
pub(crate) struct Ask;

impl Kernel for Ask {
    type Output = Room;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Room {
        S::ROOM
    }
}

/// The scale of an output's weights: the smallest with which they fit. It is zero if all weights are zero, and
/// NaN if a weight is NaN or infinite, so that the result shows it.
fn scale(row: &[f32], room: Room) -> f32 {
    if !row.iter().all(|weight| weight.is_finite()) {
        return f32::NAN;
    }
    let largest = row.iter().fold(0f32, |most, weight| most.max(weight.abs()));
    let by_largest = largest / 127.0;
    let Some(largest_sum) = room.largest_sum() else { return by_largest };
    let mut most = 0f32;
    for group in row.chunks(GROUP) {
        // In each four inputs of a group, the first two are added together, and the last two.
        let mut sums = [[0f32; 2]; 2];
        for (at, &weight) in group.iter().enumerate() {
            sums[at % 4 / 2][usize::from(weight < 0.0)] += weight.abs();
        }
        most = sums.iter().flatten().fold(most, |most, &sum| most.max(sum));
    }
    // Four rounding errors add up to at most two steps.
    by_largest.max(most / f32::from(largest_sum - 2))
}

/// Rounds an output's weights and writes them to their places.
///
/// * returns their sum
fn fill(groups: &mut [Bytes], lane: usize, row: &[f32], scale: f32) -> i32 {
    let mut total = 0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (group, weights) in groups.iter_mut().zip(row.chunks(GROUP)) {
        for (at, &weight) in weights.iter().enumerate() {
            // The inverse of a tiny scale may be infinite. It is limited, so that a weight of zero stays zero.
            let step =
                (weight * inverse.min(f32::MAX)).round_ties_even().clamp(-127.0, 127.0) as i8;
            group.0[at / 4 * 4 * PANEL + lane * 4 + at % 4] = step;
            total += i32::from(step);
        }
    }
    total
}

#[cfg(test)]
mod tests;
