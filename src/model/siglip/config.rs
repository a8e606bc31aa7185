//! `config.json` of the SigLIP family.
//!
//! Published files are sparse: a key that is absent, or an explicit `null`, means the default of
//! transformers' `SiglipTextConfig`, `SiglipVisionConfig` and `Siglip2VisionConfig`. Unknown keys are ignored.
//!
//! The model type `siglip2` is NaFlex; SigLIP 2 at a fixed resolution is published as `siglip`.

use serde::Deserialize;

use super::super::{LoadError, kernels::Activation};

/// The shape of one encoder.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::model) struct EncoderConfig {
    pub(in crate::model) hidden_size: usize,
    pub(in crate::model) intermediate_size: usize,
    pub(in crate::model) num_hidden_layers: usize,
    pub(in crate::model) num_attention_heads: usize,
    pub(in crate::model) activation: Activation,
    pub(in crate::model) layer_norm_eps: f32,
}

/// The text tower.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::model) struct TextConfig {
    pub(in crate::model) encoder: EncoderConfig,
    pub(in crate::model) vocab_size: usize,
    pub(in crate::model) max_position_embeddings: usize,
    pub(in crate::model) projection_size: usize,
}

/// The vision tower.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::model) struct VisionConfig {
    pub(in crate::model) encoder: EncoderConfig,
    pub(in crate::model) resolution: Resolution,
    /// Positions along one side of the stored grid. Of a fixed size, a remainder that fills no patch is
    /// not read.
    pub(in crate::model) grid: usize,
    pub(in crate::model) patch_size: usize,
    pub(in crate::model) use_head: bool,
}

/// Which pictures a vision tower reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Resolution {
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
    pub(in crate::model) fn family(&self) -> &'static str {
        match self.resolution {
            Resolution::Fixed { .. } => "siglip",
            Resolution::Naflex => "siglip2",
        }
    }
}

/// Both towers, or the vision tower alone.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::model) struct SiglipConfig {
    pub(in crate::model) vision: VisionConfig,
    pub(in crate::model) text: Option<TextConfig>,
}

impl SiglipConfig {
    /// * `file`: the name for errors
    ///
    /// # Errors
    /// Names the file and the key at fault.
    pub(in crate::model) fn parse(file: &str, json: &[u8]) -> Result<Self, LoadError> {
        let at_fault = |message: String| LoadError::new(format!("{file}: {message}"));
        let raw: RawModel =
            serde_json::from_slice(json).map_err(|error| at_fault(error.to_string()))?;
        let model_type = raw.model_type.as_deref().unwrap_or_default();
        let is_naflex = model_type.starts_with("siglip2");
        match model_type {
            "siglip" | "siglip2" => {
                let vision = raw.vision_config.unwrap_or_default();
                let text = raw.text_config.unwrap_or_default();
                Ok(Self {
                    vision: vision.resolve("vision_config.", is_naflex).map_err(at_fault)?,
                    text: Some(text.resolve("text_config.").map_err(at_fault)?),
                })
            }
            // A stand-alone vision tower is flat; some exports nest it all the same.
            "siglip_vision_model" | "siglip2_vision_model" => {
                let (vision, path) = match raw.vision_config {
                    Some(vision) => (vision, "vision_config."),
                    None => (
                        serde_json::from_slice(json)
                            .map_err(|error| at_fault(error.to_string()))?,
                        "",
                    ),
                };
                Ok(Self { vision: vision.resolve(path, is_naflex).map_err(at_fault)?, text: None })
            }
            "" => Err(at_fault("the key model_type is missing".to_owned())),
            other => Err(at_fault(format!(
                "model_type `{other}` is not served; `siglip`, `siglip2`, `siglip_vision_model` and \
                 `siglip2_vision_model` are"
            ))),
        }
    }
}

#[derive(Deserialize)]
struct RawModel {
    model_type: Option<String>,
    text_config: Option<RawText>,
    vision_config: Option<RawVision>,
}

#[derive(Default, Deserialize)]
struct RawEncoder {
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    hidden_act: Option<String>,
    layer_norm_eps: Option<f32>,
}

#[derive(Default, Deserialize)]
struct RawText {
    #[serde(flatten)]
    encoder: RawEncoder,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    projection_size: Option<usize>,
}

