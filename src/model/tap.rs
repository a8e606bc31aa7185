//! Which of a tower's outputs a row asks for.

/// An output of a tower. Rows of one batch may ask for different ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Tap {
    /// The unnormalised embedding: `[embedding_dim]`.
    #[default]
    Pooled,
    /// The last layer's output behind the last norm: `[tokens, hidden_size]`.
    LastHiddenState,
    /// What transformers calls `hidden_states[layer]`: `[tokens, hidden_size]`, before the last norm. 0 is
    /// what goes into the first layer; the number of layers is what comes out of the last one.
    HiddenState(usize),
    /// The states of the queries that read an image for the model: `[queries, query_width]`. Few models have them.
    Queries,
}

impl Tap {
    /// How many of `layers` layers must run for it.
    pub(super) fn depth(self, layers: usize) -> usize {
        match self {
            Self::Pooled | Self::LastHiddenState | Self::Queries => layers,
            Self::HiddenState(layer) => layer,
        }
    }
}
