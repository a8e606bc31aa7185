//! A tower whose middle is an encoder, with what a family puts before and behind it.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};

use super::outputs::{self, Stages};
use crate::{
    embedding::Embedding,
    model::{Pass, Resident, Tap, Tower, TowerError, runtime::Runtime},
};

/// The parts of a tower that a family brings along.
pub(in crate::model) trait Blocks: Clone + Send + Sync + 'static {
    /// What one row is made of.
    type Row: Clone + Send + Sync + 'static;

    /// Whether the states of single tokens are an output of the tower.
    const HAS_TOKENS: bool;

    /// # Errors
    /// Fails if the tower does not read one of the rows.
    fn check(&self, rows: &[Self::Row]) -> std::result::Result<(), TowerError>;

    /// The number of tokens that the encoder sees of a row.
    fn tokens(&self, row: &Self::Row) -> usize;

    /// * `rows`: with equally many tokens
    /// * returns `[batch, tokens, hidden_size]`: the input of the first layer
    fn embed(&self, rows: &[Self::Row]) -> Result<Tensor>;

    /// The number of layers.
    fn depth(&self) -> usize;

    /// One layer's output.
    ///
    /// * `state`, and what is returned: `[batch, tokens, hidden_size]`
    fn layer(&self, index: usize, state: &Tensor) -> Result<Tensor>;

    /// The output of the last layer, where nobody asks for those of the others.
    ///
    /// * `state`, and what is returned: `[batch, tokens, hidden_size]`
    fn layers(&self, state: Tensor) -> Result<Tensor> {
        (0..self.depth()).try_fold(state, |state, index| self.layer(index, &state))
    }

    /// What transformers calls `last_hidden_state`.
    ///
    /// * `state`, and what is returned: `[batch, tokens, hidden_size]`
    fn last_hidden_state(&self, state: &Tensor) -> Result<Tensor>;

    /// * `last_hidden_state`: `[batch, tokens, hidden_size]`
    /// * returns `[batch, embedding_dim]`, not normalised
    fn pool(&self, last_hidden_state: &Tensor) -> Result<Tensor>;

    /// The states of queries that read the last hidden state: `[batch, queries, query_width]`; none without any.
    fn queries(&self, last_hidden_state: &Tensor) -> Result<Option<Tensor>> {
        let _ = last_hidden_state;
        Ok(None)
    }

    /// The embeddings of rows with equally many tokens. A family whose embedding is that of one token need not
    /// compute the others in the last layer.
    ///
    /// * returns `[batch, embedding_dim]`
    fn pooled(&self, rows: &[Self::Row]) -> Result<Tensor> {
        let state = self.layers(self.embed(rows)?)?;
        self.pool(&self.last_hidden_state(&state)?)
    }

    /// Where the tower computes.
    fn runtime(&self) -> &Runtime;

    /// The same weights, which both share, computed with on other threads of the same device.
    fn on(&self, runtime: &Runtime) -> Self;

    /// See [`Tower::usual_row`].
    fn usual_row(&self) -> Option<Self::Row> {
        None
    }
}

/// A tower of a family's blocks.
#[derive(Debug, Clone)]
pub(in crate::model) struct EncoderTower<B>(B);

impl<B: Blocks> EncoderTower<B> {
    pub(in crate::model) fn new(blocks: B) -> Self {
        Self(blocks)
    }

    /// One pass for rows that ask for different outputs.
    fn outputs(&self, rows: &[B::Row], taps: &[Tap]) -> Result<Vec<Embedding>> {
        let layers = self.0.depth();
        let depth = taps.iter().map(|tap| tap.depth(layers)).max().unwrap_or_default();
        let mut outputs = vec![None; rows.len()];
        let mut fill = |tap: Tap, states: &Tensor| -> Result<()> {
            // Taken to the host at once, so that no state outlives its layer on the device.
            for (index, output) in outputs.iter_mut().enumerate() {
                if taps[index] == tap {
                    *output = Some(outputs::row(states, index)?);
                }
            }
            Ok(())
        };
        let see = |layer: usize, states: &Tensor| fill(Tap::HiddenState(layer), states);
        let last = self.visit(self.0.embed(rows)?, depth, see)?;
        if taps.iter().any(|tap| !matches!(tap, Tap::HiddenState(_))) {
            let last_hidden_state = self.0.last_hidden_state(&last)?;
            fill(Tap::LastHiddenState, &last_hidden_state)?;
            if taps.contains(&Tap::Pooled) {
                fill(Tap::Pooled, &self.0.pool(&last_hidden_state)?)?;
            }
            if taps.contains(&Tap::Queries)
                && let Some(states) = self.0.queries(&last_hidden_state)?
            {
                fill(Tap::Queries, &states)?;
            }
        }
        outputs::every(outputs)
    }

