//! `config.json` of the BLIP family. A key that is absent, or an explicit `null`, means the default of transformers'
//! `BlipTextConfig` and `BlipVisionConfig`. Unknown keys are ignored.

use serde_json::Value;

use super::super::{
    LoadError,
    kernels::{Activation, Mask},
    nn::{BertConfig, EncoderConfig},
};
use crate::checkpoint::{
    content::ReadError,
    fields::{Fields, count},
};

/// What the text side of a checkpoint was trained for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Retrieval: embeddings of images and texts, and a head that matches them.
    Retrieval {
        /// Values of an embedding.
        embedding_dim: usize,
    },
    /// Captions.
    Captions,
}

/// The vision tower.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::model) struct VisionConfig {
    pub(in crate::model) encoder: EncoderConfig,
    /// Pixels of a side. A remainder that fills no patch is not read.
    pub(in crate::model) image_size: usize,
    pub(in crate::model) patch_size: usize,
}

/// The text side.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TextConfig {
    pub(super) layers: BertConfig,
    pub(super) vocab_size: usize,
    pub(super) text_length: usize,
    /// Begins a caption, or a text that is matched as the models were trained.
    pub(super) start: u32,
    /// Ends a caption.
    pub(super) end: u32,
}

/// Both sides.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct BlipConfig {
    pub(super) vision: VisionConfig,
    pub(super) text: TextConfig,
    pub(super) purpose: Purpose,
    /// Whether the table of words is a decoder's last layer too.
    pub(super) is_tied: bool,
}

impl BlipConfig {
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
            Some("BlipForImageTextRetrieval") => {
                Purpose::Retrieval { embedding_dim: size(root, "image_text_hidden_size", 256)? }
            }
            Some("BlipForConditionalGeneration") => Purpose::Captions,
            _ => {
                let read =
                    "a list of `BlipForImageTextRetrieval` or `BlipForConditionalGeneration`";
                return Err(root.unread("architectures", read).into());
            }
        };
        let vision = vision(&root.object_or_empty("vision_config")?, &VISION)?;
        let width = vision.encoder.hidden_size;
        let text = text(&root.object_or_empty("text_config")?, width)?;
        let of_text = root.object_or_empty("text_config")?.flag("tie_word_embeddings")?;
        let is_tied = match of_text {
            Some(is_tied) => is_tied,
            None => root.flag("tie_word_embeddings")?.unwrap_or(true),
        };
        Ok(Self { vision, text, purpose, is_tied })
    }
}

/// What is wrong with the file, for behind its name.
pub(in crate::model) struct Fault(pub(in crate::model) String);

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        Self(error.to_string())
    }
}

/// What a vision tower is where its file does not say.
pub(in crate::model) struct VisionDefaults {
    pub(in crate::model) hidden_size: usize,
    pub(in crate::model) intermediate_size: usize,
    pub(in crate::model) num_hidden_layers: usize,
    pub(in crate::model) num_attention_heads: usize,
    pub(in crate::model) image_size: usize,
    pub(in crate::model) patch_size: usize,
    pub(in crate::model) layer_norm_eps: f64,
}

const VISION: VisionDefaults = VisionDefaults {
    hidden_size: 768,
    intermediate_size: 3072,
    num_hidden_layers: 12,
    num_attention_heads: 12,
    image_size: 384,
    patch_size: 16,
    layer_norm_eps: 1e-5,
};

