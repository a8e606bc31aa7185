//! What comes out of a tower: embeddings, and the stages on the way to them.

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::{embedding::Embedding, model::runtime::Runtime};

/// One stage of a forward pass, on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// `[batch, tokens, width]` or `[batch, width]`.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub values: Vec<f32>,
}

/// Every stage of a forward pass, as transformers names them.
#[derive(Debug, Clone, PartialEq)]
pub struct Stages {
    /// The embeddings' output and every layer's, before the last norm: `[batch, tokens, hidden_size]`.
    pub hidden_states: Vec<Stage>,
    /// The last of them behind the last norm.
    pub last_hidden_state: Stage,
    /// The unnormalised embeddings: `[batch, embedding_dim]`.
    pub pooled: Stage,
}

impl Stages {
    pub(super) fn new(
        hidden_states: &[Tensor],
        last_hidden_state: &Tensor,
        pooled: &Tensor,
    ) -> Result<Self> {
        Ok(Self {
            hidden_states: hidden_states.iter().map(stage).collect::<Result<_>>()?,
            last_hidden_state: stage(last_hidden_state)?,
            pooled: stage(pooled)?,
        })
    }
}

fn stage(tensor: &Tensor) -> Result<Stage> {
    let host = tensor.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
    Ok(Stage { shape: host.dims().to_vec(), values: host.flatten_all()?.to_vec1()? })
}

/// One row of a batch of token maps, flat and row-major.
///
/// * `states`: `[batch, tokens, hidden_size]`, or `[batch, embedding_dim]`
pub(super) fn row(states: &Tensor, index: usize) -> Result<Embedding> {
    Ok(Embedding::new(stage(&states.narrow(0, index, 1)?)?.values))
}

/// The last of the hidden states, of which there is always one.
pub(super) fn last(hidden_states: &[Tensor]) -> Result<&Tensor> {
    match hidden_states.last() {
        Some(last) => Ok(last),
        None => bail!("an encoder without hidden states"),
    }
}

/// The rows of what comes out of a tower, run in passes of the runtime's own size.
///
/// * `tokens`: of a row
/// * `pass`: gives `[batch, embedding_dim]`
pub(super) fn in_passes<T: Clone + Sync>(
    runtime: &Runtime,
    rows: &[T],
    tokens: usize,
    pass: impl Fn(&[T]) -> Result<Tensor> + Send + Sync,
) -> Result<Vec<Embedding>> {
    let passes = runtime.passes(rows, tokens);
    let pooled = runtime.each(&passes, |rows| stage(&pass(rows)?))?;
    let mut embeddings = Vec::with_capacity(rows.len());
    for (pass, pooled) in passes.iter().zip(pooled) {
        let dim = pooled.values.len() / pass.len();
        embeddings.extend(pooled.values.chunks_exact(dim).map(Embedding::new));
    }
    // Those that only fill a pass up come last.
    embeddings.truncate(rows.len());
    Ok(embeddings)
}
