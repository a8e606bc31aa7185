//! The MLP of an encoder layer and of the pooling head.

use candle_core::{Result, Tensor};

use super::super::{
    LoadError,
    kernels::{Activation, Linear},
    weights::Scope,
};
use super::config::EncoderConfig;

/// Mirrors transformers' [`SiglipMLP`].
///
/// [`SiglipMLP`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/siglip/modeling_siglip.py
#[derive(Debug, Clone)]
pub(super) struct Mlp {
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl Mlp {
    pub(super) fn load(
        config: &EncoderConfig,
        scope: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            fc1: linear(&scope.at("fc1"), inner, hidden)?,
            fc2: linear(&scope.at("fc2"), hidden, inner)?,
            activation: config.activation,
        })
    }

    /// `residual + fc2(gelu(fc1(x)))`, all of `[.., hidden_size]`.
    pub(super) fn forward(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let inner = self.fc1.forward_activated(x, self.activation)?;
        self.fc2.forward_residual(&inner, residual)
    }
}

/// A layer under the names that `torch.nn.Linear` gives its parameters.
pub(super) fn linear(
    scope: &Scope<'_>,
    out: usize,
    width: usize,
) -> std::result::Result<Linear, LoadError> {
    scope.linear(&["weight"], &["bias"], [out, width])
}
