//! Attention pooling: one learnt query gathers the patches into one vector.

use candle_core::{Result, Tensor};
use siglip_kernels::Element;

use super::super::{
    LoadError,
    device::Own,
    kernels::{Attention, LayerNorm, Linear, Mask},
    nn::{EncoderConfig, Mlp, layer_norm, linear},
    weights::Scope,
};

/// Mirrors transformers' [`SiglipMultiheadAttentionPoolingHead`], with what never changes computed once.
///
/// The query is constant, so a head's scores `q . (K x + k)` are `(K^T q) . x` and a constant, which the softmax
/// ignores: the keys' projection becomes one vector a head. The weights of a head sum to 1, so its mean of values
/// `V x + v` is `V` of its mean of `x`, and `v`: the values' projection reads one row a head instead of one a patch.
///
/// [`SiglipMultiheadAttentionPoolingHead`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/siglip/modeling_siglip.py
#[derive(Debug, Clone)]
pub(super) struct PoolingHead {
    /// `[1, heads, hidden_size]`: what each head looks for in a patch.
    queries: Tensor,
    /// Over whole patches: each head of the checkpoint's is a query here.
    gather: Attention,
    value: Linear,
    out: Linear,
    layernorm: LayerNorm,
    mlp: Mlp,
    heads: usize,
    hidden: usize,
    own: Own,
}

impl PoolingHead {
    pub(super) fn load(
        config: &EncoderConfig,
        scope: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        let attention = scope.at("attention");
        // Packed as `torch.nn.MultiheadAttention` does: Q above K above V.
        let mut weight = attention.host("in_proj_weight", &[3 * hidden, hidden])?;
        let mut bias = attention.host("in_proj_bias", &[3 * hidden])?;
        let probe = scope.host("probe", &[1, 1, hidden])?;
        let queries = queries(&weight, &bias, &probe, heads);
        let (value, value_bias) =
            (weight.split_off(2 * hidden * hidden), bias.split_off(2 * hidden));
        let runtime = scope.runtime();
        Ok(Self {
            queries: scope.tensor(queries, &[1, heads, hidden], runtime.compute)?,
            gather: Attention::new(1, Mask::None, runtime.level, Element::F32),
            value: attention.linear_of(value, Some(value_bias), [hidden, hidden])?,
            out: linear(&attention.at("out_proj"), hidden, hidden)?,
            layernorm: layer_norm(config, &scope.at("layernorm"))?,
            mlp: Mlp::load(config, &scope.at("mlp"))?,
            heads,
            hidden,
            own: runtime.own.clone(),
        })
    }

    /// * `x`: `[batch, patches, hidden_size]`, behind the post layer norm
    /// * returns `[batch, hidden_size]`
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gathered = match self.own.pool(&self.queries, x)? {
            Some(gathered) => gathered,
            None => {
                let queries = self.queries.broadcast_as((x.dim(0)?, self.heads, self.hidden))?;
                self.gather.forward(&queries, x, x)?
            }
        };
        let values = self.value.forward(&gathered)?;
        // Of each head's row its own values: the others belong to other heads.
        let mixed = match self.own.own_heads(&values)? {
            Some(mixed) => mixed,
            None => {
                let width = self.hidden / self.heads;
                let own = |head| values.narrow(1, head, 1)?.narrow(2, head * width, width);
                Tensor::cat(&(0..self.heads).map(own).collect::<Result<Vec<_>>>()?, 2)?
            }
        };
        let pooled = self.out.forward(&mixed)?;
        // The residual is taken behind the attention: the probe itself is not added.
        self.mlp.forward(&self.layernorm.forward(&pooled)?, &pooled)?.squeeze(1)
    }
}

/// `K^T (Q probe + q)` for each head: `[heads, hidden]`, scaled so that attention over whole rows, which divides by
/// the root of their width, divides by the root of a head's.
///
/// * `weight`: `[3 * hidden, hidden]`, `bias`: `[3 * hidden]`, `probe`: `[hidden]`
fn queries(weight: &[f32], bias: &[f32], probe: &[f32], heads: usize) -> Vec<f32> {
    let hidden = probe.len();
    let (query, rest) = weight.split_at(hidden * hidden);
    let dot =
        |a: &[f32]| a.iter().zip(probe).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let query: Vec<f64> = query
        .chunks_exact(hidden)
        .zip(bias)
        .map(|(row, &bias)| dot(row) + f64::from(bias))
        .collect();
    let key_rows: Vec<_> = rest.chunks_exact(hidden).take(hidden).collect();
    let width = hidden / heads;
    let scale = (heads as f64).sqrt();
    let mut folded = Vec::with_capacity(heads * hidden);
    for (query, rows) in query.chunks_exact(width).zip(key_rows.chunks_exact(width)) {
        let mut sums = vec![0f64; hidden];
        for (&query, row) in query.iter().zip(rows) {
            for (sum, &key) in sums.iter_mut().zip(*row) {
                *sum += query * f64::from(key);
            }
        }
        folded.extend(sums.into_iter().map(|sum| (sum * scale) as f32));
    }
    folded
}
