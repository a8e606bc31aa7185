//! The vision tower.

use candle_core::{Result, Tensor};

use super::{config::VisionConfig, embeddings::PatchEmbeddings, pooling::PoolingHead};
use crate::{
    embedding::Embedding,
    model::{
        LoadError, TowerError,
        kernels::LayerNorm,
        nn::{self, Blocks, Encoder, layer_norm},
        runtime::Runtime,
        weights::Scope,
    },
    preprocess::{ImageSpec, Pixels, TargetSize},
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
#[derive(Debug, Clone)]
pub(in crate::model) struct Vision {
    embeddings: PatchEmbeddings,
    encoder: Encoder,
    post_layernorm: LayerNorm,
    head: Option<PoolingHead>,
    size: TargetSize,
    runtime: Runtime,
}

impl Vision {
    pub(super) fn load(
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
            size: image.size,
            runtime: scope.runtime().clone(),
        })
    }

    /// What [`Vision::load`] and a pass for each row give, with one layer in memory at a time.
    pub(super) fn once(
        config: &VisionConfig,
        image: &ImageSpec,
        scope: &Scope<'_>,
        rows: &[Pixels],
    ) -> std::result::Result<Vec<Embedding>, LoadError> {
        let runtime = scope.runtime();
        let embeddings = PatchEmbeddings::load(config, image, &scope.at("embeddings"))?;
        embeddings.check(rows)?;
        let embed = |row: &Pixels| embeddings.forward(std::slice::from_ref(row));
        let states = runtime.row_by_row(rows, embed)?;
        drop(embeddings);
        let states = Encoder::once(&config.encoder, &scope.at("encoder"), states)?;
        let norm = layer_norm(&config.encoder, &scope.at("post_layernorm"))?;
        let head = config.use_head.then(|| PoolingHead::load(&config.encoder, &scope.at("head")));
        let head = head.transpose()?;
        let pool = |state: &Tensor| nn::row(&pool(head.as_ref(), &norm.forward(state)?)?, 0);
        Ok(runtime.row_by_row(&states, pool)?)
    }
}

fn pool(head: Option<&PoolingHead>, last_hidden_state: &Tensor) -> Result<Tensor> {
    match head {
        Some(head) => head.forward(last_hidden_state),
        None => {
            let dtype = last_hidden_state.dtype();
            last_hidden_state.to_dtype(candle_core::DType::F32)?.mean(1)?.to_dtype(dtype)
        }
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
        self.post_layernorm.forward(state)
    }

    fn pool(&self, last_hidden_state: &Tensor) -> Result<Tensor> {
        pool(self.head.as_ref(), last_hidden_state)
    }

    fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn on(&self, runtime: &Runtime) -> Self {
        let embeddings = self.embeddings.on(runtime);
        Self { embeddings, runtime: runtime.clone(), ..self.clone() }
    }

    fn usual_row(&self) -> Option<Pixels> {
        let TargetSize::Patches { patch_size, max_num_patches } = self.size else { return None };
        let width = patch_size.saturating_mul(max_num_patches);
        Some(Pixels { height: patch_size, width, data: [].into() })
    }
}