/// A vision tower of the kind that the family shares with BLIP-2.
pub(in crate::model) fn vision(
    fields: &Fields<'_>,
    defaults: &VisionDefaults,
) -> Result<VisionConfig, Fault> {
    let patch_size = side(fields, "patch_size", defaults.patch_size)?;
    let image_size = side(fields, "image_size", defaults.image_size)?;
    if patch_size > image_size {
        return Err(Fault(format!(
            "`{}` is {patch_size}, which is larger than `{}`, {image_size}",
            fields.path("patch_size"),
            fields.path("image_size"),
        )));
    }
    let layer_norm_eps = fields.number("layer_norm_eps")?.unwrap_or(defaults.layer_norm_eps);
    let encoder = EncoderConfig {
        hidden_size: size(fields, "hidden_size", defaults.hidden_size)?,
        intermediate_size: size(fields, "intermediate_size", defaults.intermediate_size)?,
        num_hidden_layers: size(fields, "num_hidden_layers", defaults.num_hidden_layers)?,
        num_attention_heads: size(fields, "num_attention_heads", defaults.num_attention_heads)?,
        activation: activation(fields)?,
        mask: Mask::None,
        layer_norm_eps: layer_norm_eps as f32,
    };
    check_heads(fields, encoder.hidden_size, encoder.num_attention_heads)?;
    Ok(VisionConfig { encoder, image_size, patch_size })
}

/// * `image_width`: the vision tower's; the file's own `encoder_hidden_size` is overruled, as in transformers
fn text(fields: &Fields<'_>, image_width: usize) -> Result<TextConfig, Fault> {
    let layers = BertConfig {
        hidden_size: size(fields, "hidden_size", 768)?,
        intermediate_size: size(fields, "intermediate_size", 3072)?,
        num_hidden_layers: size(fields, "num_hidden_layers", 12)?,
        num_attention_heads: size(fields, "num_attention_heads", 8)?,
        activation: activation(fields)?,
        layer_norm_eps: fields.number("layer_norm_eps")?.unwrap_or(1e-12) as f32,
        image_width,
    };
    check_heads(fields, layers.hidden_size, layers.num_attention_heads)?;
    let id = |key: &str, default: u32| -> Result<u32, Fault> {
        let id = |value: &Value| u32::try_from(count(value)?).ok();
        Ok(fields.read(key, "a whole number", id)?.unwrap_or(default))
    };
    Ok(TextConfig {
        layers,
        vocab_size: size(fields, "vocab_size", 30524)?,
        text_length: size(fields, "max_position_embeddings", 512)?,
        start: id("bos_token_id", 30522)?,
        end: id("sep_token_id", 102)?,
    })
}

pub(in crate::model) fn activation(fields: &Fields<'_>) -> Result<Activation, Fault> {
    match fields.text("hidden_act")? {
        None | Some("gelu") => Ok(Activation::GeluErf),
        Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Activation::GeluTanh),
        Some("quick_gelu") => Ok(Activation::QuickGelu),
        Some(_) => {
            let read = "`gelu`, `gelu_pytorch_tanh` or `quick_gelu`";
            Err(fields.unread("hidden_act", read).into())
        }
    }
}

pub(in crate::model) fn check_heads(
    fields: &Fields<'_>,
    hidden: usize,
    heads: usize,
) -> Result<(), Fault> {
    if hidden.is_multiple_of(heads) {
        return Ok(());
    }
    let (width, key) = (fields.path("hidden_size"), fields.path("num_attention_heads"));
    Err(Fault(format!("`{width}` is {hidden}, which is not a multiple of `{key}`, {heads}")))
}

/// A side in pixels, which may be written as `[height, width]`.
fn side(fields: &Fields<'_>, key: &str, default: usize) -> Result<usize, Fault> {
    let square = |value: &Value| match value {
        Value::Array(sides) => match &sides[..] {
            [height, width] if height == width => count(height),
            _ => None,
        },
        value => count(value),
    };
    let expected = "a whole number, or a list of two equal ones,";
    let side = fields.read(key, expected, square)?.unwrap_or(default);
    in_range(fields, key, side)
}

/// A dimension that sizes an allocation.
pub(in crate::model) fn size(
    fields: &Fields<'_>,
    key: &str,
    default: usize,
) -> Result<usize, Fault> {
    in_range(fields, key, fields.count(key)?.unwrap_or(default))
}

/// Not zero, and far below an overflow of any product of dimensions.
fn in_range(fields: &Fields<'_>, key: &str, value: usize) -> Result<usize, Fault> {
    const MOST: usize = 1 << 24;
    if (1..=MOST).contains(&value) {
        Ok(value)
    } else {
        Err(fields.unread(key, &format!("a whole number from 1 to {MOST}")).into())
    }
}
