//! `config.json` of the CLIP family.
//!
//! A key that is absent, or an explicit `null`, means the default of transformers' `CLIPTextConfig` and
//! `CLIPVisionConfig`. Where the file has a `text_config_dict` or a `vision_config_dict`, that object, completed with
//! those defaults, takes the place of every key of `text_config` or `vision_config`. Unknown keys are ignored.

use serde_json::Value;

use super::super::{
    LoadError,
    kernels::{Activation, Mask},
    nn::{EncoderConfig, TokenConfig},
};
use crate::{
    checkpoint::{
        content::ReadError,
        fields::{Fields, count},
    },
    tokenize::TextEnd,
};

/// The end token of configurations that mean the largest id by it.
const LEGACY_END: u32 = 2;

/// The text tower.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TextConfig {
    pub(super) encoder: EncoderConfig,
    pub(super) tokens: TokenConfig,
    pub(super) end: TextEnd,
    pub(super) projection_dim: usize,
}

/// The vision tower.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct VisionConfig {
    pub(super) encoder: EncoderConfig,
    /// Pixels of a side. A remainder that fills no patch is not read.
    pub(super) image_size: usize,
    pub(super) patch_size: usize,
    pub(super) projection: Projection,
}

/// What becomes of the class token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Projection {
    /// It is projected to so many values.
    Dim(usize),
    /// It is projected to so many values where the file has the projection, as stand-alone towers may.
    IfStored(usize),
}

/// Both towers, or the vision tower alone.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ClipConfig {
    pub(super) vision: VisionConfig,
    pub(super) text: Option<TextConfig>,
}

impl ClipConfig {
    /// * `file`: the name for errors
    ///
    /// # Errors
    /// Names the file and the key at fault.
    pub(super) fn read(file: &str, root: &Fields<'_>) -> Result<Self, LoadError> {
        Self::of(root).map_err(|fault| LoadError::new(format!("{file}: {}", fault.0)))
    }

    /// A vision tower of a model that has another text side.
    ///
    /// * `fields`: the object that describes the tower
    ///
    /// # Errors
    /// As [`ClipConfig::read`].
    pub(super) fn tower(file: &str, fields: &Fields<'_>) -> Result<Self, LoadError> {
        Self::alone(fields).map_err(|fault| LoadError::new(format!("{file}: {}", fault.0)))
    }

    fn alone(fields: &Fields<'_>) -> Result<Self, Fault> {
        let projection = Projection::IfStored(size(fields, "projection_dim", 512)?);
        Ok(Self { vision: vision(fields, projection)?, text: None })
    }

    fn of(root: &Fields<'_>) -> Result<Self, Fault> {
        if root.text("model_type")? == Some("clip_vision_model") {
            let fields = root.object("vision_config")?;
            return Self::alone(fields.as_ref().unwrap_or(root));
        }
        let part = |key: &str, old: &str| match root.object(old)? {
            Some(fields) => Ok(fields),
            None => root.object_or_empty(key),
        };
        let projection_dim = size(root, "projection_dim", 512)?;
        let vision_fields = part("vision_config", "vision_config_dict")?;
        let text_fields = part("text_config", "text_config_dict")?;
        Ok(Self {
            vision: vision(&vision_fields, Projection::Dim(projection_dim))?,
            text: Some(text(&text_fields, projection_dim)?),
        })
    }
}

/// What is wrong with the file, for behind its name.
struct Fault(String);

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        Self(error.to_string())
    }
}

/// The defaults that the two towers do not share.
struct Defaults {
    hidden: usize,
    inner: usize,
    heads: usize,
    mask: Mask,
}

fn encoder(fields: &Fields<'_>, defaults: &Defaults) -> Result<EncoderConfig, Fault> {
    let activation = match fields.text("hidden_act")? {
        None | Some("quick_gelu") => Activation::QuickGelu,
        Some("gelu") => Activation::GeluErf,
        Some("gelu_pytorch_tanh" | "gelu_new") => Activation::GeluTanh,
        Some(_) => {
            let read = "`quick_gelu`, `gelu` or `gelu_pytorch_tanh`";
            return Err(fields.unread("hidden_act", read).into());
        }
    };
    let config = EncoderConfig {
        hidden_size: size(fields, "hidden_size", defaults.hidden)?,
        intermediate_size: size(fields, "intermediate_size", defaults.inner)?,
        num_hidden_layers: size(fields, "num_hidden_layers", 12)?,
        num_attention_heads: size(fields, "num_attention_heads", defaults.heads)?,
        activation,
        mask: defaults.mask,
        layer_norm_eps: fields.number("layer_norm_eps")?.unwrap_or(1e-5) as f32,
    };
    if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
        return Err(Fault(format!(
            "`{}` is {}, which is not a multiple of `{}`, {}",
            fields.path("hidden_size"),
            config.hidden_size,
            fields.path("num_attention_heads"),
            config.num_attention_heads
        )));
    }
    Ok(config)
}

fn text(fields: &Fields<'_>, projection_dim: usize) -> Result<TextConfig, Fault> {
    let defaults = Defaults { hidden: 512, inner: 2048, heads: 8, mask: Mask::Causal };
    let id = |value: &Value| u32::try_from(count(value)?).ok();
    let end = match fields.read("eos_token_id", "a whole number", id)?.unwrap_or(49407) {
        LEGACY_END => TextEnd::Largest,
        end => TextEnd::First(end),
    };
    Ok(TextConfig {
        encoder: encoder(fields, &defaults)?,
        tokens: TokenConfig {
            vocab_size: size(fields, "vocab_size", 49408)?,
            text_length: size(fields, "max_position_embeddings", 77)?,
            is_padded: false,
        },
        end,
        projection_dim,
    })
}

fn vision(fields: &Fields<'_>, projection: Projection) -> Result<VisionConfig, Fault> {
    if fields.count("num_channels")?.is_some_and(|channels| channels != 3) {
        return Err(fields.unread("num_channels", "3").into());
    }
    let (patch_size, image_size) =
        (side(fields, "patch_size", 32)?, side(fields, "image_size", 224)?);
    if patch_size > image_size {
        return Err(Fault(format!(
            "`{}` is {patch_size}, which is larger than `{}`, {image_size}",
            fields.path("patch_size"),
            fields.path("image_size"),
        )));
    }
    let defaults = Defaults { hidden: 768, inner: 3072, heads: 12, mask: Mask::None };
    Ok(VisionConfig { encoder: encoder(fields, &defaults)?, image_size, patch_size, projection })
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
fn size(fields: &Fields<'_>, key: &str, default: usize) -> Result<usize, Fault> {
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

#[cfg(test)]
mod tests;
