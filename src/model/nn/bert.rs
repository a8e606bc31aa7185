//! Layers of BERT, which norm behind each part, with attention to an image's states.

use candle_core::{Result, Tensor};

use super::{layer_norm_of, mlp::linear};
use crate::model::{
    LoadError,
    kernels::{Activation, Attention, LayerNorm, Linear, Mask},
    weights::Scope,
};

/// The shape of a stack of layers.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::model) struct BertConfig {
    pub(in crate::model) hidden_size: usize,
    pub(in crate::model) intermediate_size: usize,
    pub(in crate::model) num_hidden_layers: usize,
    pub(in crate::model) num_attention_heads: usize,
    pub(in crate::model) activation: Activation,
    pub(in crate::model) layer_norm_eps: f32,
    /// Values of one of an image's states.
    pub(in crate::model) image_width: usize,
}

/// Keys and values: `[batch, rows, hidden_size]` each.
#[derive(Debug, Clone)]
pub(in crate::model) struct KeyValues {
    pub(in crate::model) keys: Tensor,
    pub(in crate::model) values: Tensor,
}

impl KeyValues {
    /// These, and others behind them.
    pub(in crate::model) fn followed_by(&self, others: &Self) -> Result<Self> {
        Ok(Self {
            keys: Tensor::cat(&[&self.keys, &others.keys], 1)?,
            values: Tensor::cat(&[&self.values, &others.values], 1)?,
        })
    }

    /// The same for each of `count` texts.
    fn repeated(&self, count: usize) -> Result<Self> {
        let repeat = |tensor: &Tensor| {
            let (_, rows, width) = tensor.dims3()?;
            tensor.broadcast_as((count, rows, width))
        };
        Ok(Self { keys: repeat(&self.keys)?, values: repeat(&self.values)? })
    }
}

/// Mirrors transformers' [`BlipTextLayer`].
///
/// [`BlipTextLayer`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/blip/modeling_blip_text.py
#[derive(Debug, Clone)]
pub(in crate::model) struct BertLayer {
    attention: BertAttention,
    cross: CrossAttention,
    mlp: BertMlp,
}

impl BertLayer {
    pub(in crate::model) fn load(
        config: &BertConfig,
        scope: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        Ok(Self {
            attention: BertAttention::load(config, (&scope.at("attention"), "self"))?,
            cross: CrossAttention::load(config, (&scope.at("crossattention"), "self"))?,
            mlp: BertMlp::load(config, (scope, ["intermediate", "output"]))?,
        })
    }

    /// A layer without an image.
    ///
    /// * `x`, and what is returned: `[batch, tokens, hidden_size]`
    pub(in crate::model) fn alone(&self, x: &Tensor) -> Result<Tensor> {
        let (x, _) = self.attend(x, Mask::None)?;
        self.think(&x)
    }

    /// See [`BertAttention::attend`].
    pub(in crate::model) fn attend(&self, x: &Tensor, mask: Mask) -> Result<(Tensor, KeyValues)> {
        self.attention.attend(x, mask)
    }

    /// See [`BertAttention::attend_on`].
    pub(in crate::model) fn attend_on(
        &self,
        x: &Tensor,
        before: &[&KeyValues],
    ) -> Result<(Tensor, Vec<KeyValues>)> {
        self.attention.attend_on(x, before)
    }

    /// See [`CrossAttention::keys_of`].
    pub(in crate::model) fn keys_of(&self, image: &Tensor) -> Result<KeyValues> {
        self.cross.keys_of(image)
    }

    /// See [`CrossAttention::look`].
    pub(in crate::model) fn look(&self, x: &Tensor, image: &KeyValues) -> Result<Tensor> {
        self.cross.look(x, image)
    }

    /// See [`CrossAttention::look_each`].
    pub(in crate::model) fn look_each(&self, x: &Tensor, images: &[&KeyValues]) -> Result<Tensor> {
        self.cross.look_each(x, images)
    }

    /// See [`BertMlp::forward`].
    pub(in crate::model) fn think(&self, x: &Tensor) -> Result<Tensor> {
        self.mlp.forward(x)
    }
}

/// Attention of a text's states to each other.
#[derive(Debug, Clone)]
pub(in crate::model) struct BertAttention {
    /// `[3 * hidden_size, hidden_size]`: Q above K above V.
    qkv: Linear,
    all: Attention,
    causal: Attention,
    out: NormedSum,
    hidden: usize,
}

