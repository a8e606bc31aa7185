//! The vision tower.

use candle_core::{Result, Tensor};

use super::super::{
    LoadError, Tower, TowerError, kernels::LayerNorm, runtime::Runtime, weights::Scope,
};
use super::{
    config::VisionConfig,
    embeddings::PatchEmbeddings,
    encoder::{Encoder, layer_norm},
    pooling::PoolingHead,
    taps::{self, Stages},
};
use crate::{
    embedding::Embedding,
    preprocess::{ImageSpec, Pixels},
};

/// Mirrors transformers' [`SiglipVisionModel`].
///
/// A checkpoint without a pooling head gives the mean of its last hidden state over the patches, as
/// transformers' image classifier does.
///
/// [`SiglipVisionModel`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/siglip/modeling_siglip.py
#[derive(Debug)]
pub struct Vision {
    embeddings: PatchEmbeddings,
    encoder: Encoder,
    post_layernorm: LayerNorm,
    head: Option<PoolingHead>,
    hidden: usize,
    runtime: Runtime,
}

impl Vision {
    pub(in crate::model) fn load(
        config: &VisionConfig,
        image: &ImageSpec,
        scope: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let head = config.use_head.then(|| PoolingHead::load(&config.encoder, &scope.at("head")));
        Ok(Self {
            embeddings: PatchEmbeddings::load(config, image, &scope.at("embeddings"))?,
            encoder: Encoder::load(&config.encoder, &scope.at("encoder"))?,
            post_layernorm: layer_norm(&config.encoder, &scope.at("post_layernorm"))?,
            head: head.transpose()?,
            hidden: config.encoder.hidden_size,
            runtime: scope.runtime().clone(),
        })
    }

    /// Every stage on the way, for tests and for feature extraction.
    ///
    /// # Errors
    /// Fails like [`Tower::forward`].
    pub fn stages(&self, rows: &[Pixels]) -> std::result::Result<Stages, TowerError> {
        self.embeddings.check(rows)?;
        self.runtime.run(|| {
            let hidden_states = self.encoder.hidden_states(self.embeddings.forward(rows)?)?;
            let last = taps::last(&hidden_states)?;
            let last_hidden_state = self.post_layernorm.forward(last)?;
            let pooled = self.pool(&last_hidden_state)?;
            Stages::new(&hidden_states, &last_hidden_state, &pooled)
        })
    }

    fn pool(&self, last_hidden_state: &Tensor) -> Result<Tensor> {
        match &self.head {
            Some(head) => head.forward(last_hidden_state),
            None => {
                let dtype = last_hidden_state.dtype();
                last_hidden_state.to_dtype(candle_core::DType::F32)?.mean(1)?.to_dtype(dtype)
            }
        }
    }
}

impl Tower for Vision {
    type Input = Pixels;

    fn embedding_dim(&self) -> usize {
        self.hidden
    }

    fn forward(&mut self, rows: &[Pixels]) -> std::result::Result<Vec<Embedding>, TowerError> {
        self.embeddings.check(rows)?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        self.runtime.run(|| {
            let x = self.encoder.forward(self.embeddings.forward(rows)?)?;
            taps::embeddings(&self.pool(&self.post_layernorm.forward(&x)?)?)
        })
    }
}
