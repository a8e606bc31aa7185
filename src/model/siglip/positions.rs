//! Position embeddings of patches.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use indexmap::IndexMap;
use parking_lot::Mutex;

use super::super::{LoadError, nn::Grid, runtime::Runtime, weights::Scope};
use super::config::{Resolution, VisionConfig};
use crate::preprocess::{Filter, Resample};

/// A learnt vector for each place of a patch, with the patch projection's bias added in.
#[derive(Debug, Clone)]
pub(super) enum Positions {
    /// One grid, for images of one size.
    Fixed {
        /// Pixels of an image's side.
        side: usize,
        /// `[1, patches, hidden_size]`
        values: Tensor,
    },
    /// A grid for each shape, interpolated from the stored one.
    Naflex(Arc<StoredGrid>),
}

impl Positions {
    pub(super) fn load(
        config: &VisionConfig,
        scope: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let (hidden, grid) = (config.encoder.hidden_size, config.grid);
        let mut values = scope.host("position_embedding.weight", &[grid * grid, hidden])?;
        let bias = scope.host("patch_embedding.bias", &[hidden])?;
        // Before any interpolation: its weights sum to one, so the bias comes through as it is.
        for row in values.chunks_exact_mut(hidden) {
            for (value, bias) in row.iter_mut().zip(&bias) {
                *value += bias;
            }
        }
        let runtime = scope.runtime();
        Ok(match config.resolution {
            Resolution::Fixed { image_size } => Self::Fixed {
                side: image_size,
                values: scope.tensor(values, &[1, grid * grid, hidden], runtime.compute)?,
            },
            Resolution::Naflex => Self::Naflex(Arc::new(StoredGrid {
                values,
                grid,
                hidden,
                runtime: runtime.clone(),
                resized: Mutex::default(),
            })),
        })
    }

    /// The positions of images with equally many patches.
    ///
    /// * returns `[images, patches, hidden_size]`, or `[1, ..]` where they are the same for all
    pub(super) fn of(&self, grids: &[Grid]) -> Result<Tensor> {
        let stored = match self {
            Self::Fixed { values, .. } => return Ok(values.clone()),
            Self::Naflex(stored) => stored,
        };
        match grids {
            [first, rest @ ..] if rest.iter().all(|grid| grid == first) => stored.resized(*first),
            _ => {
                let each = grids.iter().map(|&grid| stored.resized(grid));
                Tensor::cat(&each.collect::<Result<Vec<_>>>()?, 0)
            }
        }
    }
}

/// Most bytes of interpolated grids that are kept. One is 0.8 MB at base size; a fresh one costs about a
/// thousandth of a forward pass.
const KEPT_BYTES: usize = 64 << 20;

/// A square grid of positions, and what was interpolated from it.
#[derive(Debug)]
pub(super) struct StoredGrid {
    /// `[grid, grid, hidden_size]`, on the host.
    values: Vec<f32>,
    grid: usize,
    hidden: usize,
    runtime: Runtime,
    resized: Mutex<Resized>,
}

/// Interpolated grids, the oldest first.
#[derive(Debug, Default)]
struct Resized {
    tables: IndexMap<Grid, Tensor>,
    bytes: usize,
}

impl StoredGrid {
    /// `[1, rows * columns, hidden_size]`
    fn resized(&self, grid: Grid) -> Result<Tensor> {
        if let Some(table) = self.resized.lock().tables.get(&grid) {
            return Ok(table.clone());
        }
        let [rows, columns] = grid;
        let values = interpolate(&self.values, [self.grid; 2], grid);
        let table =
            Tensor::from_vec(values, (1, rows * columns, self.hidden), &self.runtime.device)?
                .to_dtype(self.runtime.compute)?;
        let bytes = |table: &Tensor| table.elem_count() * table.dtype().size_in_bytes();
        let kept = &mut *self.resized.lock();
        kept.bytes += bytes(&table);
        while kept.bytes > KEPT_BYTES
            && let Some((_, oldest)) = kept.tables.shift_remove_index(0)
        {
            kept.bytes -= bytes(&oldest);
        }
        if let Some(replaced) = kept.tables.insert(grid, table.clone()) {
            kept.bytes -= bytes(&replaced);
        }
        Ok(table)
    }
}