    /// Runs the first `depth` layers and shows `see` every hidden state on the way with its number; `state`
    /// is number 0.
    ///
    /// * returns the last state shown
    fn visit(
        &self,
        mut state: Tensor,
        depth: usize,
        mut see: impl FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        see(0, &state)?;
        for index in 0..depth {
            state = self.0.layer(index, &state)?;
            see(index + 1, &state)?;
        }
        Ok(state)
    }

    /// Runs rows group by group, each of equally many tokens, and gives the results in the rows' order. The
    /// batcher sends rows that are alike, which are one group.
    ///
    /// * `pass`: of a group its rows, and their indices among all
    fn grouped(
        &self,
        rows: &[B::Row],
        pass: impl Fn(&[B::Row], &[usize]) -> Result<Vec<Embedding>> + Send + Sync,
    ) -> std::result::Result<Vec<Embedding>, TowerError> {
        self.0.check(rows)?;
        let mut groups = BTreeMap::<usize, Vec<usize>>::new();
        for (index, row) in rows.iter().enumerate() {
            groups.entry(self.0.tokens(row)).or_default().push(index);
        }
        self.0.runtime().run(|| {
            let mut results = vec![None; rows.len()];
            for indices in groups.values() {
                let group: Vec<_> = indices.iter().map(|&index| rows[index].clone()).collect();
                for (&index, result) in indices.iter().zip(pass(&group, indices)?) {
                    results[index] = Some(result);
                }
            }
            outputs::every(results)
        })
    }

    fn is_alike(&self, rows: &[B::Row]) -> bool {
        rows.windows(2).all(|pair| self.0.tokens(&pair[0]) == self.0.tokens(&pair[1]))
    }
}

impl<B: Blocks> Tower for EncoderTower<B> {
    type Input = B::Row;

    fn usual_row(&self) -> Option<B::Row> {
        self.0.usual_row()
    }

    fn begin(&mut self, rows: &[B::Row], taps: &[Tap]) -> std::result::Result<Pass, TowerError> {
        let layers = self.0.depth();
        let is_pooled = taps.iter().all(|&tap| tap == Tap::Pooled);
        let is_there = |tap: &Tap| is_pooled || (B::HAS_TOKENS && tap.depth(layers) <= layers);
        if taps.len() != rows.len() || !taps.iter().all(is_there) {
            return Err(TowerError::Shape(format!("{taps:?} of a tower of {layers} layers")));
        }
        if !is_pooled {
            let each = |rows: &[B::Row], indices: &[usize]| {
                let taps: Vec<_> = indices.iter().map(|&index| taps[index]).collect();
                self.outputs(rows, &taps)
            };
            return self.grouped(rows, each).map(Pass::done);
        }
        let tokens = |rows: &[B::Row]| rows.first().map_or(0, |row| self.0.tokens(row));
        if self.0.runtime().copies.overlap() && self.is_alike(rows) {
            self.0.check(rows)?;
            let pooled = |rows: &[B::Row]| self.0.pooled(rows);
            return outputs::begin(self.0.runtime(), rows, tokens(rows), pooled);
        }
        let each = |rows: &[B::Row], _: &[usize]| {
            outputs::in_passes(self.0.runtime(), rows, tokens(rows), |rows| self.0.pooled(rows))
        };
        self.grouped(rows, each).map(Pass::done)
    }
}

impl<B: Blocks> Resident for EncoderTower<B> {
    fn stages(&self, rows: &[B::Row]) -> std::result::Result<Stages, TowerError> {
        self.0.check(rows)?;
        self.0.runtime().run(|| {
            let mut hidden_states = Vec::with_capacity(self.0.depth() + 1);
            self.visit(self.0.embed(rows)?, self.0.depth(), |_, state| {
                hidden_states.push(state.clone());
                Ok(())
            })?;
            let last_hidden_state = self.0.last_hidden_state(outputs::last(&hidden_states)?)?;
            let pooled = self.0.pool(&last_hidden_state)?;
            Stages::new(&hidden_states, &last_hidden_state, &pooled)
        })
    }

    fn on(&self, runtime: &Runtime) -> Box<dyn Resident<Input = B::Row>> {
        Box::new(Self(self.0.on(runtime)))
    }
}
