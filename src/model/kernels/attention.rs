//! Multi-head attention, over all keys or over those before a query.

use candle_core::{DType, Device, Result, Tensor, bail};
use siglip_kernels::{Element, Level, Rows, Shape, attention};

use super::view::with_f32;

/// `softmax(q k^T / sqrt(head_dim)) v`, head by head; the softmax in f32.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Attention {
    heads: usize,
    mask: Mask,
    level: Level,
    element: Element,
}

/// Which keys a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Mask {
    /// All of them.
    None,
    /// Those up to its own position, where the last query has the last key's.
    Causal,
}

impl Attention {
    /// * `element`: what products of q, k, v and the softmax may be rounded to on the processor
    pub(in crate::model) fn new(heads: usize, mask: Mask, level: Level, element: Element) -> Self {
        Self { heads, mask, level, element }
    }

    /// * `q`: `[batch, queries, width]`, `k` and `v`: `[batch, keys, width]`; views are read in place
    /// * returns `[batch, queries, width]`
    pub(in crate::model) fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        if matches!(q.device(), Device::Cpu) && q.dtype() == DType::F32 {
            return self.forward_on_host(q, k, v);
        }
        #[cfg(feature = "flash-attn")]
        if let Some(mixed) = super::flash::flash_attention(q, k, v, (self.heads, self.mask))? {
            return Ok(mixed);
        }
        let (batch, queries, width) = q.dims3()?;
        let head_dim = width / self.heads;
        let split = |x: &Tensor| {
            let rows = x.dim(1)?;
            x.reshape((batch, rows, self.heads, head_dim))?.transpose(1, 2)?.contiguous()
        };
        let scale = (head_dim as f64).powf(-0.5);
        let scores = (split(q)?.matmul(&split(k)?.t()?)? * scale)?;
        let mut scores = scores.to_dtype(DType::F32)?;
        if self.mask == Mask::Causal {
            scores = scores.broadcast_add(&causal_mask(queries, k.dim(1)?, q.device())?)?;
        }
        let weights = candle_nn::ops::softmax_last_dim(&scores)?;
        let mixed = weights.to_dtype(q.dtype())?.matmul(&split(v)?)?;
        mixed.transpose(1, 2)?.reshape((batch, queries, width))
    }

    fn forward_on_host(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (batch, queries, width) = q.dims3()?;
        let (_, keys, _) = k.dims3()?;
        if batch * queries * keys == 0
            || (self.mask == Mask::Causal && keys < queries)
            || k.dims() != v.dims()
            || k.dims() != [batch, keys, width]
        {
            bail!("attention of {:?}, {:?} and {:?}", q.shape(), k.shape(), v.shape());
        }
        let head_dim = width / self.heads;
        let causal = self.mask == Mask::Causal;
        let shape = Shape { batch, queries, keys, heads: self.heads, head_dim, causal };
        let mixed = with_rows(q, |q| {
            with_rows(k, |k| {
                with_rows(v, |v| Ok(attention(self.level, self.element, shape, [q, k, v])))
            })
        })?;
        Tensor::from_vec(mixed, (batch, queries, width), &Device::Cpu)
    }
}

/// What is added to scores, `[queries, keys]`: minus infinity where a key is hidden from a query.
fn causal_mask(queries: usize, keys: usize, device: &Device) -> Result<Tensor> {
    if keys < queries {
        bail!("causal attention of {queries} queries to {keys} keys");
    }
    let hidden = |query: usize, key: usize| key > query + (keys - queries);
    let value = |at: usize| if hidden(at / keys, at % keys) { f32::NEG_INFINITY } else { 0.0 };
    Tensor::from_vec((0..queries * keys).map(value).collect(), (queries, keys), device)
}

/// Runs `work` on a `[batch, rows, width]` view whose rows are of adjacent values.
fn with_rows<T>(tensor: &Tensor, work: impl FnOnce(Rows<'_>) -> Result<T>) -> Result<T> {
    with_f32(tensor, |values, stride| match *stride {
        [batch_stride, row_stride, 1] => work(Rows { values, batch_stride, row_stride }),
        _ => bail!("attention reads rows of adjacent values, not strides {stride:?}"),
    })
}
