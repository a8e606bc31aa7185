//! Pictures to patch embeddings, token ids to token embeddings.

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::super::{LoadError, TowerError, kernels::Linear, runtime::Runtime, weights::Scope};
use super::config::{TextConfig, VisionConfig};
use crate::{
    preprocess::{ImageSpec, Pixels},
    tokenize::Tokens,
};

/// Mirrors transformers' [`SiglipVisionEmbeddings`]: the convolution has its kernel's size as stride, so
/// it is a product over unfolded patches.
///
/// [`SiglipVisionEmbeddings`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/siglip/modeling_siglip.py
#[derive(Debug)]
pub(super) struct PatchEmbeddings {
    /// `[hidden_size, patch * patch * 3]`: row, column, channel, as the pixels lie in memory.
    projection: Linear,
    /// `[1, patches, hidden_size]`, the projection's bias added in.
    positions: Tensor,
    /// `[3][256]`: every value that a normalised pixel can have.
    table: Vec<[f32; 256]>,
    patch: usize,
    grid: usize,
    side: usize,
    runtime: Runtime,
}

impl PatchEmbeddings {
    pub(super) fn load(
        config: &VisionConfig,
        image: &ImageSpec,
        scope: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let (hidden, patch, grid) = (config.encoder.hidden_size, config.patch_size, config.grid());
        let kernel = scope.host("patch_embedding.weight", &[hidden, 3, patch, patch])?;
        let positions = scope.host("position_embedding.weight", &[grid * grid, hidden])?;
        let bias = scope.host("patch_embedding.bias", &[hidden])?;
        let area = patch * patch;
        let mut by_pixel = Vec::with_capacity(kernel.len());
        for kernel in kernel.chunks_exact(3 * area) {
            by_pixel.extend((0..3 * area).map(|at| kernel[at % 3 * area + at / 3]));
        }
        let positions = positions
            .chunks_exact(hidden)
            .flat_map(|row| row.iter().zip(&bias).map(|(position, bias)| position + bias))
            .collect();
        let runtime = scope.runtime();
        let weight = scope.tensor(by_pixel, &[hidden, 3 * area], runtime.resident)?;
        Ok(Self {
            projection: Linear::new(weight, None),
            positions: scope.tensor(positions, &[1, grid * grid, hidden], runtime.compute)?,
            table: normalized_values(image),
            patch,
            grid,
            side: config.image_size,
            runtime: runtime.clone(),
        })
    }

    /// # Errors
    /// Fails if a picture is not of the tower's size.
    pub(super) fn check(&self, rows: &[Pixels]) -> std::result::Result<(), TowerError> {
        for row in rows {
            let side = self.side;
            if (row.height as usize, row.width as usize, row.data.len())
                != (side, side, side * side * 3)
            {
                return Err(TowerError::Shape(format!(
                    "{} x {} pixels in {} bytes, where the model reads {side} x {side}",
                    row.height,
                    row.width,
                    row.data.len()
                )));
            }
        }
        Ok(())
    }

    /// * returns `[batch, patches, hidden_size]`
    pub(super) fn forward(&self, rows: &[Pixels]) -> Result<Tensor> {
        let patches = match self.runtime.device {
            Device::Cpu => self.unfold_on_host(rows)?,
            _ => self.unfold_on_device(rows)?,
        };
        self.projection.forward_residual(&patches, &self.positions)
    }

    /// Normalised pixels, gathered patch by patch in one pass: `[batch, patches, patch * patch * 3]`.
    fn unfold_on_host(&self, rows: &[Pixels]) -> Result<Tensor> {
        let (run, area) = (self.patch * 3, self.patch * self.patch * 3);
        let mut values = vec![0f32; rows.len() * self.grid * self.grid * area];
        // One task a row of patches.
        values.par_chunks_mut(self.grid * area).enumerate().for_each(|(task, strip)| {
            let (row, top) = (task / self.grid, task % self.grid * self.patch);
            for (column, patch) in strip.chunks_exact_mut(area).enumerate() {
                for (y, line) in patch.chunks_exact_mut(run).enumerate() {
                    let start = ((top + y) * self.side + column * self.patch) * 3;
                    let pixels = &rows[row].data[start..start + run];
                    for (to, from) in line.chunks_exact_mut(3).zip(pixels.chunks_exact(3)) {
                        for channel in 0..3 {
                            to[channel] = self.table[channel][usize::from(from[channel])];
                        }
                    }
                }
            }
        });
        Tensor::from_vec(values, (rows.len(), self.grid * self.grid, area), &Device::Cpu)
    }

