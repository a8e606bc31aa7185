//! The vision tower.

use candle_core::{Result, Tensor};

use super::config::{Purpose, VisionConfig};
use crate::{
    embedding::Embedding,
    model::{
        LoadError, TowerError,
        kernels::{LayerNorm, Linear},
        nn::{
            ImageEmbeddings, ImageHead, ImageTower, Patches, check_squares, convolution,
            layer_norm, linear,
        },
        runtime::Runtime,
        weights::Scope,
    },
    preprocess::{ImageSpec, Pixels},
};

/// Mirrors transformers' [`BlipVisionModel`]. The embedding of a retrieval checkpoint is its class token, normed once
/// and projected; that of a captioning checkpoint is the class token normed twice, as transformers' `pooler_output`.
///
/// [`BlipVisionModel`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/blip/modeling_blip.py
pub(super) type Vision = ImageTower<Embeddings, Head>;

/// What is before the layers.
#[derive(Debug, Clone)]
pub(in crate::model) struct Embeddings {
    patches: Patches,
    /// The class token with its position: `[1, 1, hidden_size]`.
    class: Tensor,
    /// The patches' positions, with the bias of the projection in them: `[1, patches, hidden_size]`.
    positions: Tensor,
    /// Pixels of an image's side.
    side: usize,
}

impl Embeddings {
    pub(in crate::model) fn load(
        config: &VisionConfig,
        image: &ImageSpec,
        scope: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let (hidden, patch, runtime) =
            (config.encoder.hidden_size, config.patch_size, scope.runtime());
        let patches = (config.image_size / patch).pow(2);
        let mut class = scope.host("class_embedding", &[1, 1, hidden])?;
        let mut positions = scope.host("position_embedding", &[1, 1 + patches, hidden])?;
        let bias = scope.host("patch_embedding.bias", &[hidden])?;
        let mut of_patches = positions.split_off(hidden);
        let add = |values: &mut [f32], others: &[f32]| {
            values.iter_mut().zip(others).for_each(|(value, other)| *value += other);
        };
        add(&mut class, &positions);
        of_patches.chunks_exact_mut(hidden).for_each(|row| add(row, &bias));
        let compute = runtime.compute;
        Ok(Self {
            patches: Patches::new(convolution(hidden, patch, scope)?, image, patch, runtime),
            class: scope.tensor(class, &[1, 1, hidden], compute)?,
            positions: scope.tensor(of_patches, &[1, patches, hidden], compute)?,
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
        Tensor::cat(&[&class, &patches], 1)
    }

    fn on(&self, runtime: &Runtime) -> Self {
        Self { patches: self.patches.on(runtime), ..self.clone() }
    }
}

/// What is behind the layers.
#[derive(Debug, Clone)]
pub(super) struct Head {
    post_layernorm: LayerNorm,
    /// Of retrieval checkpoints.
    projection: Option<Linear>,
}

impl Head {
    fn load(
        config: &VisionConfig,
        purpose: Purpose,
        root: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let hidden = config.encoder.hidden_size;
        let norm = root.at("vision_model").at("post_layernorm");
        let projection = match purpose {
            Purpose::Retrieval { embedding_dim } => {
                Some(linear(&root.at("vision_proj"), embedding_dim, hidden)?)
            }
            Purpose::Captions => None,
        };
        let post_layernorm = layer_norm(&config.encoder, &norm)?;
        Ok(Self { post_layernorm, projection })
    }
}

impl ImageHead for Head {
    fn last_hidden_state(&self, state: &Tensor) -> Result<Tensor> {
        self.post_layernorm.forward(state)
    }

    fn pool(&self, last_hidden_state: &Tensor) -> Result<Tensor> {
        let class = last_hidden_state.narrow(1, 0, 1)?;
        let pooled = match &self.projection {
            Some(projection) => projection.forward(&class)?,
            None => self.post_layernorm.forward(&class)?,
        };
        pooled.squeeze(1)
    }
}

pub(super) fn load(
    (config, purpose): (&VisionConfig, Purpose),
    image: &ImageSpec,
    root: &Scope<'_>,
) -> std::result::Result<Vision, LoadError> {
    let scope = root.at("vision_model");
    let embeddings = Embeddings::load(config, image, &scope.at("embeddings"))?;
    let head = Head::load(config, purpose, root)?;
    Vision::load(embeddings, (&config.encoder, &scope.at("encoder")), head)
}

/// What [`load`] and a pass for each row give, with one layer in memory at a time.
pub(super) fn once(
    (config, purpose): (&VisionConfig, Purpose),
    image: &ImageSpec,
    root: &Scope<'_>,
    rows: &[Pixels],
) -> std::result::Result<Vec<Embedding>, LoadError> {
    let scope = root.at("vision_model");
    let embeddings = Embeddings::load(config, image, &scope.at("embeddings"))?;
    let head = || Head::load(config, purpose, root);
    Vision::once(embeddings, (&config.encoder, &scope.at("encoder")), head, rows)
}
