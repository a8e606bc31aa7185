//! A stack of pre-norm transformer layers.

use candle_core::{Device, Result, Tensor};

use super::{mlp::Mlp, padding::PaddingCache, self_attention::SelfAttention};
use crate::{
    model::{
        LoadError,
        device::{LayerWeights, OwnLayers, StackShape},
        kernels::{Activation, LayerNorm, Mask},
        weights::Scope,
    },
    tokenize::Tokens,
};

/// The shape of one encoder.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::model) struct EncoderConfig {
    pub(in crate::model) hidden_size: usize,
    pub(in crate::model) intermediate_size: usize,
    pub(in crate::model) num_hidden_layers: usize,
    pub(in crate::model) num_attention_heads: usize,
    pub(in crate::model) activation: Activation,
    pub(in crate::model) mask: Mask,
    pub(in crate::model) layer_norm_eps: f32,
}

/// Mirrors transformers' [`CLIPEncoderLayer`], which is SigLIP's as well.
///
/// [`CLIPEncoderLayer`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/clip/modeling_clip.py
#[derive(Debug, Clone)]
struct EncoderLayer {
    layer_norm1: LayerNorm,
    self_attn: SelfAttention,
    layer_norm2: LayerNorm,
    mlp: Mlp,
}

impl EncoderLayer {
    fn load(config: &EncoderConfig, scope: &Scope<'_>) -> std::result::Result<Self, LoadError> {
        Ok(Self {
            layer_norm1: layer_norm(config, &scope.at("layer_norm1"))?,
            self_attn: SelfAttention::load(config, &scope.at("self_attn"))?,
            layer_norm2: layer_norm(config, &scope.at("layer_norm2"))?,
            mlp: Mlp::load(config, &scope.at("mlp"))?,
        })
    }

    fn parameters(&self) -> Option<LayerWeights> {
        let [qkv, out] = self.self_attn.parameters()?;
        let [fc1, fc2] = self.mlp.parameters()?;
        let (norm1, norm2) = (self.layer_norm1.parameters(), self.layer_norm2.parameters());
        Some([norm1, qkv, out, norm2, fc1, fc2])
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.self_attn.forward(&self.layer_norm1.forward(x)?, x)?;
        self.mlp.forward(&self.layer_norm2.forward(&x)?, &x)
    }

    /// Q, K and V of each token of `x`.
    fn qkv(&self, x: &Tensor) -> Result<Tensor> {
        self.self_attn.qkv(&self.layer_norm1.forward(x)?)
    }

    /// The layer behind [`EncoderLayer::qkv`].
    fn forward_from(&self, qkv: &Tensor, x: &Tensor) -> Result<Tensor> {
        let x = self.self_attn.mix(qkv, x)?;
        self.mlp.forward(&self.layer_norm2.forward(&x)?, &x)
    }

    fn forward_last(&self, x: &Tensor) -> Result<Tensor> {
        let last = x.narrow(1, x.dim(1)? - 1, 1)?;
        let x = self.self_attn.forward_last(&self.layer_norm1.forward(x)?, &last)?;
        self.mlp.forward(&self.layer_norm2.forward(&x)?, &x)
    }
}

/// Mirrors transformers' [`CLIPEncoder`], which is SigLIP's as well.
///
/// [`CLIPEncoder`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/clip/modeling_clip.py
#[derive(Debug, Clone)]
pub(in crate::model) struct Encoder {
    layers: Vec<EncoderLayer>,
    own: OwnLayers,
}

impl Encoder {
    pub(in crate::model) fn load(
        config: &EncoderConfig,
        scope: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let layers = scope.at("layers").in_bytes();
        let layers: Vec<_> = (0..config.num_hidden_layers)
            .map(|index| EncoderLayer::load(config, &layers.at(index)))
            .collect::<std::result::Result<_, _>>()?;
        let shape = StackShape {
            hidden: config.hidden_size,
            inner: config.intermediate_size,
            heads: config.num_attention_heads,
            activation: config.activation,
            mask: config.mask,
            eps: config.layer_norm_eps,
        };
        let weights = || layers.iter().map(EncoderLayer::parameters).collect();
        let own = OwnLayers::new(&scope.runtime().own, shape, weights)
            .map_err(|error| LoadError::new(format!("encoder: {error}")))?;
        Ok(Self { layers, own })
    }

