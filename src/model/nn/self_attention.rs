//! Self-attention of an encoder layer.

use candle_core::{Result, Tensor};

use super::{encoder::EncoderConfig, mlp::linear};
use crate::model::{
    LoadError,
    kernels::{Attention, Linear},
    weights::Scope,
};

/// Mirrors transformers' [`CLIPAttention`], which is SigLIP's as well, with Q, K and V as one product.
///
/// [`CLIPAttention`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/clip/modeling_clip.py
#[derive(Debug, Clone)]
pub(super) struct SelfAttention {
    /// `[3 * hidden_size, hidden_size]`: Q above K above V.
    qkv: Linear,
    /// Views of `qkv`, for when only the last position asks.
    q: Linear,
    kv: Linear,
    out: Linear,
    attention: Attention,
    hidden: usize,
}

impl SelfAttention {
    pub(super) fn load(
        config: &EncoderConfig,
        scope: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let (hidden, runtime) = (config.hidden_size, scope.runtime());
        let qkv = scope.linear(
            &["q_proj.weight", "k_proj.weight", "v_proj.weight"],
            &["q_proj.bias", "k_proj.bias", "v_proj.bias"],
            [hidden, hidden],
        )?;
        let rows = |start, len| {
            qkv.rows(start, len).map_err(|error| LoadError::new(format!("self_attn: {error}")))
        };
        Ok(Self {
            q: rows(0, hidden)?,
            kv: rows(hidden, 2 * hidden)?,
            qkv,
            out: linear(&scope.at("out_proj"), hidden, hidden)?,
            attention: Attention::new(
                config.num_attention_heads,
                config.mask,
                runtime.level,
                runtime.element,
            ),
            hidden,
        })
    }

    /// Of the product that gives Q, K and V, and of the one behind the attention.
    pub(super) fn parameters(&self) -> Option<[(Tensor, Tensor); 2]> {
        Some([self.qkv.parameters()?, self.out.parameters()?])
    }

    /// `residual + attention(x)`, all of `[batch, tokens, hidden_size]`.
    pub(super) fn forward(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.mix(&self.qkv(x)?, residual)
    }

    /// Q, K and V of each token.
    ///
    /// * `x`: `[.., hidden_size]`
    /// * returns `[.., 3 * hidden_size]`
    pub(super) fn qkv(&self, x: &Tensor) -> Result<Tensor> {
        self.qkv.forward(x)
    }

    /// `residual + attention` of Q, K and V, `[batch, tokens, 3 * hidden_size]`.
    pub(super) fn mix(&self, qkv: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let part = |index| qkv.narrow(2, index * self.hidden, self.hidden);
        let mixed = self.attention.forward(&part(0)?, &part(1)?, &part(2)?)?;
        self.out.forward_residual(&mixed, residual)
    }

    /// The same for the last token only, which reads all of them.
    ///
    /// * `x`: `[batch, tokens, hidden_size]`, `residual`: `[batch, 1, hidden_size]`
    /// * returns `[batch, 1, hidden_size]`
    pub(super) fn forward_last(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let q = self.q.forward(&x.narrow(1, x.dim(1)? - 1, 1)?)?;
        let kv = self.kv.forward(x)?;
        let (k, v) = (kv.narrow(2, 0, self.hidden)?, kv.narrow(2, self.hidden, self.hidden)?);
        let mixed = self.attention.forward(&q, &k, &v)?;
        self.out.forward_residual(&mixed, residual)
    }
}
