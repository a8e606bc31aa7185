//! What the first layer of a text tower gives for padding.
//!
//! The state of a padding token depends on nothing but its position before the first layer. So its norm and its Q, K
//! and V are the same in every text, and are computed once. A short text saves most of a quarter of its first layer.

use std::sync::{Arc, OnceLock};

use candle_core::{Result, Tensor};

use crate::tokenize::Tokens;

/// Q, K and V of padding at each position, once they are known. Clones share them.
#[derive(Debug, Clone, Default)]
pub(in crate::model) struct PaddingCache(Arc<OnceLock<Known>>);

#[derive(Debug)]
struct Known {
    /// The id of padding.
    id: u32,
    /// The first position that is known.
    start: usize,
    /// `[positions from start on, width]`.
    values: Vec<f32>,
}

impl PaddingCache {
    /// Q, K and V of every token.
    ///
    /// * `rows`: with equally many ids
    /// * `x`: their states before the first layer, `[batch, ids, hidden_size]`
    /// * `compute`: gives `[.., width]` for `[.., hidden_size]`, token by token
    /// * returns `[batch, ids, width]`
    pub(super) fn qkv(
        &self,
        rows: &[Tokens],
        x: &Tensor,
        compute: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (batch, length, hidden) = x.dims3()?;
        let Some(known) = self.0.get() else {
            let qkv = compute(x)?;
            self.learn(rows, &qkv)?;
            return Ok(qkv);
        };
        let ids = || rows.iter().flat_map(|row| row.ids.iter().enumerate());
        let is_known = |(position, id): (usize, &u32)| *id == known.id && position >= known.start;
        let others = ids().zip(0_u32..).filter(|(token, _)| !is_known(*token));
        let others: Vec<u32> = others.map(|(_, index)| index).collect();
        if others.is_empty() || others.len() == batch * length {
            return compute(x);
        }
        let count = others.len();
        let others = Tensor::from_vec(others, count, x.device())?;
        let others = compute(&x.reshape((batch * length, hidden))?.index_select(&others, 0)?)?;
        let width = others.dim(1)?;
        let others = others.flatten_all()?.to_vec1::<f32>()?;
        let mut others = others.chunks_exact(width);
        let mut all = Vec::with_capacity(batch * length * width);
        for token in ids() {
            let padding = || known.values.chunks_exact(width).nth(token.0 - known.start);
            let values = if is_known(token) { padding() } else { others.next() };
            all.extend_from_slice(values.unwrap_or_default());
        }
        Tensor::from_vec(all, (batch, length, width), x.device())
    }

    /// Keeps the values of the text with the most padding, if one has padding.
    fn learn(&self, rows: &[Tokens], qkv: &Tensor) -> Result<()> {
        let padding = |row: &Tokens| {
            let padding = row.ids.get(row.used..)?;
            let id = *padding.first()?;
            padding.iter().all(|&other| other == id).then_some((padding.len(), id))
        };
        let found = rows.iter().enumerate().filter_map(|(row, ids)| Some((padding(ids)?, row)));
        let Some(((count, id), row)) = found.max() else { return Ok(()) };
        let start = qkv.dim(1)? - count;
        let values = qkv.narrow(0, row, 1)?.narrow(1, start, count)?;
        let values = values.flatten_all()?.to_vec1::<f32>()?;
        // Another thread may have been faster, with values that are as right.
        let _ = self.0.set(Known { id, start, values });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// A text whose padding has the id 1.
    fn tokens(ids: &[u32]) -> Tokens {
        let used = ids.iter().rposition(|&id| id != 1).map_or(0, |last| last + 1);
        Tokens { ids: ids.into(), used, truncated: false }
    }

    /// Another value for each id and position.
    fn states(rows: &[Tokens]) -> Tensor {
        let values = rows.iter().flat_map(|row| row.ids.iter().enumerate());
        let values: Vec<f32> = values.map(|(at, &id)| (100 * id) as f32 + at as f32).collect();
        let length = rows[0].ids.len();
        Tensor::from_vec(values, (rows.len(), length, 1), &Device::Cpu).expect("a tensor")
    }

    #[test]
    fn padding_is_computed_once_and_nothing_else_is_taken_from_another_text() {
        let cache = PaddingCache::default();
        let computed = std::cell::Cell::new(0);
        let compute = |x: &Tensor| {
            computed.set(computed.get() + x.elem_count());
            let x = x.affine(2.0, 1.0)?;
            Tensor::cat(&[&x, &x.affine(-1.0, 0.0)?], x.rank() - 1)
        };
        // A text without padding, two with padding, of which the longer one is kept, then texts with more and with
        // none, and with the id of padding before other ids.
        for (ids, expected) in [
            (vec![[3, 4, 5, 6]], 4),
            (vec![[3, 4, 1, 1], [3, 5, 6, 1]], 8),
            (vec![[3, 1, 1, 1], [3, 4, 5, 1]], 5),
            (vec![[3, 4, 5, 6], [3, 4, 1, 1]], 6),
            (vec![[1, 1, 1, 2]], 3),
            (vec![[4, 4, 4, 4]], 4),
        ] {
            let rows: Vec<_> = ids.iter().map(|ids| tokens(ids)).collect();
            let x = states(&rows);
            computed.set(0);
            let qkv = cache.qkv(&rows, &x, compute).expect("computed");
            assert_eq!(computed.get(), expected, "{ids:?}");
            let all = compute(&x).expect("computed");
            let flat = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
            assert_eq!(flat(&qkv).expect("values"), flat(&all).expect("values"), "{ids:?}");
        }
    }
}