    /// What [`Encoder::load`] and all layers give, with one layer in memory at a time.
    ///
    /// * `states`: of each row, `[1, tokens, hidden_size]`
    pub(in crate::model) fn once(
        config: &EncoderConfig,
        scope: &Scope<'_>,
        mut states: Vec<Tensor>,
    ) -> std::result::Result<Vec<Tensor>, LoadError> {
        let layers = scope.at("layers").in_bytes();
        for index in 0..config.num_hidden_layers {
            let layer = EncoderLayer::load(config, &layers.at(index))?;
            states = scope.runtime().row_by_row(&states, |state| layer.forward(state))?;
        }
        Ok(states)
    }

    /// The output of the last layer.
    ///
    /// * `x`, and what is returned: `[batch, tokens, hidden_size]`
    pub(in crate::model) fn forward(&self, x: Tensor) -> Result<Tensor> {
        if let Some(output) = self.own.forward(&x)? {
            return Ok(output);
        }
        self.layers.iter().try_fold(x, |x, layer| layer.forward(&x))
    }

    /// The last token of the last layer's output: `[batch, 1, hidden_size]`. No other token of the last
    /// layer is read by anyone, so none is computed.
    pub(in crate::model) fn forward_last(&self, x: Tensor) -> Result<Tensor> {
        if let Some(last) = self.own.forward_last(&x)? {
            return Ok(last);
        }
        self.last_from(0, x)
    }

    /// The same for texts with padding, whose Q, K and V in the first layer are not computed again.
    pub(in crate::model) fn forward_last_padded(
        &self,
        x: Tensor,
        (padding, rows): (&PaddingCache, &[Tokens]),
    ) -> Result<Tensor> {
        // On a device the layers are captured as one graph of fixed shapes.
        let is_on_processor = matches!(x.device(), Device::Cpu);
        match &*self.layers {
            [first, _, ..] if is_on_processor => {
                let qkv = padding.qkv(rows, &x, |x| first.qkv(x))?;
                self.last_from(1, first.forward_from(&qkv, &x)?)
            }
            _ => self.forward_last(x),
        }
    }

    /// The last token behind the layers from `start` on.
    fn last_from(&self, start: usize, x: Tensor) -> Result<Tensor> {
        let Some((last, before)) = self.layers[start..].split_last() else {
            return x.narrow(1, x.dim(1)? - 1, 1);
        };
        let x = before.iter().try_fold(x, |x, layer| layer.forward(&x))?;
        last.forward_last(&x)
    }

    /// One layer's output.
    pub(in crate::model) fn layer(&self, index: usize, x: &Tensor) -> Result<Tensor> {
        match self.own.layer(index, x)? {
            Some(output) => Ok(output),
            None => self.layers[index].forward(x),
        }
    }

    /// The number of layers.
    pub(in crate::model) fn depth(&self) -> usize {
        self.layers.len()
    }
}

/// A norm of an encoder's width, under the names that `torch.nn.LayerNorm` gives its parameters.
pub(in crate::model) fn layer_norm(
    config: &EncoderConfig,
    scope: &Scope<'_>,
) -> std::result::Result<LayerNorm, LoadError> {
    layer_norm_of(config.hidden_size, config.layer_norm_eps, scope)
}

/// A norm of any width.
pub(in crate::model) fn layer_norm_of(
    width: usize,
    eps: f32,
    scope: &Scope<'_>,
) -> std::result::Result<LayerNorm, LoadError> {
    let (weight, bias) = (scope.vector("weight", &[width])?, scope.vector("bias", &[width])?);
    Ok(LayerNorm::new(weight, bias, eps, scope.runtime().level))
}
