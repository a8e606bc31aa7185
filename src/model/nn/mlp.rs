//! The MLP of an encoder layer and of a pooling head.

use candle_core::{Result, Tensor};

use super::encoder::EncoderConfig;
use crate::model::{
    LoadError,
    kernels::{Activation, Linear},
    weights::Scope,
};

/// Mirrors transformers' [`CLIPMLP`], which is SigLIP's as well.
///
/// [`CLIPMLP`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/clip/modeling_clip.py
#[derive(Debug, Clone)]
pub(in crate::model) struct Mlp {
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl Mlp {
    pub(in crate::model) fn load(
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

    /// Of both layers.
    pub(super) fn parameters(&self) -> Option<[(Tensor, Tensor); 2]> {
        Some([self.fc1.parameters()?, self.fc2.parameters()?])
    }

    /// `residual + fc2(gelu(fc1(x)))`, all of `[.., hidden_size]`.
    pub(in crate::model) fn forward(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let inner = self.fc1.forward_activated(x, self.activation)?;
        self.fc2.forward_residual(&inner, residual)
    }
}

/// A layer under the names that `torch.nn.Linear` gives its parameters.
pub(in crate::model) fn linear(
    scope: &Scope<'_>,
    out: usize,
    width: usize,
) -> std::result::Result<Linear, LoadError> {
    scope.linear(&["weight"], &["bias"], [out, width])
}
