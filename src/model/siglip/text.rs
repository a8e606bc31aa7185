//! The text tower.

use candle_core::{Result, Tensor};

use super::config::TextConfig;
use crate::{
    embedding::Embedding,
    model::{
        LoadError, TowerError,
        kernels::{LayerNorm, Linear},
        nn::{self, Blocks, Encoder, PaddingCache, TokenEmbeddings, layer_norm, linear},
        runtime::Runtime,
        weights::Scope,
    },
    tokenize::Tokens,
};

/// Mirrors transformers' [`SiglipTextModel`]: bidirectional, no mask over the padding, and the last
/// position, normally padding, is the text's vector.
///
/// [`SiglipTextModel`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/siglip/modeling_siglip.py
#[derive(Debug, Clone)]
pub(in crate::model) struct Text {
    embeddings: TokenEmbeddings,
    padding: PaddingCache,
    encoder: Encoder,
    final_layer_norm: LayerNorm,
    head: Linear,
    runtime: Runtime,
}

impl Text {
    pub(super) fn load(
        config: &TextConfig,
        scope: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let (hidden, projection) = (config.encoder.hidden_size, config.projection_size);
        Ok(Self {
            embeddings: TokenEmbeddings::load(config.tokens, hidden, &scope.at("embeddings"))?,
            padding: PaddingCache::default(),
            encoder: Encoder::load(&config.encoder, &scope.at("encoder"))?,
            final_layer_norm: layer_norm(&config.encoder, &scope.at("final_layer_norm"))?,
            head: linear(&scope.at("head"), projection, hidden)?,
            runtime: scope.runtime().clone(),
        })
    }

    /// What [`Text::load`] and a pass for each row give, with one layer in memory at a time.
    pub(super) fn once(
        config: &TextConfig,
        scope: &Scope<'_>,
        rows: &[Tokens],
    ) -> std::result::Result<Vec<Embedding>, LoadError> {
        let (hidden, projection) = (config.encoder.hidden_size, config.projection_size);
        let runtime = scope.runtime();
        let embeddings = TokenEmbeddings::load(config.tokens, hidden, &scope.at("embeddings"))?;
        embeddings.check(rows)?;
        let embed = |row: &Tokens| embeddings.forward(std::slice::from_ref(row));
        let states = runtime.row_by_row(rows, embed)?;
        drop(embeddings);
        let states = Encoder::once(&config.encoder, &scope.at("encoder"), states)?;
        let norm = layer_norm(&config.encoder, &scope.at("final_layer_norm"))?;
        let head = linear(&scope.at("head"), projection, hidden)?;
        let pool = |state: &Tensor| {
            let last = state.narrow(1, state.dim(1)? - 1, 1)?;
            nn::row(&head.forward(&norm.forward(&last)?)?.squeeze(1)?, 0)
        };
        Ok(runtime.row_by_row(&states, pool)?)
    }
}

impl Blocks for Text {
    type Row = Tokens;

    const HAS_TOKENS: bool = false;

    fn check(&self, rows: &[Tokens]) -> std::result::Result<(), TowerError> {
        self.embeddings.check(rows)
    }

    fn tokens(&self, row: &Tokens) -> usize {
        row.ids.len()
    }

    fn embed(&self, rows: &[Tokens]) -> Result<Tensor> {
        self.embeddings.forward(rows)
    }

    fn depth(&self) -> usize {
        self.encoder.depth()
    }

    fn layer(&self, index: usize, state: &Tensor) -> Result<Tensor> {
        self.encoder.layer(index, state)
    }

    fn last_hidden_state(&self, state: &Tensor) -> Result<Tensor> {
        self.final_layer_norm.forward(state)
    }

    fn pool(&self, last_hidden_state: &Tensor) -> Result<Tensor> {
        let last = last_hidden_state.narrow(1, last_hidden_state.dim(1)? - 1, 1)?;
        self.head.forward(&last)?.squeeze(1)
    }

    /// Only the last position's.
    fn pooled(&self, rows: &[Tokens]) -> Result<Tensor> {
        let x = self.embeddings.forward(rows)?;
        let last = self.encoder.forward_last_padded(x, (&self.padding, rows))?;
        self.pool(&self.final_layer_norm.forward(&last)?)
    }

    fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn on(&self, runtime: &Runtime) -> Self {
        let embeddings = self.embeddings.on(runtime);
        Self { embeddings, runtime: runtime.clone(), ..self.clone() }
    }
}
