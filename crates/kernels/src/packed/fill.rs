//! Writes rows of weights into the lines of panels.

use std::ops::Range;

use rayon::prelude::*;

use crate::simd::PANEL;

/// Writes the weights of some outputs to their places, with one task per panel.
///
/// * `(of_panel, inputs)`: lines of a panel, and the number of inputs that are written together
/// * `set`: writes the inputs of one output, given the panel and the number of inputs before them
pub(super) fn fill<L: Send>(
    lines: &mut [L],
    (of_panel, inputs): (usize, usize),
    (columns, weights): (&Range<usize>, &[f32]),
    set: impl Fn(&mut [L], usize, usize, &[f32]) + Sync,
) {
    /// The number of lines at a time, which fit into the first-level cache.
    const BLOCK: usize = 64;
    let depth = weights.len() / columns.len();
    let (first, last) = (columns.start / PANEL, columns.end.div_ceil(PANEL));
    let panels = lines[first * of_panel..last * of_panel].par_chunks_exact_mut(of_panel);
    panels.enumerate().for_each(|(index, panel)| {
        let origin = (first + index) * PANEL;
        let lanes = columns.start.max(origin)..columns.end.min(origin + PANEL);
        let rows = &weights[(lanes.start - columns.start) * depth..][..lanes.len() * depth];
        for block in (0..depth.div_ceil(inputs)).step_by(BLOCK) {
            for (lane, row) in (lanes.start - origin..).zip(rows.chunks_exact(depth)) {
                let values = row[block * inputs..].chunks(inputs).take(BLOCK);
                for (line, values) in (block..).zip(values) {
                    set(panel, line, lane, values);
                }
            }
        }
    });
}
