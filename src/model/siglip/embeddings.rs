//! Images to the first states of the vision tower.

use candle_core::{Result, Tensor};

use super::{
    config::{Resolution, VisionConfig},
    positions::Positions,
};
use crate::{
    model::{
        LoadError, TowerError,
        nn::{ImageEmbeddings, Patches, convolution},
        runtime::Runtime,
        weights::Scope,
    },
    preprocess::{ImageSpec, Pixels, TargetSize},
};

/// Mirrors transformers' [`SiglipVisionEmbeddings`] and [`Siglip2VisionEmbeddings`].
///
/// [`SiglipVisionEmbeddings`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/siglip/modeling_siglip.py
/// [`Siglip2VisionEmbeddings`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/siglip2/modeling_siglip2.py
#[derive(Debug, Clone)]
pub(in crate::model) struct PatchEmbeddings {
    patches: Patches,
    /// The bias of the projection is in them.
    positions: Positions,
    /// The size that images are resized to.
    size: TargetSize,
}

impl PatchEmbeddings {
    pub(super) fn load(
        config: &VisionConfig,
        image: &ImageSpec,
        scope: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let (hidden, patch) = (config.encoder.hidden_size, config.patch_size);
        let projection = match config.resolution {
            Resolution::Fixed { .. } => convolution(hidden, patch, scope)?,
            Resolution::Naflex => {
                scope.linear(&["patch_embedding.weight"], &[], [hidden, patch * patch * 3])?
            }
        };
        Ok(Self {
            patches: Patches::new(projection, image, patch, scope.runtime()),
            positions: Positions::load(config, scope)?,
            size: image.size,
        })
    }
}

impl ImageEmbeddings for PatchEmbeddings {
    fn on(&self, runtime: &Runtime) -> Self {
        Self { patches: self.patches.on(runtime), ..self.clone() }
    }

    fn check(&self, rows: &[Pixels]) -> std::result::Result<(), TowerError> {
        let patch = self.patches.patch();
        for row in rows {
            let (height, width) = (row.height as usize, row.width as usize);
            let (fits, wanted) = match self.positions {
                Positions::Fixed { side, .. } => {
                    ((height, width) == (side, side), format!("{side} x {side}"))
                }
                Positions::Naflex(_) => {
                    let whole = |side: usize| side > 0 && side.is_multiple_of(patch);
                    (whole(height) && whole(width), format!("multiples of {patch}"))
                }
            };
            if !fits || row.data.len() != height * width * 3 {
                return Err(TowerError::Shape(format!(
                    "{height} x {width} pixels in {} bytes, where the model reads {wanted}",
                    row.data.len()
                )));
            }
        }
        Ok(())
    }

    fn tokens(&self, row: &Pixels) -> usize {
        self.patches.grid(row).iter().product()
    }

    fn forward(&self, rows: &[Pixels]) -> Result<Tensor> {
        self.patches.forward(rows, |grids| self.positions.of(grids))
    }

    fn usual_row(&self) -> Option<Pixels> {
        let TargetSize::Patches { patch_size, max_num_patches } = self.size else { return None };
        let width = patch_size.saturating_mul(max_num_patches);
        Some(Pixels { height: patch_size, width, data: [].into() })
    }
}
