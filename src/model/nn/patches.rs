//! Pixels to patches, and patches to the first states of a vision tower.

use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;

use crate::{
    model::{LoadError, device::Unfold, kernels::Linear, runtime::Runtime, weights::Scope},
    preprocess::{ImageSpec, Pixels},
};

/// Rows and columns of patches.
pub(in crate::model) type Grid = [usize; 2];

/// The projection of whole patches. A convolution whose stride is the size of its kernel is a product over unfolded
/// patches.
#[derive(Debug, Clone)]
pub(in crate::model) struct Patches {
    /// `[hidden_size, patch * patch * 3]`: row, column, channel, as the pixels lie in memory.
    projection: Linear,
    /// `[3][256]`: every value that a normalised pixel can have.
    table: Vec<[f32; 256]>,
    patch: usize,
    runtime: Runtime,
}

impl Patches {
    /// * `projection`: `[hidden_size, patch * patch * 3]`, without a bias
    pub(in crate::model) fn new(
        projection: Linear,
        image: &ImageSpec,
        patch: usize,
        runtime: &Runtime,
    ) -> Self {
        Self { projection, table: normalized_values(image), patch, runtime: runtime.clone() }
    }

    /// The same weights, computed with elsewhere.
    pub(in crate::model) fn on(&self, runtime: &Runtime) -> Self {
        Self { runtime: runtime.clone(), ..self.clone() }
    }

    /// Pixels of a patch's side.
    pub(in crate::model) fn patch(&self) -> usize {
        self.patch
    }

    /// Rows and columns of whole patches.
    pub(in crate::model) fn grid(&self, row: &Pixels) -> Grid {
        [row.height as usize / self.patch, row.width as usize / self.patch]
    }

