//! What comes out of a tower: embeddings, and the stages on the way to them.

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::{
    embedding::Embedding,
    model::{
        Pass, TowerError,
        kernels::Download,
        runtime::{Runtime, tower_error},
    },
};

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
    pub(in crate::model) fn new(
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
pub(in crate::model) fn row(states: &Tensor, index: usize) -> Result<Embedding> {
    Ok(Embedding::new(stage(&states.narrow(0, index, 1)?)?.values))
}

/// The last of the hidden states, of which there is always one.
pub(in crate::model) fn last(hidden_states: &[Tensor]) -> Result<&Tensor> {
    match hidden_states.last() {
        Some(last) => Ok(last),
        None => bail!("an encoder without hidden states"),
    }
}

/// The rows of what comes out of a tower, run in passes of the runtime's own size.
///
/// * `tokens`: of a row
/// * `pass`: gives `[batch, embedding_dim]`
pub(in crate::model) fn in_passes<T: Clone + Sync>(
    runtime: &Runtime,
    rows: &[T],
    tokens: usize,
    pass: impl Fn(&[T]) -> Result<Tensor> + Send + Sync,
) -> Result<Vec<Embedding>> {
    let passes = runtime.passes(rows, tokens);
    let pooled = runtime.each(&passes, |rows| Ok((stage(&pass(rows)?)?.values, rows.len())))?;
    embeddings(&pooled, rows.len())
}

/// The same passes begun on a device, which gives their results later.
pub(in crate::model) fn begin<T: Clone>(
    runtime: &Runtime,
    rows: &[T],
    tokens: usize,
    pass: impl Fn(&[T]) -> Result<Tensor>,
) -> std::result::Result<Pass, TowerError> {
    let mut downloads = Vec::new();
    for rows in runtime.passes(rows, tokens) {
        downloads.push((runtime.begin(|| pass(&rows))?, rows.len()));
    }
    let count = rows.len();
    Ok(Pass::under_way(move || {
        let wait = |(download, rows): (Download, usize)| Ok((download.wait()?, rows));
        let pooled = downloads.into_iter().map(wait).collect::<Result<Vec<_>>>();
        pooled.and_then(|pooled| embeddings(&pooled, count)).map_err(tower_error)
    }))
}

/// The first rows of what passes gave; those that only fill one up come last.
///
/// * `pooled`: of each pass the values and the number of rows
fn embeddings(pooled: &[(Vec<f32>, usize)], count: usize) -> Result<Vec<Embedding>> {
    let mut outputs = Vec::with_capacity(count);
    for (values, rows) in pooled {
        if *rows == 0 || values.is_empty() || values.len() % rows != 0 {
            bail!("{} values are no {rows} rows", values.len());
        }
        outputs.extend(values.chunks_exact(values.len() / rows).map(Embedding::new));
    }
    if outputs.len() < count {
        bail!("the passes gave {} of {count} rows", outputs.len());
    }
    outputs.truncate(count);
    Ok(outputs)
}

/// The outputs of all rows. One that is missing would give its place, and its answer, to the row behind it.
///
/// # Errors
/// Fails for a row without an output.
pub(in crate::model) fn every(outputs: Vec<Option<Embedding>>) -> Result<Vec<Embedding>> {
    let count = outputs.len();
    let found: Vec<_> = outputs.into_iter().flatten().collect();
    if found.len() < count {
        bail!("the tower gave outputs for {} of {count} rows", found.len());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn a_pass_that_was_begun_gives_what_one_that_was_run_gives() -> Result<()> {
        let config = config::Model { threads: 2, ..config::Model::default() };
        let runtime = Runtime::new(&config).expect("the processor is there");
        let pass = |rows: &[f32]| {
            let column = Tensor::new(rows, &Device::Cpu)?.unsqueeze(1)?;
            Tensor::cat(&[&column, &(&column * 2.0)?], 1)
        };
        for count in 0..7 {
            let rows: Vec<_> = (0..count).map(|row| row as f32).collect();
            let run = in_passes(&runtime, &rows, 100, pass)?;
            let begun = begin(&runtime, &rows, 100, pass).expect("begins");
            assert!(!begun.is_done());
            assert_eq!(begun.finish().expect("ends"), run);
            assert_eq!(run.len(), count);
        }
        let fails = |_: &[f32]| -> Result<Tensor> { candle_core::bail!("no") };
        assert!(begin(&runtime, &[1.0], 100, fails).is_err());
        Ok(())
    }

    #[test]
    fn a_row_without_an_output_is_an_error() {
        let row = |value| Some(Embedding::new(vec![value]));
        let all = every(vec![row(1.0), row(2.0)]).expect("all rows are there");
        assert_eq!(all.iter().map(|row| row.as_slice()[0]).collect::<Vec<_>>(), [1.0, 2.0]);
        let error = every(vec![row(1.0), None, row(3.0)]).expect_err("a row is missing");
        assert!(error.to_string().contains("2 of 3 rows"), "{error}");
        for pooled in [(vec![1.0; 4], 2), (vec![1.0; 5], 3), (Vec::new(), 0)] {
            assert!(embeddings(&[pooled], 3).is_err(), "too few rows, or parts of rows");
        }
        assert_eq!(embeddings(&[(vec![1.0; 8], 4)], 3).expect("one row fills up").len(), 3);
    }
}
