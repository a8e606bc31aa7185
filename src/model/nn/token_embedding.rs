//! Token ids to the first states of a text tower.

use candle_core::{Device, Result, Tensor, bail};

use crate::{
    model::{LoadError, TowerError, runtime::Runtime, weights::Scope},
    tokenize::Tokens,
};

/// The shape of a text tower's embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) struct TokenConfig {
    pub(in crate::model) vocab_size: usize,
    /// The number of positions.
    pub(in crate::model) text_length: usize,
    /// Whether every text is padded to the last position. Otherwise a text has ids of its own number.
    pub(in crate::model) is_padded: bool,
}

/// Mirrors transformers' [`CLIPTextEmbeddings`], which are SigLIP's as well.
///
/// [`CLIPTextEmbeddings`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/clip/modeling_clip.py
#[derive(Debug, Clone)]
pub(in crate::model) struct TokenEmbeddings {
    /// `[vocab_size, hidden_size]`.
    tokens: Tensor,
    /// `[text_length, hidden_size]`, in the compute type.
    positions: Tensor,
    vocab: u32,
    config: TokenConfig,
    runtime: Runtime,
}

impl TokenEmbeddings {
    pub(in crate::model) fn load(
        config: TokenConfig,
        hidden: usize,
        scope: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let names = ["token_embedding.weight", "position_embedding.weight"];
        Self::load_named(config, hidden, (scope, names))
    }

    /// * `names`: of the tables of tokens and of positions
    pub(in crate::model) fn load_named(
        config: TokenConfig,
        hidden: usize,
        (scope, names): (&Scope<'_>, [&str; 2]),
    ) -> std::result::Result<Self, LoadError> {
        let TokenConfig { vocab_size, text_length, .. } = config;
        Ok(Self {
            tokens: scope.table(names[0], &[vocab_size, hidden])?,
            positions: scope.vector(names[1], &[text_length, hidden])?,
            vocab: u32::try_from(vocab_size)
                .map_err(|_| LoadError::new("vocab_size does not fit 32 bits"))?,
            config,
            runtime: scope.runtime().clone(),
        })
    }

    /// The same weights, computed with elsewhere.
    pub(in crate::model) fn on(&self, runtime: &Runtime) -> Self {
        Self { runtime: runtime.clone(), ..self.clone() }
    }

    /// # Errors
    /// Fails if a text has a number of ids that the tower does not read, or an id outside of the vocabulary.
    pub(in crate::model) fn check(&self, rows: &[Tokens]) -> std::result::Result<(), TowerError> {
        let TokenConfig { text_length, is_padded, .. } = self.config;
        let fewest = if is_padded { text_length } else { 1 };
        for row in rows {
            if !(fewest..=text_length).contains(&row.ids.len()) {
                return Err(TowerError::Shape(format!(
                    "{} ids, where the model reads from {fewest} to {text_length}",
                    row.ids.len(),
                )));
            }
            if let Some(id) = row.ids.iter().find(|&&id| id >= self.vocab) {
                return Err(TowerError::Shape(format!(
                    "the id {id} in a vocabulary of {}",
                    self.vocab
                )));
            }
        }
        Ok(())
    }

    /// One id of each of several texts, with its position.
    ///
    /// * returns `[texts, 1, hidden_size]`
    pub(in crate::model) fn one_each(&self, ids: &[(u32, usize)]) -> Result<Tensor> {
        let device = &self.runtime.device;
        let positions = ids.iter().map(|&(_, position)| position as u32);
        let positions = Tensor::from_iter(positions, device)?;
        let ids = Tensor::from_iter(ids.iter().map(|&(id, _)| id), device)?;
        let tokens = self.tokens.index_select(&ids, 0)?.to_dtype(self.runtime.compute)?;
        (tokens + self.positions.index_select(&positions, 0)?)?.unsqueeze(1)
    }

    /// * `rows`: with equally many ids
    /// * returns `[batch, ids, hidden_size]`
    pub(in crate::model) fn forward(&self, rows: &[Tokens]) -> Result<Tensor> {
        let length = rows.first().map_or(0, |row| row.ids.len());
        if rows.iter().any(|row| row.ids.len() != length) {
            bail!("texts of different numbers of ids in one pass");
        }
        let ids: Vec<u32> = rows.iter().flat_map(|row| row.ids.iter().copied()).collect();
        let ids = Tensor::from_vec(ids, rows.len() * length, &self.runtime.device)?;
        let positions = self.positions.narrow(0, 0, length)?;
        if let Some(embedded) = self.runtime.own.embed(&ids, &self.tokens, &positions)? {
            return Ok(embedded);
        }
        let x = self.tokens.index_select(&ids, 0)?.to_dtype(self.runtime.compute)?;
        if matches!(x.device(), Device::Cpu) {
            // candle would wake threads of its own for it, beside those of the towers.
            let positions = positions.flatten_all()?.to_vec1::<f32>()?;
            let mut values = x.flatten_all()?.to_vec1::<f32>()?;
            for row in values.chunks_exact_mut(positions.len()) {
                row.iter_mut().zip(&positions).for_each(|(value, position)| *value += position);
            }
            return Tensor::from_vec(values, (rows.len(), length, x.dim(1)?), x.device());
        }
        x.reshape((rows.len(), length, ()))?.broadcast_add(&positions)
    }
}
