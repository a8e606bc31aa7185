//! `config.json` of the SigLIP family.
//!
//! Published files are sparse: a key that is absent, or an explicit `null`, means the default of
//! transformers' `SiglipTextConfig`, `SiglipVisionConfig` and `Siglip2VisionConfig`. Unknown keys are ignored.
//!
//! The model type `siglip2` is NaFlex; SigLIP 2 at a fixed resolution is published as `siglip`.

use serde_json::Value;

use super::super::{
    LoadError,
    kernels::{Activation, Mask},
    nn::{EncoderConfig, TokenConfig},
};
use crate::checkpoint::{
    content::ReadError,
    fields::{Fields, count},
};

/// The text tower.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TextConfig {
    pub(super) encoder: EncoderConfig,
    pub(super) tokens: TokenConfig,
    pub(super) projection_size: usize,
}

/// The vision tower.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct VisionConfig {
    pub(super) encoder: EncoderConfig,
    pub(super) resolution: Resolution,
    /// Positions along one side of the stored grid. Of a fixed size, a remainder that fills no patch is
    /// not read.
    pub(super) grid: usize,
    pub(super) patch_size: usize,
    pub(super) use_head: bool,
}

/// Which images a vision tower reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resolution {
    /// Squares of one size.
    Fixed {
        /// Pixels of a side.
        image_size: usize,
    },
    /// Rectangles of whole patches, their positions interpolated from a square grid.
    Naflex,
}

impl VisionConfig {
    /// What the model type of `config.json` is called.
    pub(super) fn family(&self) -> &'static str {
        match self.resolution {
            Resolution::Fixed { .. } => "siglip",
            Resolution::Naflex => "siglip2",
        }
    }
}

/// Both towers, or the vision tower alone.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SiglipConfig {
    pub(super) vision: VisionConfig,
    pub(super) text: Option<TextConfig>,
}

impl SiglipConfig {
    /// * `file`: the name for errors
    ///
    /// # Errors
    /// Names the file and the key at fault.
    pub(super) fn read(file: &str, root: &Fields<'_>) -> Result<Self, LoadError> {
        Self::of(root).map_err(|fault| LoadError::new(format!("{file}: {}", fault.0)))
    }

    /// A vision tower that reads squares of one size, of a model that has another text side.
    ///
    /// * `fields`: the object that describes the tower
    ///
    /// # Errors
    /// As [`SiglipConfig::read`].
    pub(super) fn tower(file: &str, fields: &Fields<'_>) -> Result<Self, LoadError> {
        let vision = vision(fields, false);
        let vision = vision.map_err(|fault| LoadError::new(format!("{file}: {}", fault.0)))?;
        Ok(Self { vision, text: None })
    }

    fn of(root: &Fields<'_>) -> Result<Self, Fault> {
        let model_type = root.text("model_type")?.unwrap_or_default();
        let is_naflex = model_type.starts_with("siglip2");
        match model_type {
            "siglip" | "siglip2" => Ok(Self {
                vision: vision(&root.object_or_empty("vision_config")?, is_naflex)?,
                text: Some(text(&root.object_or_empty("text_config")?)?),
            }),
            // A stand-alone vision tower is flat; some exports nest it all the same.
            "siglip_vision_model" | "siglip2_vision_model" => {
                let fields = root.object("vision_config")?;
                let vision = vision(fields.as_ref().unwrap_or(root), is_naflex)?;
                Ok(Self { vision, text: None })
            }
            _ => Err(root
                .unread(
                    "model_type",
                    "`siglip`, `siglip2`, `siglip_vision_model` or `siglip2_vision_model`",
                )
                .into()),
        }
    }
}

/// What is wrong with the file, for behind its name.
struct Fault(String);

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        Self(error.to_string())
    }
}

fn encoder(fields: &Fields<'_>) -> Result<EncoderConfig, Fault> {
    let activation = match fields.text("hidden_act")? {
        None | Some("gelu_pytorch_tanh") => Activation::GeluTanh,
        Some("gelu") => Activation::GeluErf,
        Some("quick_gelu") => Activation::QuickGelu,
        Some(_) => {
            return Err(fields
                .unread("hidden_act", "`gelu_pytorch_tanh`, `gelu` or `quick_gelu`")
                .into());
        }
    };
    let config = EncoderConfig {
        hidden_size: size(fields, "hidden_size", 768)?,
        intermediate_size: size(fields, "intermediate_size", 3072)?,
        num_hidden_layers: size(fields, "num_hidden_layers", 12)?,
        num_attention_heads: size(fields, "num_attention_heads", 12)?,
        activation,
        mask: Mask::None,
        layer_norm_eps: fields.number("layer_norm_eps")?.unwrap_or(1e-6) as f32,
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

fn text(fields: &Fields<'_>) -> Result<TextConfig, Fault> {
    let encoder = encoder(fields)?;
    Ok(TextConfig {
        tokens: TokenConfig {
            vocab_size: size(fields, "vocab_size", 32000)?,
            text_length: size(fields, "max_position_embeddings", 64)?,
            is_padded: true,
        },
        projection_size: size(fields, "projection_size", encoder.hidden_size)?,
        encoder,
    })
}

fn vision(fields: &Fields<'_>, is_naflex: bool) -> Result<VisionConfig, Fault> {
    if fields.count("num_channels")?.is_some_and(|channels| channels != 3) {
        return Err(fields.unread("num_channels", "3").into());
    }
    let patch_size = side(fields, "patch_size", 16)?;
    let (resolution, grid) = if is_naflex {
        let count = size(fields, "num_patches", 256)?;
        let grid = count.isqrt();
        if grid * grid != count {
            return Err(fields
                .unread("num_patches", "the square of a whole number, such as 256,")
                .into());
        }
        (Resolution::Naflex, grid)
    } else {
        let image_size = side(fields, "image_size", 224)?;
        if patch_size > image_size {
            return Err(Fault(format!(
                "`{}` is {patch_size}, which is larger than `{}`, {image_size}",
                fields.path("patch_size"),
                fields.path("image_size"),
            )));
        }
        (Resolution::Fixed { image_size }, image_size / patch_size)
    };
    Ok(VisionConfig {
        encoder: encoder(fields)?,
        resolution,
        grid,
        patch_size,
        use_head: fields.flag("vision_use_head")?.unwrap_or(true),
    })
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

#[cfg(test)]
mod published;
