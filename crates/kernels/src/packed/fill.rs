//! From rows of weights to the lines of panels.

use std::ops::Range;

use rayon::prelude::*;

use crate::simd::PANEL;

/// Writes the weights of some outputs to their places, a task a panel.
///
/// * `(of_panel, inputs)`: lines of a panel, and inputs that are written at once
/// * `set`: writes those of one output, given the panel and how many came before
pub(super) fn fill<L: Send>(
    lines: &mut [L],
    (of_panel, inputs): (usize, usize),
    (columns, weights): (&Range<usize>, &[f32]),
    set: impl Fn(&mut [L], usize, usize, &[f32]) + Sync,
) {
    /// So many lines at a time, that they stay in the first cache.
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
