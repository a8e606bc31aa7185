//! The vision tower.

use candle_core::{Result, Tensor};

use super::config::{Projection, VisionConfig};
use crate::{
    embedding::Embedding,
    model::{
        LoadError, TowerError,
        kernels::{LayerNorm, Linear},
        nn::{
            ImageEmbeddings, ImageHead, ImageTower, Patches, check_squares, convolution, layer_norm,
        },
        runtime::Runtime,
        weights::Scope,
    },
    preprocess::{ImageSpec, Pixels},
};

/// Mirrors transformers' [`CLIPVisionModel`] and the projection behind it. What it calls `last_hidden_state` is the
/// last layer's output without a norm; only the class token is normed, before it is projected.
///
/// [`CLIPVisionModel`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/clip/modeling_clip.py
pub(super) type Vision = ImageTower<Embeddings, Head>;

/// What is before the layers.
#[derive(Debug, Clone)]
pub(super) struct Embeddings {
    patches: Patches,
    /// The class token with its position: `[1, 1, hidden_size]`.
    class: Tensor,
    /// The patches' positions: `[1, patches, hidden_size]`.
    positions: Tensor,
    /// In this spelling, which is transformers'.
    pre_layrnorm: LayerNorm,
    /// Pixels of an image's side.
    side: usize,
}

impl Embeddings {
    fn load(
        config: &VisionConfig,
        image: &ImageSpec,
        scope: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let (hidden, patch) = (config.encoder.hidden_size, config.patch_size);
        let (embeddings, runtime) = (scope.at("embeddings"), scope.runtime());
        let patches = (config.image_size / patch).pow(2);
        let mut class = embeddings.host("class_embedding", &[hidden])?;
        let mut positions = embeddings.host("position_embedding.weight", &[1 + patches, hidden])?;
        let of_patches = positions.split_off(hidden);
        for (value, position) in class.iter_mut().zip(&positions) {
            *value += position;
        }
        let compute = runtime.compute;
        Ok(Self {
            patches: Patches::new(convolution(hidden, patch, &embeddings)?, image, patch, runtime),
            class: embeddings.tensor(class, &[1, 1, hidden], compute)?,
            positions: embeddings.tensor(of_patches, &[1, patches, hidden], compute)?,
            pre_layrnorm: layer_norm(&config.encoder, &scope.at("pre_layrnorm"))?,
            side: config.image_size,
        })
    }
}

impl ImageEmbeddings for Embeddings {
    fn check(&self, rows: &[Pixels]) -> std::result::Result<(), TowerError> {
        check_squares(rows, self.side)
    }

    /// The class token and the patches.
    fn tokens(&self, row: &Pixels) -> usize {
        1 + self.patches.grid(row).iter().product::<usize>()
    }

    /// * returns `[batch, 1 + patches, hidden_size]`: the class token comes first
    fn forward(&self, rows: &[Pixels]) -> Result<Tensor> {
        let patches = self.patches.forward(rows, |_| Ok(self.positions.clone()))?;
        let (batch, _, hidden) = patches.dims3()?;
        let class = self.class.broadcast_as((batch, 1, hidden))?;
        self.pre_layrnorm.forward(&Tensor::cat(&[&class, &patches], 1)?)
    }

    fn on(&self, runtime: &Runtime) -> Self {
        Self { patches: self.patches.on(runtime), ..self.clone() }
    }
}

/// What is behind the layers.
#[derive(Debug, Clone)]
pub(super) struct Head {
    post_layernorm: LayerNorm,
    /// `[projection_dim, hidden_size]`; none where the class token is not projected.
    projection: Option<Linear>,
}

/// The matrix that makes an embedding of the class token.
const PROJECTION: &str = "visual_projection.weight";

/// Values of the projected class token; none where it is not projected.
fn projected(config: &VisionConfig, root: &Scope<'_>) -> Option<usize> {
    match config.projection {
        Projection::Dim(dim) => Some(dim),
        Projection::IfStored(dim) => root.contains(PROJECTION).then_some(dim),
    }
}

/// Values of an embedding.
pub(super) fn embedding_dim(config: &VisionConfig, root: &Scope<'_>) -> usize {
    projected(config, root).unwrap_or(config.encoder.hidden_size)
}

impl Head {
    fn load(config: &VisionConfig, root: &Scope<'_>) -> std::result::Result<Self, LoadError> {
        let hidden = config.encoder.hidden_size;
        let dim = projected(config, root);
        let project = |dim| root.linear(&[PROJECTION], &[], [dim, hidden]);
        Ok(Self {
            projection: dim.map(project).transpose()?,
            post_layernorm: layer_norm(&config.encoder, &scope(root).at("post_layernorm"))?,
        })
    }
}

impl ImageHead for Head {
    /// transformers norms none but the class token.
    fn last_hidden_state(&self, state: &Tensor) -> Result<Tensor> {
        Ok(state.clone())
    }

    fn pool(&self, last_hidden_state: &Tensor) -> Result<Tensor> {
        let class = self.post_layernorm.forward(&last_hidden_state.narrow(1, 0, 1)?)?;
        let pooled = match &self.projection {
            Some(projection) => projection.forward(&class)?,
            None => class,
        };
        pooled.squeeze(1)
    }
}

/// A stand-alone tower may be stored with the full model's prefix or without one.
fn scope<'w>(root: &Scope<'w>) -> Scope<'w> {
    match root.contains("embeddings.class_embedding") {
        true => root.clone(),
        false => root.at("vision_model"),
    }
}

pub(super) fn load(
    config: &VisionConfig,
    image: &ImageSpec,
    root: &Scope<'_>,
) -> std::result::Result<Vision, LoadError> {
    let scope = scope(root);
    let (embeddings, head) = (Embeddings::load(config, image, &scope)?, Head::load(config, root)?);
    Vision::load(embeddings, (&config.encoder, &scope.at("encoder")), head)
}

/// What [`load`] and a pass for each row give, with one layer in memory at a time.
pub(super) fn once(
    config: &VisionConfig,
    image: &ImageSpec,
    root: &Scope<'_>,
    rows: &[Pixels],
) -> std::result::Result<Vec<Embedding>, LoadError> {
    let scope = scope(root);
    let (embeddings, head) =
        (Embeddings::load(config, image, &scope)?, || Head::load(config, root));
    Vision::once(embeddings, (&config.encoder, &scope.at("encoder")), head, rows)
}
