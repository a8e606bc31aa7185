//! `config.json` of the BLIP-2 family. A key that is absent, or an explicit `null`, means the default of transformers'
//! `Blip2VisionConfig` and `Blip2QFormerConfig`. Unknown keys are ignored.

use serde_json::Value;

use crate::{
    checkpoint::fields::Fields,
    model::{
        LoadError,
        blip::config::{
            Fault, VisionConfig, VisionDefaults, activation, check_heads, size, vision,
        },
        nn::BertConfig,
    },
};

/// What a checkpoint was trained for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Retrieval: embeddings of images and texts, and a head that matches them.
    Retrieval {
        /// Values of one vector.
        embedding_dim: usize,
    },
    /// To be the eyes of a language model, which is not served.
    Generation,
}

/// The Q-Former, and its text side.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct QFormerConfig {
    pub(super) layers: BertConfig,
    /// Every so many layers, from the first one on, the queries look at the image.
    pub(super) cross_attention_frequency: usize,
    pub(super) vocab_size: usize,
    pub(super) text_length: usize,
}

/// A whole model, but for its language model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Blip2Config {
    pub(super) vision: VisionConfig,
    pub(super) qformer: QFormerConfig,
    /// Queries, and with them vectors of an image.
    pub(super) queries: usize,
    pub(super) purpose: Purpose,
}

const VISION: VisionDefaults = VisionDefaults {
    hidden_size: 1408,
    intermediate_size: 6144,
    num_hidden_layers: 39,
    num_attention_heads: 16,
    image_size: 224,
    patch_size: 14,
    layer_norm_eps: 1e-6,
};

/// The most queries. The published models have 32, and each is a vector of every answer.
const MOST_QUERIES: usize = 1024;

impl Blip2Config {
    /// * `file`: the name for errors
    ///
    /// # Errors
    /// Names the file and the key at fault.
    pub(super) fn read(file: &str, root: &Fields<'_>) -> Result<Self, LoadError> {
        Self::of(root).map_err(|fault| LoadError::new(format!("{file}: {}", fault.0)))
    }

    fn of(root: &Fields<'_>) -> Result<Self, Fault> {
        let first = |value: &Value| value.as_array()?.first()?.as_str().map(str::to_owned);
        let architecture = root.read("architectures", "a list of names", first)?;
        let purpose = match architecture.as_deref() {
            Some("Blip2ForImageTextRetrieval") => {
                Purpose::Retrieval { embedding_dim: size(root, "image_text_hidden_size", 256)? }
            }
            Some("Blip2ForConditionalGeneration" | "Blip2Model") => Purpose::Generation,
            _ => {
                let read = "a list of `Blip2ForImageTextRetrieval`, `Blip2ForConditionalGeneration` or `Blip2Model`";
                return Err(root.unread("architectures", read).into());
            }
        };
        let queries = size(root, "num_query_tokens", 32)?;
        if queries > MOST_QUERIES {
            let read = format!("a whole number from 1 to {MOST_QUERIES}");
            return Err(root.unread("num_query_tokens", &read).into());
        }
        let vision = vision(&root.object_or_empty("vision_config")?, &VISION)?;
        let width = vision.encoder.hidden_size;
        let qformer = qformer(&root.object_or_empty("qformer_config")?, width)?;
        Ok(Self { vision, qformer, queries, purpose })
    }
}

/// * `image_width`: the vision tower's; the file's own `encoder_hidden_size` is overruled, as in transformers
fn qformer(fields: &Fields<'_>, image_width: usize) -> Result<QFormerConfig, Fault> {
    let layers = BertConfig {
        hidden_size: size(fields, "hidden_size", 768)?,
        intermediate_size: size(fields, "intermediate_size", 3072)?,
        num_hidden_layers: size(fields, "num_hidden_layers", 12)?,
        num_attention_heads: size(fields, "num_attention_heads", 12)?,
        activation: activation(fields)?,
        layer_norm_eps: fields.number("layer_norm_eps")?.unwrap_or(1e-12) as f32,
        image_width,
    };
    check_heads(fields, layers.hidden_size, layers.num_attention_heads)?;
    Ok(QFormerConfig {
        layers,
        cross_attention_frequency: size(fields, "cross_attention_frequency", 2)?,
        vocab_size: size(fields, "vocab_size", 30522)?,
        text_length: size(fields, "max_position_embeddings", 512)?,
    })
}
