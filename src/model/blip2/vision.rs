//! The vision tower, and what the Q-Former makes of an image.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::qformer::QFormer;
use crate::{
    embedding::Embedding,
    model::{
        LoadError, TowerError,
        blip::{config::VisionConfig, vision::Embeddings},
        kernels::{LayerNorm, Linear},
        nn::{self, Blocks, Encoder, layer_norm, linear},
        runtime::Runtime,
        weights::Scope,
    },
    preprocess::{ImageSpec, Pixels},
};

/// Mirrors transformers' [`Blip2VisionModel`], with the Q-Former and a projection behind it. The embedding of an image is
/// a vector for each query, one behind the other.
///
/// [`Blip2VisionModel`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/blip_2/modeling_blip_2.py
#[derive(Debug, Clone)]
pub(super) struct Vision {
    embeddings: Embeddings,
    encoder: Encoder,
    head: Head,
    runtime: Runtime,
}

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

    /// * `last_hidden_state`: `[batch, tokens, hidden_size]`, behind the norm
    /// * returns `[batch, queries * width]`
    fn pool(&self, last_hidden_state: &Tensor) -> Result<Tensor> {
        self.projection.forward(&self.qformer.see(last_hidden_state)?)?.flatten_from(1)
    }
}

impl Vision {
    pub(super) fn load(
        config: &VisionConfig,
        head: Head,
        (image, root): (&ImageSpec, &Scope<'_>),
    ) -> std::result::Result<Self, LoadError> {
        let scope = root.at("vision_model");
        Ok(Self {
            embeddings: Embeddings::load(config, image, &scope.at("embeddings"))?,
            encoder: Encoder::load(&config.encoder, &scope.at("encoder"))?,
            head,
            runtime: root.runtime().clone(),
        })
    }

    /// What [`Vision::load`] and a pass for each row give, with one layer in memory at a time.
    pub(super) fn once(
        config: &VisionConfig,
        head: Head,
        (image, root): (&ImageSpec, &Scope<'_>),
        rows: &[Pixels],
    ) -> std::result::Result<Vec<Embedding>, LoadError> {
        let (scope, runtime) = (root.at("vision_model"), root.runtime());
        let embeddings = Embeddings::load(config, image, &scope.at("embeddings"))?;
        embeddings.check(rows)?;
        let embed = |row: &Pixels| embeddings.forward(std::slice::from_ref(row));
        let states = runtime.row_by_row(rows, embed)?;
        drop(embeddings);
        let states = Encoder::once(&config.encoder, &scope.at("encoder"), states)?;
        let pool = |state: &Tensor| nn::row(&head.pool(&head.post_layernorm.forward(state)?)?, 0);
        Ok(runtime.row_by_row(&states, pool)?)
    }
}

impl Blocks for Vision {
    type Row = Pixels;

    const HAS_TOKENS: bool = true;

    fn check(&self, rows: &[Pixels]) -> std::result::Result<(), TowerError> {
        self.embeddings.check(rows)
    }

    fn tokens(&self, row: &Pixels) -> usize {
        self.embeddings.tokens(row)
    }

    fn embed(&self, rows: &[Pixels]) -> Result<Tensor> {
        self.embeddings.forward(rows)
    }

    fn depth(&self) -> usize {
        self.encoder.depth()
    }

    fn layer(&self, index: usize, state: &Tensor) -> Result<Tensor> {
        self.encoder.layer(index, state)
    }

    fn last_hidden_state(&self, state: &Tensor) -> Result<Tensor> {
        self.head.post_layernorm.forward(state)
    }

    fn pool(&self, last_hidden_state: &Tensor) -> Result<Tensor> {
        self.head.pool(last_hidden_state)
    }

    fn queries(&self, last_hidden_state: &Tensor) -> Result<Option<Tensor>> {
        self.head.qformer.see(last_hidden_state).map(Some)
    }

    fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn on(&self, runtime: &Runtime) -> Self {
        let embeddings = self.embeddings.on(runtime);
        Self { embeddings, runtime: runtime.clone(), ..self.clone() }
    }
}