impl BertAttention {
    /// * `projections`: the name below which queries, keys and values are
    pub(in crate::model) fn load(
        config: &BertConfig,
        (scope, projections): (&Scope<'_>, &str),
    ) -> std::result::Result<Self, LoadError> {
        let (hidden, runtime) = (config.hidden_size, scope.runtime());
        let attention =
            |mask| Attention::new(config.num_attention_heads, mask, runtime.level, runtime.element);
        Ok(Self {
            qkv: scope.at(projections).linear(
                &["query.weight", "key.weight", "value.weight"],
                &["query.bias", "key.bias", "value.bias"],
                [hidden, hidden],
            )?,
            all: attention(Mask::None),
            causal: attention(Mask::Causal),
            out: NormedSum::load(config, hidden, &scope.at("output"))?,
            hidden,
        })
    }

    /// Self-attention.
    ///
    /// * `x`: `[batch, tokens, hidden_size]`
    /// * returns the states, and their keys and values
    pub(in crate::model) fn attend(&self, x: &Tensor, mask: Mask) -> Result<(Tensor, KeyValues)> {
        let (q, own) = self.project(x)?;
        let attention = if mask == Mask::Causal { &self.causal } else { &self.all };
        let mixed = attention.forward(&q, &own.keys, &own.values)?;
        Ok((self.out.forward(&mixed, x)?, own))
    }

    /// Self-attention of one new token of each of several texts, which have numbers of earlier tokens of their own.
    ///
    /// * `x`: `[texts, 1, hidden_size]`
    /// * `before`: of each text the keys and values of its earlier tokens, `[1, tokens, hidden_size]`
    /// * returns the states, and of each text all keys and values
    pub(in crate::model) fn attend_on(
        &self,
        x: &Tensor,
        before: &[&KeyValues],
    ) -> Result<(Tensor, Vec<KeyValues>)> {
        let (q, own) = self.project(x)?;
        let mut mixed = Vec::with_capacity(before.len());
        let mut all = Vec::with_capacity(before.len());
        for (text, before) in before.iter().enumerate() {
            let of_text = |tensor: &Tensor| tensor.narrow(0, text, 1);
            let own = KeyValues { keys: of_text(&own.keys)?, values: of_text(&own.values)? };
            let whole = before.followed_by(&own)?;
            mixed.push(self.all.forward(&of_text(&q)?, &whole.keys, &whole.values)?);
            all.push(whole);
        }
        Ok((self.out.forward(&Tensor::cat(&mixed, 0)?, x)?, all))
    }

    fn project(&self, x: &Tensor) -> Result<(Tensor, KeyValues)> {
        let qkv = self.qkv.forward(x)?;
        let part = |index| qkv.narrow(2, index * self.hidden, self.hidden);
        Ok((part(0)?, KeyValues { keys: part(1)?, values: part(2)? }))
    }
}

/// Attention of a text's states to an image's.
#[derive(Debug, Clone)]
pub(in crate::model) struct CrossAttention {
    q: Linear,
    kv: Linear,
    all: Attention,
    out: NormedSum,
    hidden: usize,
}

impl CrossAttention {
    /// * `projections`: the name below which queries, keys and values are
    pub(in crate::model) fn load(
        config: &BertConfig,
        (scope, projections): (&Scope<'_>, &str),
    ) -> std::result::Result<Self, LoadError> {
        let (hidden, runtime) = (config.hidden_size, scope.runtime());
        let own = scope.at(projections);
        Ok(Self {
            q: linear(&own.at("query"), hidden, hidden)?,
            kv: own.linear(
                &["key.weight", "value.weight"],
                &["key.bias", "value.bias"],
                [hidden, config.image_width],
            )?,
            all: Attention::new(
                config.num_attention_heads,
                Mask::None,
                runtime.level,
                runtime.element,
            ),
            out: NormedSum::load(config, hidden, &scope.at("output"))?,
            hidden,
        })
    }

    /// The keys and values of images' states.
    ///
    /// * `images`: `[images, states, image_width]`
    pub(in crate::model) fn keys_of(&self, images: &Tensor) -> Result<KeyValues> {
        let kv = self.kv.forward(images)?;
        let part = |index| kv.narrow(2, index * self.hidden, self.hidden)?.contiguous();
        Ok(KeyValues { keys: part(0)?, values: part(1)? })
    }

    /// Attention to one image, or of each row to an image of its own.
    ///
    /// * `x`, and what is returned: `[texts, tokens, hidden_size]`
    pub(in crate::model) fn look(&self, x: &Tensor, images: &KeyValues) -> Result<Tensor> {
        let images = images.repeated(x.dim(0)?)?;
        let q = self.q.forward(x)?;
        let mixed = self.all.forward(&q, &images.keys, &images.values)?;
        self.out.forward(&mixed, x)
    }

    /// Attention of one token of each of several texts to an image of its own, which have numbers of states of their own.
    ///
    /// * `x`, and what is returned: `[texts, 1, hidden_size]`
    pub(in crate::model) fn look_each(&self, x: &Tensor, images: &[&KeyValues]) -> Result<Tensor> {
        let q = self.q.forward(x)?;
        let mut mixed = Vec::with_capacity(images.len());
        for (text, image) in images.iter().enumerate() {
            mixed.push(self.all.forward(&q.narrow(0, text, 1)?, &image.keys, &image.values)?);
        }
        self.out.forward(&Tensor::cat(&mixed, 0)?, x)
    }
}

/// The MLP.
#[derive(Debug, Clone)]
pub(in crate::model) struct BertMlp {
    intermediate: Linear,
    activation: Activation,
    output: NormedSum,
}

impl BertMlp {
    /// * `names`: of its two layers
    pub(in crate::model) fn load(
        config: &BertConfig,
        (scope, [intermediate, output]): (&Scope<'_>, [&str; 2]),
    ) -> std::result::Result<Self, LoadError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            intermediate: linear(&scope.at(intermediate).at("dense"), inner, hidden)?,
            activation: config.activation,
            output: NormedSum::load(config, inner, &scope.at(output))?,
        })
    }

    /// * `x`, and what is returned: `[texts, tokens, hidden_size]`
    pub(in crate::model) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let inner = self.intermediate.forward_activated(x, self.activation)?;
        self.output.forward(&inner, x)
    }
}

/// A layer whose result is added to what went in, and normed.
#[derive(Debug, Clone)]
struct NormedSum {
    dense: Linear,
    norm: LayerNorm,
}

impl NormedSum {
    fn load(
        config: &BertConfig,
        width: usize,
        scope: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let hidden = config.hidden_size;
        Ok(Self {
            dense: linear(&scope.at("dense"), hidden, width)?,
            norm: layer_norm_of(hidden, config.layer_norm_eps, &scope.at("LayerNorm"))?,
        })
    }

    fn forward(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.norm.forward(&self.dense.forward_residual(x, residual)?)
    }
}
