//! The text side of retrieval checkpoints: embeddings of texts, and the head that matches texts with an image.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, bail};

use super::config::TextConfig;
use crate::{
    embedding::Embedding,
    model::{
        LoadError, MatchRow, Pass, ReaderRow, Resident, Stages, Tap, Tower, TowerError,
        kernels::{LayerNorm, Linear, Mask},
        nn::{self, BertLayer, Blocks, TokenConfig, TokenEmbeddings, layer_norm_of, linear},
        runtime::Runtime,
        weights::Scope,
    },
    tokenize::Tokens,
};

/// Ids to the first states.
#[derive(Debug, Clone)]
pub(super) struct Embeddings {
    tokens: TokenEmbeddings,
    norm: LayerNorm,
}

impl Embeddings {
    pub(super) fn load(
        config: &TextConfig,
        scope: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let (vocab_size, text_length) = (config.vocab_size, config.text_length);
        let tokens = TokenConfig { vocab_size, text_length, is_padded: false };
        let names = ["word_embeddings.weight", "position_embeddings.weight"];
        let (hidden, eps) = (config.layers.hidden_size, config.layers.layer_norm_eps);
        Ok(Self {
            tokens: TokenEmbeddings::load_named(tokens, hidden, (scope, names))?,
            norm: layer_norm_of(hidden, eps, &scope.at("LayerNorm"))?,
        })
    }

    pub(super) fn on(&self, runtime: &Runtime) -> Self {
        Self { tokens: self.tokens.on(runtime), norm: self.norm.clone() }
    }

    pub(super) fn check(&self, rows: &[Tokens]) -> std::result::Result<(), TowerError> {
        self.tokens.check(rows)
    }

    /// * `rows`: with equally many ids
    /// * returns `[batch, ids, hidden_size]`
    pub(super) fn forward(&self, rows: &[Tokens]) -> Result<Tensor> {
        self.norm.forward(&self.tokens.forward(rows)?)
    }

    /// One id of each of several texts, with its position.
    ///
    /// * returns `[texts, 1, hidden_size]`
    pub(super) fn one_each(&self, ids: &[(u32, usize)]) -> Result<Tensor> {
        self.norm.forward(&self.tokens.one_each(ids)?)
    }
}

/// The layers of a text side.
pub(super) fn layers(
    config: &TextConfig,
    scope: &Scope<'_>,
) -> std::result::Result<Vec<BertLayer>, LoadError> {
    let layers = scope.at("encoder").at("layer").in_bytes();
    (0..config.layers.num_hidden_layers)
        .map(|index| BertLayer::load(&config.layers, &layers.at(index)))
        .collect()
}

/// Mirrors transformers' [`BlipTextModel`] without an image, and the projection behind it. A text's vector is its first
/// token's. Texts are computed at their own length, which gives what padded and masked texts give.
///
/// [`BlipTextModel`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/blip/modeling_blip_text.py
#[derive(Debug, Clone)]
pub(super) struct Text {
    embeddings: Embeddings,
    layers: Vec<BertLayer>,
    projection: Linear,
    runtime: Runtime,
}

impl Text {
    pub(super) fn load(
        config: &TextConfig,
        embedding_dim: usize,
        root: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let scope = root.at("text_encoder");
        Ok(Self {
            embeddings: Embeddings::load(config, &scope.at("embeddings"))?,
            layers: layers(config, &scope)?,
            projection: linear(&root.at("text_proj"), embedding_dim, config.layers.hidden_size)?,
            runtime: root.runtime().clone(),
        })
    }

    /// What [`Text::load`] and a pass for each row give, with one layer in memory at a time.
    pub(super) fn once(
        config: &TextConfig,
        embedding_dim: usize,
        root: &Scope<'_>,
        rows: &[Tokens],
    ) -> std::result::Result<Vec<Embedding>, LoadError> {
        let (scope, runtime) = (root.at("text_encoder"), root.runtime());
        let embeddings = Embeddings::load(config, &scope.at("embeddings"))?;
        embeddings.check(rows)?;
        let embed = |row: &Tokens| embeddings.forward(std::slice::from_ref(row));
        let mut states = runtime.row_by_row(rows, embed)?;
        drop(embeddings);
        let stack = scope.at("encoder").at("layer").in_bytes();
        for index in 0..config.layers.num_hidden_layers {
            let layer = BertLayer::load(&config.layers, &stack.at(index))?;
            states = runtime.row_by_row(&states, |state| layer.alone(state))?;
        }
        let head = linear(&root.at("text_proj"), embedding_dim, config.layers.hidden_size)?;
        let pool = |state: &Tensor| nn::row(&head.forward(&state.narrow(1, 0, 1)?)?.squeeze(1)?, 0);
        Ok(runtime.row_by_row(&states, pool)?)
    }

