//! The vision tower, and what the Q-Former makes of an image.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::qformer::QFormer;
use crate::{
    embedding::Embedding,
    model::{
        LoadError,
        blip::{config::VisionConfig, vision::Embeddings},
        kernels::{LayerNorm, Linear},
        nn::{ImageHead, ImageTower, layer_norm, linear},
        weights::Scope,
    },
    preprocess::{ImageSpec, Pixels},
};

/// Mirrors transformers' [`Blip2VisionModel`], with the Q-Former and a projection behind it. The embedding of an image is
/// one vector for each query, concatenated.
///
/// [`Blip2VisionModel`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/blip_2/modeling_blip_2.py
pub(super) type Vision = ImageTower<Embeddings, Head>;

/// What is behind the layers.
#[derive(Debug, Clone)]
pub(super) struct Head {
    post_layernorm: LayerNorm,
    qformer: Arc<QFormer>,
    projection: Linear,
    /// Values of one vector.
    width: usize,
}

impl Head {
    /// * `width`: values of one vector
    pub(super) fn load(
        config: &VisionConfig,
        (qformer, projection, width): (Arc<QFormer>, &Scope<'_>, usize),
        root: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let norm = root.at("vision_model").at("post_layernorm");
        Ok(Self {
            post_layernorm: layer_norm(&config.encoder, &norm)?,
            projection: linear(projection, width, qformer.width)?,
            qformer,
            width,
        })
    }

    pub(super) fn vector_width(&self) -> usize {
        self.width
    }
}

impl ImageHead for Head {
    fn last_hidden_state(&self, state: &Tensor) -> Result<Tensor> {
        self.post_layernorm.forward(state)
    }

    /// * returns `[batch, queries * width]`
    fn pool(&self, last_hidden_state: &Tensor) -> Result<Tensor> {
        self.projection.forward(&self.qformer.see(last_hidden_state)?)?.flatten_from(1)
    }

    fn queries(&self, last_hidden_state: &Tensor) -> Result<Option<Tensor>> {
        self.qformer.see(last_hidden_state).map(Some)
    }
}

pub(super) fn load(
    config: &VisionConfig,
    head: Head,
    (image, root): (&ImageSpec, &Scope<'_>),
) -> std::result::Result<Vision, LoadError> {
    let scope = root.at("vision_model");
    let embeddings = Embeddings::load(config, image, &scope.at("embeddings"))?;
    Vision::load(embeddings, (&config.encoder, &scope.at("encoder")), head)
}

/// What [`load`] and a pass for each row give, with one layer in memory at a time.
pub(super) fn once(
    config: &VisionConfig,
    head: Head,
    (image, root): (&ImageSpec, &Scope<'_>),
    rows: &[Pixels],
) -> std::result::Result<Vec<Embedding>, LoadError> {
    let scope = root.at("vision_model");
    let embeddings = Embeddings::load(config, image, &scope.at("embeddings"))?;
    Vision::once(embeddings, (&config.encoder, &scope.at("encoder")), || Ok(head), rows)
}