#[derive(Default, Deserialize)]
struct RawVision {
    #[serde(flatten)]
    encoder: RawEncoder,
    num_channels: Option<usize>,
    image_size: Option<Side>,
    num_patches: Option<usize>,
    patch_size: Option<Side>,
    vision_use_head: Option<bool>,
}

/// A side in pixels, or `[height, width]`.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Side {
    One(usize),
    Two([usize; 2]),
}

impl Side {
    fn square(self, key: &str) -> Result<usize, String> {
        match self {
            Self::One(side) => Ok(side),
            Self::Two([height, width]) if height == width => Ok(height),
            Self::Two([height, width]) => {
                Err(format!("{key} is {height} x {width}; only squares are served"))
            }
        }
    }
}

impl RawEncoder {
    fn resolve(self, path: &str) -> Result<EncoderConfig, String> {
        let activation = match self.hidden_act.as_deref() {
            None | Some("gelu_pytorch_tanh") => Activation::GeluTanh,
            Some("gelu") => Activation::GeluErf,
            Some(other) => {
                return Err(format!(
                    "{path}hidden_act `{other}` is not served; `gelu_pytorch_tanh` and `gelu` are"
                ));
            }
        };
        let config = EncoderConfig {
            hidden_size: self.hidden_size.unwrap_or(768),
            intermediate_size: self.intermediate_size.unwrap_or(3072),
            num_hidden_layers: self.num_hidden_layers.unwrap_or(12),
            num_attention_heads: self.num_attention_heads.unwrap_or(12),
            activation,
            layer_norm_eps: self.layer_norm_eps.unwrap_or(1e-6),
        };
        positive(path, "hidden_size", config.hidden_size)?;
        positive(path, "intermediate_size", config.intermediate_size)?;
        positive(path, "num_hidden_layers", config.num_hidden_layers)?;
        positive(path, "num_attention_heads", config.num_attention_heads)?;
        if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
            return Err(format!(
                "{path}hidden_size {} is not a multiple of {path}num_attention_heads {}",
                config.hidden_size, config.num_attention_heads
            ));
        }
        Ok(config)
    }
}

impl RawText {
    fn resolve(self, path: &str) -> Result<TextConfig, String> {
        let encoder = self.encoder.resolve(path)?;
        Ok(TextConfig {
            vocab_size: positive(path, "vocab_size", self.vocab_size.unwrap_or(32000))?,
            max_position_embeddings: positive(
                path,
                "max_position_embeddings",
                self.max_position_embeddings.unwrap_or(64),
            )?,
            projection_size: positive(
                path,
                "projection_size",
                self.projection_size.unwrap_or(encoder.hidden_size),
            )?,
            encoder,
        })
    }
}

impl RawVision {
    fn resolve(self, path: &str, is_naflex: bool) -> Result<VisionConfig, String> {
        if let Some(channels) = self.num_channels.filter(|&channels| channels != 3) {
            return Err(format!("{path}num_channels is {channels}; pictures here have 3"));
        }
        let side = |side: Option<Side>, key: &str, default: usize| {
            let key = format!("{path}{key}");
            let side = side.map_or(Ok(default), |side| side.square(&key))?;
            positive("", &key, side)
        };
        let patch_size = side(self.patch_size, "patch_size", 16)?;
        let (resolution, grid) = if is_naflex {
            let count = positive(path, "num_patches", self.num_patches.unwrap_or(256))?;
            let grid = count.isqrt();
            if grid * grid != count {
                return Err(format!(
                    "{path}num_patches is {count}; positions are a square grid, of 256 for example"
                ));
            }
            (Resolution::Naflex, grid)
        } else {
            let image_size = side(self.image_size, "image_size", 224)?;
            if patch_size > image_size {
                return Err(format!(
                    "{path}patch_size {patch_size} is larger than {path}image_size {image_size}"
                ));
            }
            (Resolution::Fixed { image_size }, image_size / patch_size)
        };
        Ok(VisionConfig {
            encoder: self.encoder.resolve(path)?,
            resolution,
            grid,
            patch_size,
            use_head: self.vision_use_head.unwrap_or(true),
        })
    }
}

/// A dimension that sizes an allocation: not zero, and far below an overflow of any product of them.
fn positive(path: &str, key: &str, value: usize) -> Result<usize, String> {
    const MOST: usize = 1 << 24;
    if (1..=MOST).contains(&value) {
        Ok(value)
    } else {
        Err(format!("{path}{key} is {value}; it must be from 1 to {MOST}"))
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod published;
