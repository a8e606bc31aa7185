//! The text tower.

use candle_core::Tensor;

use super::super::{
    LoadError, Pass, Tap, Tower, TowerError,
    kernels::{LayerNorm, Linear},
    runtime::Runtime,
    weights::Scope,
};
use super::{
    config::TextConfig,
    embeddings::TokenEmbeddings,
    encoder::{Encoder, layer_norm},
    mlp::linear,
    taps::{self, Stages},
};
use crate::{embedding::Embedding, tokenize::Tokens};

/// Mirrors transformers' [`SiglipTextModel`]: bidirectional, no mask over the padding, and the last
/// position, normally padding, is the text's vector.
///
/// [`SiglipTextModel`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/siglip/modeling_siglip.py
#[derive(Debug, Clone)]
pub struct Text {
    embeddings: TokenEmbeddings,
    encoder: Encoder,
    final_layer_norm: LayerNorm,
    head: Linear,
    projection: usize,
    runtime: Runtime,
}

impl Text {
    pub(in crate::model) fn load(
        config: &TextConfig,
        scope: &Scope<'_>,
    ) -> Result<Self, LoadError> {
        let (hidden, projection) = (config.encoder.hidden_size, config.projection_size);
        Ok(Self {
            embeddings: TokenEmbeddings::load(config, &scope.at("embeddings"))?,
            encoder: Encoder::load(&config.encoder, &scope.at("encoder"))?,
            final_layer_norm: layer_norm(&config.encoder, &scope.at("final_layer_norm"))?,
            head: linear(&scope.at("head"), projection, hidden)?,
            projection,
            runtime: scope.runtime().clone(),
        })
    }

    /// What [`Text::load`] and a pass for each row give, with one layer in memory at a time.
    pub(in crate::model) fn once(
        config: &TextConfig,
        scope: &Scope<'_>,
        rows: &[Tokens],
    ) -> Result<Vec<Embedding>, LoadError> {
        let (hidden, projection) = (config.encoder.hidden_size, config.projection_size);
        let runtime = scope.runtime();
        let embeddings = TokenEmbeddings::load(config, &scope.at("embeddings"))?;
        embeddings.check(rows)?;
        let embed = |row: &Tokens| embeddings.forward(std::slice::from_ref(row));
        let states = runtime.row_by_row(rows, embed)?;
        drop(embeddings);
        let states = Encoder::once(&config.encoder, &scope.at("encoder"), states)?;
        let norm = layer_norm(&config.encoder, &scope.at("final_layer_norm"))?;
        let head = linear(&scope.at("head"), projection, hidden)?;
        let pool = |state: &Tensor| {
            let last = state.narrow(1, state.dim(1)? - 1, 1)?;
            taps::row(&head.forward(&norm.forward(&last)?)?.squeeze(1)?, 0)
        };
        Ok(runtime.row_by_row(&states, pool)?)
    }

    /// The same weights, which both share, computed with on other threads of the same device.
    pub(in crate::model) fn on(&self, runtime: &Runtime) -> Self {
        let embeddings = self.embeddings.on(runtime);
        Self { embeddings, runtime: runtime.clone(), ..self.clone() }
    }

    /// * returns `[batch, projection_size]`
    fn pooled(&self, rows: &[Tokens]) -> candle_core::Result<Tensor> {
        let last = self.encoder.forward_last(self.embeddings.forward(rows)?)?;
        self.head.forward(&self.final_layer_norm.forward(&last)?)?.squeeze(1)
    }

    /// Every stage on the way, for tests.
    ///
    /// # Errors
    /// Fails like [`Tower::forward`].
    pub fn stages(&self, rows: &[Tokens]) -> Result<Stages, TowerError> {
        self.embeddings.check(rows)?;
        self.runtime.run(|| {
            let hidden_states = self.encoder.hidden_states(self.embeddings.forward(rows)?)?;
            let last = taps::last(&hidden_states)?;
            let last_hidden_state = self.final_layer_norm.forward(last)?;
            let position = last_hidden_state.dim(1)? - 1;
            let pooled = self.head.forward(&last_hidden_state.narrow(1, position, 1)?)?;
            Stages::new(&hidden_states, &last_hidden_state, &pooled.squeeze(1)?)
        })
    }
}

impl Tower for Text {
    type Input = Tokens;

    fn embedding_dim(&self) -> usize {
        self.projection
    }

    fn forward(&mut self, rows: &[Tokens]) -> Result<Vec<Embedding>, TowerError> {
        self.embeddings.check(rows)?;
        let tokens = rows.first().map_or(0, |row| row.ids.len());
        self.runtime.run(|| taps::in_passes(&self.runtime, rows, tokens, |rows| self.pooled(rows)))
    }

    fn begin(&mut self, rows: &[Tokens], taps: &[Tap]) -> Result<Pass, TowerError> {
        if !self.runtime.copies.overlap() || taps.iter().any(|&tap| tap != Tap::Pooled) {
            return self.tapped(rows, taps).map(Pass::done);
        }
        self.embeddings.check(rows)?;
        let tokens = rows.first().map_or(0, |row| row.ids.len());
        taps::begin(&self.runtime, rows, tokens, |rows| self.pooled(rows))
    }
}
