//! The text tower.

use candle_core::{Result, Tensor};

use super::config::TextConfig;
use crate::{
    embedding::Embedding,
    model::{
        LoadError, TowerError,
        kernels::{LayerNorm, Linear},
        nn::{self, Blocks, Encoder, TokenEmbeddings, layer_norm},
        runtime::Runtime,
        weights::Scope,
    },
    tokenize::Tokens,
};

/// Mirrors transformers' [`CLIPTextModel`] and the projection behind it. Its attention is causal, so the state of a
/// text's end token depends on nothing behind it: a text is computed up to that token, which is its last here.
///
/// [`CLIPTextModel`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/clip/modeling_clip.py
#[derive(Debug, Clone)]
pub(super) struct Text {
    embeddings: TokenEmbeddings,
    encoder: Encoder,
    head: Head,
    runtime: Runtime,
}

/// What is behind the layers.
#[derive(Debug, Clone)]
struct Head {
    final_layer_norm: LayerNorm,
    projection: Linear,
}

impl Head {
    fn load(config: &TextConfig, root: &Scope<'_>) -> std::result::Result<Self, LoadError> {
        let hidden = config.encoder.hidden_size;
        let norm = root.at("text_model").at("final_layer_norm");
        Ok(Self {
            final_layer_norm: layer_norm(&config.encoder, &norm)?,
            projection: root.linear(
                &["text_projection.weight"],
                &[],
                [config.projection_dim, hidden],
            )?,
        })
    }

    /// * `last_hidden_state`: `[batch, tokens, hidden_size]`, behind the last norm
    /// * returns `[batch, projection_dim]`
    fn pool(&self, last_hidden_state: &Tensor) -> Result<Tensor> {
        let end = last_hidden_state.narrow(1, last_hidden_state.dim(1)? - 1, 1)?;
        self.projection.forward(&end)?.squeeze(1)
    }
}

impl Text {
    pub(super) fn load(
        config: &TextConfig,
        root: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let (hidden, scope) = (config.encoder.hidden_size, root.at("text_model"));
        Ok(Self {
            embeddings: TokenEmbeddings::load(config.tokens, hidden, &scope.at("embeddings"))?,
            encoder: Encoder::load(&config.encoder, &scope.at("encoder"))?,
            head: Head::load(config, root)?,
            runtime: root.runtime().clone(),
        })
    }

    /// What [`Text::load`] and a pass for each row give, with one layer in memory at a time.
    pub(super) fn once(
        config: &TextConfig,
        root: &Scope<'_>,
        rows: &[Tokens],
    ) -> std::result::Result<Vec<Embedding>, LoadError> {
        let (hidden, scope, runtime) =
            (config.encoder.hidden_size, root.at("text_model"), root.runtime());
        let embeddings = TokenEmbeddings::load(config.tokens, hidden, &scope.at("embeddings"))?;
        embeddings.check(rows)?;
        let embed = |row: &Tokens| embeddings.forward(std::slice::from_ref(row));
        let states = runtime.row_by_row(rows, embed)?;
        drop(embeddings);
        let states = Encoder::once(&config.encoder, &scope.at("encoder"), states)?;
        let head = Head::load(config, root)?;
        let pool = |state: &Tensor| nn::row(&head.pool(&head.final_layer_norm.forward(state)?)?, 0);
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
        self.head.final_layer_norm.forward(state)
    }

    fn pool(&self, last_hidden_state: &Tensor) -> Result<Tensor> {
        self.head.pool(last_hidden_state)
    }

    /// Of the last layer only the end token's output is computed.
    fn pooled(&self, rows: &[Tokens]) -> Result<Tensor> {
        let end = self.encoder.forward_last(self.embeddings.forward(rows)?)?;
        self.pool(&self.head.final_layer_norm.forward(&end)?)
    }

    fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn on(&self, runtime: &Runtime) -> Self {
        let embeddings = self.embeddings.on(runtime);
        Self { embeddings, runtime: runtime.clone(), ..self.clone() }
    }
}