    /// The matching head on the same layers.
    pub(super) fn matcher(
        &self,
        config: &TextConfig,
        root: &Scope<'_>,
    ) -> std::result::Result<Matcher, LoadError> {
        Ok(Matcher {
            embeddings: self.embeddings.clone(),
            layers: self.layers.clone(),
            head: linear(&root.at("itm_head"), 2, config.layers.hidden_size)?,
            image_width: config.layers.image_width,
            runtime: self.runtime.clone(),
        })
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
        self.layers.len()
    }

    fn layer(&self, index: usize, state: &Tensor) -> Result<Tensor> {
        self.layers[index].alone(state)
    }

    fn last_hidden_state(&self, state: &Tensor) -> Result<Tensor> {
        Ok(state.clone())
    }

    fn pool(&self, last_hidden_state: &Tensor) -> Result<Tensor> {
        self.projection.forward(&last_hidden_state.narrow(1, 0, 1)?)?.squeeze(1)
    }

    fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn on(&self, runtime: &Runtime) -> Self {
        let embeddings = self.embeddings.on(runtime);
        Self { embeddings, runtime: runtime.clone(), ..self.clone() }
    }
}

/// The matching head: a text is read together with an image, and its first token says whether they belong together.
#[derive(Debug, Clone)]
pub(super) struct Matcher {
    embeddings: Embeddings,
    layers: Vec<BertLayer>,
    head: Linear,
    image_width: usize,
    runtime: Runtime,
}

impl Matcher {
    /// The logits of the texts with one image. The image's keys and values are computed once a layer.
    fn logits(&self, row: &MatchRow) -> Result<Embedding> {
        let image = image_states(&row.image, self.image_width, &self.runtime)?;
        let mut groups = BTreeMap::<usize, Vec<usize>>::new();
        for (index, text) in row.texts.iter().enumerate() {
            groups.entry(text.ids.len()).or_default().push(index);
        }
        let mut states = Vec::with_capacity(groups.len());
        for indices in groups.values() {
            let texts: Vec<_> = indices.iter().map(|&index| row.texts[index].clone()).collect();
            states.push(self.embeddings.forward(&texts)?);
        }
        for layer in &self.layers {
            let image = layer.keys_of(&image)?;
            for state in &mut states {
                let (x, _) = layer.attend(state, Mask::None)?;
                *state = layer.think(&layer.look(&x, &image)?)?;
            }
        }
        let mut logits = vec![f32::NAN; row.texts.len()];
        for (indices, state) in groups.values().zip(&states) {
            let both = self.head.forward(&state.narrow(1, 0, 1)?)?.squeeze(1)?;
            let both = both.to_dtype(candle_core::DType::F32)?.to_vec2::<f32>()?;
            for (&index, both) in indices.iter().zip(both) {
                let [no, yes] = both[..] else { bail!("a matching head of {} values", both.len()) };
                logits[index] = yes - no;
            }
        }
        Ok(Embedding::new(logits))
    }
}

/// The states of an image as they came from the vision tower: `[1, states, width]`.
pub(in crate::model) fn image_states(
    image: &Embedding,
    width: usize,
    runtime: &Runtime,
) -> Result<Tensor> {
    let values = image.as_slice();
    if values.is_empty() || !values.len().is_multiple_of(width) {
        bail!("{} values are no states of {width}", values.len());
    }
    let shape = (1, values.len() / width, width);
    Tensor::from_slice(values, shape, &runtime.device)?.to_dtype(runtime.compute)
}

impl Tower for Matcher {
    type Input = ReaderRow;

    fn begin(&mut self, rows: &[ReaderRow], taps: &[Tap]) -> std::result::Result<Pass, TowerError> {
        Pass::pooled(taps, || {
            let mut matches = Vec::with_capacity(rows.len());
            for row in rows {
                let ReaderRow::Match(row) = row else {
                    return Err(TowerError::Shape("a matching head writes no captions".to_owned()));
                };
                self.embeddings.check(&row.texts)?;
                matches.push(row);
            }
            self.runtime.run(|| matches.into_iter().map(|row| self.logits(row)).collect())
        })
    }
}

impl Resident for Matcher {
    fn stages(&self, _: &[ReaderRow]) -> std::result::Result<Stages, TowerError> {
        Err(TowerError::Shape("a matching head has no stages".to_owned()))
    }

    fn on(&self, runtime: &Runtime) -> Box<dyn Resident<Input = ReaderRow>> {
        let embeddings = self.embeddings.on(runtime);
        Box::new(Self { embeddings, runtime: runtime.clone(), ..self.clone() })
    }
}
