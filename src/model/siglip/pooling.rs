//! Attention pooling: one learnt query gathers the patches into one vector.

use candle_core::{Result, Tensor};

use super::super::{
    LoadError,
    kernels::{Attention, LayerNorm, Linear},
    weights::Scope,
};
use super::{
    config::EncoderConfig,
    encoder::layer_norm,
    mlp::{Mlp, linear},
};

/// Mirrors transformers' [`SiglipMultiheadAttentionPoolingHead`].
///
/// [`SiglipMultiheadAttentionPoolingHead`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/siglip/modeling_siglip.py
#[derive(Debug)]
pub(super) struct PoolingHead {
    /// `[1, 1, hidden_size]`: the probe behind its projection, the same for every picture.
    query: Tensor,
    kv: Linear,
    out: Linear,
    layernorm: LayerNorm,
    mlp: Mlp,
    attention: Attention,
    hidden: usize,
}

impl PoolingHead {
    pub(super) fn load(
        config: &EncoderConfig,
        scope: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let hidden = config.hidden_size;
        let attention = scope.at("attention");
        // Packed as `torch.nn.MultiheadAttention` does: Q above K above V.
        let in_proj =
            attention.linear(&["in_proj_weight"], &["in_proj_bias"], [3 * hidden, hidden])?;
        let probe = scope.vector("probe", &[1, 1, hidden])?;
        let constant = |error| LoadError::new(format!("the pooling head's query: {error}"));
        Ok(Self {
            query: in_proj.rows(0, hidden).and_then(|q| q.forward(&probe)).map_err(constant)?,
            kv: in_proj.rows(hidden, 2 * hidden).map_err(constant)?,
            out: linear(&attention.at("out_proj"), hidden, hidden)?,
            layernorm: layer_norm(config, &scope.at("layernorm"))?,
            mlp: Mlp::load(config, &scope.at("mlp"))?,
            attention: Attention::new(config.num_attention_heads, scope.runtime().level),
            hidden,
        })
    }

    /// * `x`: `[batch, patches, hidden_size]`, behind the post layer norm
    /// * returns `[batch, hidden_size]`
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let kv = self.kv.forward(x)?;
        let (k, v) = (kv.narrow(2, 0, self.hidden)?, kv.narrow(2, self.hidden, self.hidden)?);
        let query = self.query.broadcast_as((x.dim(0)?, 1, self.hidden))?;
        let pooled = self.out.forward(&self.attention.forward(&query, &k, &v)?)?;
        // The residual is taken behind the attention: the probe itself is not added.
        self.mlp.forward(&self.layernorm.forward(&pooled)?, &pooled)?.squeeze(1)
    }
}