    /// The same on the device, to which pixels travel as bytes.
    fn unfold_on_device(&self, rows: &[Pixels]) -> Result<Tensor> {
        let (batch, side, grid, patch) = (rows.len(), self.side, self.grid, self.patch);
        let bytes: Vec<u8> = rows.iter().flat_map(|row| row.data.iter().copied()).collect();
        let pixels = Tensor::from_vec(bytes, (batch, side, side, 3), &self.runtime.device)?;
        // Pixels to the right and below that fill no patch are not read.
        let whole = pixels.narrow(1, 0, grid * patch)?.narrow(2, 0, grid * patch)?;
        let patches = whole
            .reshape((batch, grid, patch, grid, patch * 3))?
            .transpose(2, 3)?
            .reshape((batch * grid * grid * patch * patch, 3))?
            .to_dtype(DType::F32)?;
        let offset: Vec<f32> = self.table.iter().map(|values| values[0]).collect();
        let scale: Vec<f32> =
            self.table.iter().map(|values| (values[255] - values[0]) / 255.0).collect();
        let offset = Tensor::new(offset, &self.runtime.device)?;
        let scale = Tensor::new(scale, &self.runtime.device)?;
        patches
            .broadcast_mul(&scale)?
            .broadcast_add(&offset)?
            .to_dtype(self.runtime.compute)?
            .reshape((batch, grid * grid, patch * patch * 3))
    }
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

/// Mirrors transformers' [`SiglipTextEmbeddings`].
///
/// [`SiglipTextEmbeddings`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/siglip/modeling_siglip.py
#[derive(Debug)]
pub(super) struct TokenEmbeddings {
    /// `[vocab_size, hidden_size]`.
    tokens: Tensor,
    /// `[text_length, hidden_size]`, in the compute type.
    positions: Tensor,
    vocab: u32,
    length: usize,
    runtime: Runtime,
}

impl TokenEmbeddings {
    pub(super) fn load(
        config: &TextConfig,
        scope: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let hidden = config.encoder.hidden_size;
        let length = config.max_position_embeddings;
        Ok(Self {
            tokens: scope.table("token_embedding.weight", &[config.vocab_size, hidden])?,
            positions: scope.vector("position_embedding.weight", &[length, hidden])?,
            vocab: u32::try_from(config.vocab_size)
                .map_err(|_| LoadError::new("vocab_size does not fit 32 bits"))?,
            length,
            runtime: scope.runtime().clone(),
        })
    }

    /// # Errors
    /// Fails if a text is not padded to the tower's length, or has an id outside of the vocabulary.
    pub(super) fn check(&self, rows: &[Tokens]) -> std::result::Result<(), TowerError> {
        for row in rows {
            if row.ids.len() != self.length {
                return Err(TowerError::Shape(format!(
                    "{} ids, where the model reads {}",
                    row.ids.len(),
                    self.length
                )));
            }
            if let Some(id) = row.ids.iter().find(|&&id| id >= self.vocab) {
                return Err(TowerError::Shape(format!(
                    "the id {id} in a vocabulary of {}",
                    self.vocab
                )));
            }
        }
        Ok(())
    }

    /// * returns `[batch, text_length, hidden_size]`
    pub(super) fn forward(&self, rows: &[Tokens]) -> Result<Tensor> {
        let ids: Vec<u32> = rows.iter().flat_map(|row| row.ids.iter().copied()).collect();
        let ids = Tensor::from_vec(ids, rows.len() * self.length, &self.runtime.device)?;
        self.tokens
            .index_select(&ids, 0)?
            .to_dtype(self.runtime.compute)?
            .reshape((rows.len(), self.length, ()))?
            .broadcast_add(&self.positions)
    }
}