/// Resizes a grid of vectors, bilinear and antialiased, corners not aligned: what transformers' NaFlex tower
/// does with [`torch.nn.functional.interpolate`]. Without the antialiasing, grids smaller than the stored
/// one come out wrong.
///
/// Followed into a fault of its CPU kernel: where one column comes out and the number of rows changes, every
/// row gets what belongs to the first. Images that tall hardly occur, and the reference's vectors of them are
/// computed that way.
///
/// * `values`: `[from[0], from[1], width]`, row-major
/// * returns `[to[0], to[1], width]`
///
/// [`torch.nn.functional.interpolate`]: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.interpolate.html
fn interpolate(values: &[f32], from: Grid, to: Grid) -> Vec<f32> {
    let width = values.len() / (from[0] * from[1]).max(1);
    let mut across = Vec::with_capacity(from[0] * to[1] * width);
    let filter = Filter::new(Resample::Bilinear, from[1], to[1]);
    let columns: Vec<_> = (0..to[1]).map(|column| filter.weights(column)).collect();
    for row in values.chunks_exact(from[1] * width) {
        for taps in &columns {
            weigh(row, width, taps, &mut across);
        }
    }
    let mut result = Vec::with_capacity(to[0] * to[1] * width);
    let filter = Filter::new(Resample::Bilinear, from[0], to[0]);
    let single_column = to[1] == 1 && to[0] != from[0];
    for row in 0..to[0] {
        let row = if single_column { 0 } else { row };
        weigh(&across, to[1] * width, &filter.weights(row), &mut result);
    }
    result
}

/// Appends the weighted sum of neighbouring runs of `length` values.
fn weigh(values: &[f32], length: usize, taps: &(usize, Vec<f64>), out: &mut Vec<f32>) {
    let (first, weights) = taps;
    let start = out.len();
    out.resize(start + length, 0.0);
    let sums = &mut out[start..];
    for (run, &weight) in values.chunks_exact(length).skip(*first).zip(weights) {
        for (sum, value) in sums.iter_mut().zip(run) {
            *sum += weight as f32 * value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_of_its_own_size_stays_as_it_is() {
        let values: Vec<f32> = (0..24).map(|value| value as f32).collect();
        assert_eq!(interpolate(&values, [3, 4], [3, 4]), values);
    }

    #[test]
    fn shrinking_looks_at_every_value() {
        // One row of eight to two: the filter is as wide as the scale, and cut at the ends.
        let mut values = [0.0; 8];
        values[2] = 16.0;
        let halves = interpolate(&values, [1, 8], [1, 2]);
        // Weights 5, 7, 7, 5, 3, 1 of 28 around 1.5: the third has 7.
        assert_eq!(halves, [4.0, 16.0 / 28.0]);
    }

    #[test]
    fn one_column_is_as_in_the_reference() {
        let values = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0];
        assert_eq!(interpolate(&values, [3, 2], [3, 1]), [2.0, 6.0, 10.0]);
        assert_eq!(interpolate(&values, [3, 2], [6, 1]), [2.0; 6]);
        assert_eq!(interpolate(&values, [3, 2], [6, 2])[..4], [1.0, 3.0, 2.0, 4.0]);
    }

    #[test]
    fn a_constant_is_kept_in_any_shape() {
        for to in [[1, 1], [1, 40], [37, 2], [5, 9]] {
            let resized = interpolate(&[2.5; 4 * 4 * 3], [4, 4], to);
            assert_eq!(resized.len(), to[0] * to[1] * 3);
            assert!(resized.iter().all(|value| (value - 2.5).abs() < 1e-6), "{to:?}");
        }
    }
}
