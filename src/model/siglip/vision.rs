//! The vision tower.

use candle_core::{Result, Tensor};

use super::{config::VisionConfig, embeddings::PatchEmbeddings, pooling::PoolingHead};
use crate::{
    embedding::Embedding,
    model::{
        LoadError,
        kernels::LayerNorm,
        nn::{ImageHead, ImageTower, layer_norm},
        weights::Scope,
    },
    preprocess::{ImageSpec, Pixels},
};

/// Mirrors transformers' [`SiglipVisionModel`] and [`Siglip2VisionModel`].
///
/// The latter pads images to one number of patches and masks the padding, in the encoder and in the pooling
/// head. Here each image has its own number and nothing is masked, which gives every patch the same sums.
///
/// A checkpoint without a pooling head gives the mean of its last hidden state over the patches, as
/// transformers' image classifier does.
///
/// [`SiglipVisionModel`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/siglip/modeling_siglip.py
/// [`Siglip2VisionModel`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/siglip2/modeling_siglip2.py
pub(in crate::model) type Vision = ImageTower<PatchEmbeddings, Head>;

/// What is behind the layers.
#[derive(Debug, Clone)]
pub(in crate::model) struct Head {
    post_layernorm: LayerNorm,
    pooling: Option<PoolingHead>,
}

impl Head {
    fn load(config: &VisionConfig, scope: &Scope<'_>) -> std::result::Result<Self, LoadError> {
        let pooling =
            config.use_head.then(|| PoolingHead::load(&config.encoder, &scope.at("head")));
        let post_layernorm = layer_norm(&config.encoder, &scope.at("post_layernorm"))?;
        Ok(Self { post_layernorm, pooling: pooling.transpose()? })
    }
}

impl ImageHead for Head {
    fn last_hidden_state(&self, state: &Tensor) -> Result<Tensor> {
        self.post_layernorm.forward(state)
    }

    fn pool(&self, last_hidden_state: &Tensor) -> Result<Tensor> {
        match &self.pooling {
            Some(pooling) => pooling.forward(last_hidden_state),
            None => {
                let dtype = last_hidden_state.dtype();
                last_hidden_state.to_dtype(candle_core::DType::F32)?.mean(1)?.to_dtype(dtype)
            }
        }
    }
}

pub(super) fn load(
    config: &VisionConfig,
    image: &ImageSpec,
    scope: &Scope<'_>,
) -> std::result::Result<Vision, LoadError> {
    let embeddings = PatchEmbeddings::load(config, image, &scope.at("embeddings"))?;
    let head = Head::load(config, scope)?;
    Vision::load(embeddings, (&config.encoder, &scope.at("encoder")), head)
}

/// What [`load`] and a pass for each row give, with one layer in memory at a time.
pub(super) fn once(
    config: &VisionConfig,
    image: &ImageSpec,
    scope: &Scope<'_>,
    rows: &[Pixels],
) -> std::result::Result<Vec<Embedding>, LoadError> {
    let embeddings = PatchEmbeddings::load(config, image, &scope.at("embeddings"))?;
    let head = || Head::load(config, scope);
    Vision::once(embeddings, (&config.encoder, &scope.at("encoder")), head, rows)
}
