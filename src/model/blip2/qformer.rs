//! The Q-Former: queries that look at an image, and texts beside them.

use candle_core::{Result, Tensor};

use super::config::{Blip2Config, Purpose};
use crate::model::{
    LoadError,
    kernels::{LayerNorm, Mask},
    nn::{BertAttention, BertMlp, CrossAttention, KeyValues, layer_norm_of},
    weights::Scope,
};

/// Mirrors transformers' [`Blip2QFormerModel`], whose layers serve the image alone, a text alone, and both together.
///
/// [`Blip2QFormerModel`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/blip_2/modeling_blip_2.py
#[derive(Debug, Clone)]
pub(super) struct QFormer {
    /// `[1, queries, hidden_size]`, behind the norm.
    queries: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
    /// Values of one state.
    pub(super) width: usize,
}

#[derive(Debug, Clone)]
struct Layer {
    attention: BertAttention,
    /// Only the queries look at the image, and not in every layer.
    cross: Option<CrossAttention>,
    of_queries: BertMlp,
    /// Of retrieval checkpoints.
    of_text: Option<BertMlp>,
}

/// Keys and values of images for each layer that looks at them.
pub(super) struct ImageKeys(Vec<Option<KeyValues>>);

impl QFormer {
    pub(super) fn load(
        config: &Blip2Config,
        root: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let (qformer, scope) = (&config.qformer, root.at("qformer"));
        let width = qformer.layers.hidden_size;
        let layers = scope.at("encoder").at("layer").in_bytes();
        let layer = |index: usize| {
            let scope = layers.at(index);
            let looks = index.is_multiple_of(qformer.cross_attention_frequency);
            let cross = || {
                let scope = scope.at("crossattention");
                CrossAttention::load(&qformer.layers, (&scope, "attention"))
            };
            let names = ["intermediate", "output"];
            let of_text = match config.purpose {
                Purpose::Retrieval { .. } => Some(BertMlp::load(&qformer.layers, (&scope, names))?),
                Purpose::Generation => {
                    names.into_iter().for_each(|name| scope.at(name).skip_inside());
                    None
                }
            };
            let queries = ["intermediate_query", "output_query"];
            Ok(Layer {
                attention: BertAttention::load(
                    &qformer.layers,
                    (&scope.at("attention"), "attention"),
                )?,
                cross: looks.then(cross).transpose()?,
                of_queries: BertMlp::load(&qformer.layers, (&scope, queries))?,
                of_text,
            })
        };
        let norm = layer_norm_of(width, qformer.layers.layer_norm_eps, &scope.at("layernorm"))?;
        let queries = root.host("query_tokens", &[1, config.queries, width])?;
        let queries = root.tensor(queries, &[1, config.queries, width], root.runtime().compute)?;
        let failed = |error| LoadError::new(format!("tensor `query_tokens`: {error}"));
        Ok(Self {
            queries: norm.forward(&queries).map_err(failed)?,
            norm,
            layers: (0..qformer.layers.num_hidden_layers)
                .map(layer)
                .collect::<std::result::Result<_, LoadError>>()?,
            width,
        })
    }

    /// The number of layers.
    pub(super) fn depth(&self) -> usize {
        self.layers.len()
    }

    /// The first states of texts.
    ///
    /// * `embedded`, and what is returned: `[texts, tokens, hidden_size]`
    pub(super) fn begin(&self, embedded: &Tensor) -> Result<Tensor> {
        self.norm.forward(embedded)
    }

    /// One layer for texts alone.
    ///
    /// * `x`, and what is returned: `[texts, tokens, hidden_size]`
    pub(super) fn text_layer(&self, index: usize, x: &Tensor) -> Result<Tensor> {
        let layer = &self.layers[index];
        let (x, _) = layer.attention.attend(x, Mask::None)?;
        layer.text(&x)
    }

    /// What the queries see of images.
    ///
    /// * `images`: `[images, states, image_width]`
    /// * returns `[images, queries, hidden_size]`
    pub(super) fn see(&self, images: &Tensor) -> Result<Tensor> {
        let mut x = self.repeated_queries(images.dim(0)?)?;
        for layer in &self.layers {
            (x, _) = layer.attention.attend(&x, Mask::None)?;
            if let Some(cross) = &layer.cross {
                x = cross.look(&x, &cross.keys_of(images)?)?;
            }
            x = layer.of_queries.forward(&x)?;
        }
        Ok(x)
    }

    /// What all layers need of one image, whatever is read beside it.
    ///
    /// * `image`: `[1, states, image_width]`
    pub(super) fn keys_of(&self, image: &Tensor) -> Result<ImageKeys> {
        let keys =
            |layer: &Layer| layer.cross.as_ref().map(|cross| cross.keys_of(image)).transpose();
        self.layers.iter().map(keys).collect::<Result<_>>().map(ImageKeys)
    }

    /// What the queries see of one image beside texts.
    ///
    /// * `texts`: their first states, `[texts, tokens, hidden_size]`
    /// * returns `[texts, queries, hidden_size]`
    pub(super) fn see_beside(&self, texts: &Tensor, image: &ImageKeys) -> Result<Tensor> {
        let mut queries = self.repeated_queries(texts.dim(0)?)?.contiguous()?;
        let (count, tokens) = (queries.dim(1)?, texts.dim(1)?);
        let mut texts = texts.clone();
        let last = self.layers.len().saturating_sub(1);
        for (index, (layer, keys)) in self.layers.iter().zip(&image.0).enumerate() {
            let both = Tensor::cat(&[&queries, &texts], 1)?;
            let (both, _) = layer.attention.attend(&both, Mask::None)?;
            queries = both.narrow(1, 0, count)?.contiguous()?;
            if let (Some(cross), Some(keys)) = (&layer.cross, keys) {
                queries = cross.look(&queries, keys)?;
            }
            queries = layer.of_queries.forward(&queries)?;
            // Nobody reads a text's states behind the last layer.
            if index < last {
                texts = layer.text(&both.narrow(1, count, tokens)?.contiguous()?)?;
            }
        }
        Ok(queries)
    }

    fn repeated_queries(&self, rows: usize) -> Result<Tensor> {
        let (_, count, width) = self.queries.dims3()?;
        self.queries.broadcast_as((rows, count, width))?.contiguous()
    }
}

impl Layer {
    fn text(&self, x: &Tensor) -> Result<Tensor> {
        match &self.of_text {
            Some(mlp) => mlp.forward(x),
            None => candle_core::bail!("a Q-Former without a text side"),
        }
    }
}