    /// The projection of each patch, and what `positions` gives for the grids of the rows added to it.
    ///
    /// * `rows`: with equally many patches
    /// * `positions`: gives `[batch, patches, hidden_size]`, or `[1, ..]` where they are the same for all rows
    /// * returns `[batch, patches, hidden_size]`
    pub(in crate::model) fn forward(
        &self,
        rows: &[Pixels],
        positions: impl FnOnce(&[Grid]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let grids: Vec<_> = rows.iter().map(|row| self.grid(row)).collect();
        let count = grids.first().map_or(0, |[rows, columns]| rows * columns);
        if grids.iter().any(|[rows, columns]| rows * columns != count) {
            bail!("rows of different numbers of patches in one pass");
        }
        let patches = match self.runtime.device {
            Device::Cpu => self.unfold_on_host(rows, &grids)?,
            _ => self.unfold_on_device(rows)?,
        };
        self.projection.forward_residual(&patches, &positions(&grids)?)
    }

    /// Normalised pixels, gathered patch by patch in one pass: `[batch, patches, patch * patch * 3]`.
    fn unfold_on_host(&self, rows: &[Pixels], grids: &[Grid]) -> Result<Tensor> {
        let (run, area) = (self.patch * 3, self.patch * self.patch * 3);
        let count = grids.first().map_or(0, |[rows, columns]| rows * columns);
        let mut values = vec![0f32; rows.len() * count * area];
        // About a row of patches a task.
        let patches = values.par_chunks_mut(area).with_min_len(16).enumerate();
        patches.for_each(|(index, patch)| {
            let (row, [_, columns]) = (&rows[index / count], grids[index / count]);
            let (top, left) = (index % count / columns, index % count % columns);
            for (y, line) in patch.chunks_exact_mut(run).enumerate() {
                let above = (top * self.patch + y) * row.width as usize;
                let start = (above + left * self.patch) * 3;
                let pixels = &row.data[start..start + run];
                for (to, from) in line.chunks_exact_mut(3).zip(pixels.chunks_exact(3)) {
                    for channel in 0..3 {
                        to[channel] = self.table[channel][usize::from(from[channel])];
                    }
                }
            }
        });
        Tensor::from_vec(values, (rows.len(), count, area), &Device::Cpu)
    }

    /// The same on the device, to which pixels travel as bytes.
    fn unfold_on_device(&self, rows: &[Pixels]) -> Result<Tensor> {
        let runs = rows.chunk_by(|a, b| (a.height, a.width) == (b.height, b.width));
        let runs = runs.map(|run| self.unfold_alike_on_device(run)).collect::<Result<Vec<_>>>()?;
        if let [all] = &runs[..] { Ok(all.clone()) } else { Tensor::cat(&runs, 0) }
    }

    fn unfold_alike_on_device(&self, rows: &[Pixels]) -> Result<Tensor> {
        let Some(first) = rows.first() else { bail!("no rows") };
        let (batch, patch) = (rows.len(), self.patch);
        let [down, across] = self.grid(first);
        let shape = (batch, first.height as usize, first.width as usize, 3);
        let bytes: Vec<_> = rows.iter().map(|row| &row.data[..]).collect();
        let pixels = self.runtime.copies.upload(&bytes, shape)?;
        let first = |channel: usize| self.table[channel][0];
        let step = |channel: usize| (self.table[channel][255] - first(channel)) / 255.0;
        let (scale, offset) = ([0, 1, 2].map(step), [0, 1, 2].map(first));
        let unfold = Unfold { patch, grid: [down, across], scale, offset };
        if let Some(patches) = self.runtime.own.unfold(&pixels, unfold)? {
            return Ok(patches);
        }
        // Pixels to the right and below that fill no patch are not read.
        let whole = pixels.narrow(1, 0, down * patch)?.narrow(2, 0, across * patch)?;
        let patches = whole
            .reshape((batch, down, patch, across, patch * 3))?
            .transpose(2, 3)?
            .reshape((batch * down * across * patch * patch, 3))?
            .to_dtype(DType::F32)?;
        let offset = Tensor::new(&offset, &self.runtime.device)?;
        let scale = Tensor::new(&scale, &self.runtime.device)?;
        patches
            .broadcast_mul(&scale)?
            .broadcast_add(&offset)?
            .to_dtype(self.runtime.compute)?
            .reshape((batch, down * across, patch * patch * 3))
    }
}

/// A patch convolution as a layer over pixels in memory's order: `[hidden, patch * patch * 3]`.
pub(in crate::model) fn convolution(
    hidden: usize,
    patch: usize,
    scope: &Scope<'_>,
) -> std::result::Result<Linear, LoadError> {
    let area = patch * patch;
    let kernel = scope.host("patch_embedding.weight", &[hidden, 3, patch, patch])?;
    let mut by_pixel = Vec::with_capacity(kernel.len());
    for kernel in kernel.chunks_exact(3 * area) {
        by_pixel.extend((0..3 * area).map(|at| kernel[at % 3 * area + at / 3]));
    }
    scope.linear_of(by_pixel, None, [hidden, 3 * area])
}

/// `(value * rescale - mean) / std` for each channel and each value of a byte.
fn normalized_values(image: &ImageSpec) -> Vec<[f32; 256]> {
    (0..3)
        .map(|channel| {
            std::array::from_fn(|value| {
                (value as f32 * image.rescale - image.mean[channel]) / image.std[channel]
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn the_host_and_a_device_unfold_alike() -> Result<()> {
        let spec =
            br#"{"max_num_patches": 6, "image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 4]}"#;
        let spec = ImageSpec::parse_naflex(spec, 2).expect("valid");
        let runtime = config::Model { threads: 2, ..config::Model::default() };
        let runtime = Runtime::new(&runtime).expect("the processor is there");
        let nothing = Tensor::zeros((1, 12), DType::F32, &Device::Cpu)?;
        let embeddings = Patches::new(Linear::tensors(nothing, None), &spec, 2, &runtime);
        let row = |height: u32, width: u32| Pixels {
            height,
            width,
            data: (0..height * width * 3).map(|at| (at * 37 % 251) as u8).collect(),
        };
        // The middle one has a column that fills no patch, as fixed sizes may have.
        let rows = [row(4, 6), row(6, 5), row(6, 4), row(2, 12), row(2, 12)];
        let grids: Vec<_> = rows.iter().map(|row| embeddings.grid(row)).collect();
        assert_eq!(grids[..2], [[2, 3], [3, 2]]);
        let host = embeddings.unfold_on_host(&rows, &grids)?.flatten_all()?.to_vec1::<f32>()?;
        let device = embeddings.unfold_on_device(&rows)?;
        assert_eq!(device.dims(), [5, 6, 12]);
        let device = device.flatten_all()?.to_vec1::<f32>()?;
        let most = host.iter().zip(device).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(most < 1e-6, "{most}");
        Ok(())
    }
}
