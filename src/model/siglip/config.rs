//! `config.json` of the SigLIP family.
//!
//! Published files are sparse: a key that is absent, or an explicit `null`, means the default of
//! transformers' `SiglipTextConfig` and `SiglipVisionConfig`. Unknown keys are ignored.

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
    pub(in crate::model) image_size: usize,
    pub(in crate::model) patch_size: usize,
    pub(in crate::model) use_head: bool,
}

impl VisionConfig {
    /// Patches along one side. A remainder of the picture that fills no patch is not read.
    pub(in crate::model) fn grid(&self) -> usize {
        self.image_size / self.patch_size
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
        match raw.model_type.as_deref() {
            Some("siglip") => {
                let vision = raw.vision_config.unwrap_or_default();
                let text = raw.text_config.unwrap_or_default();
                Ok(Self {
                    vision: vision.resolve("vision_config.").map_err(at_fault)?,
                    text: Some(text.resolve("text_config.").map_err(at_fault)?),
                })
            }
            // A stand-alone vision tower is flat; some exports nest it all the same.
            Some("siglip_vision_model") => {
                let (vision, path) = match raw.vision_config {
                    Some(vision) => (vision, "vision_config."),
                    None => (
                        serde_json::from_slice(json)
                            .map_err(|error| at_fault(error.to_string()))?,
                        "",
                    ),
                };
                Ok(Self { vision: vision.resolve(path).map_err(at_fault)?, text: None })
            }
            Some(other) => Err(at_fault(format!(
                "model_type `{other}` is not served; `siglip` and `siglip_vision_model` are"
            ))),
            None => Err(at_fault("the key model_type is missing".to_owned())),
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
    fn resolve(self, path: &str) -> Result<VisionConfig, String> {
        if let Some(channels) = self.num_channels.filter(|&channels| channels != 3) {
            return Err(format!("{path}num_channels is {channels}; pictures here have 3"));
        }
        let side = |side: Option<Side>, key: &str, default: usize| {
            let key = format!("{path}{key}");
            let side = side.map_or(Ok(default), |side| side.square(&key))?;
            positive("", &key, side)
        };
        let image_size = side(self.image_size, "image_size", 224)?;
        let patch_size = side(self.patch_size, "patch_size", 16)?;
        if patch_size > image_size {
            return Err(format!(
                "{path}patch_size {patch_size} is larger than {path}image_size {image_size}"
            ));
        }
        Ok(VisionConfig {
            encoder: self.encoder.resolve(path)?,
            image_size,
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
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<SiglipConfig, String> {
        SiglipConfig::parse("config.json", json.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_sparse_config_means_the_defaults() {
        let json = r#"{"initializer_factor": 1.0, "model_type": "siglip",
            "text_config": {"model_type": "siglip_text_model", "vocab_size": 256000},
            "vision_config": {"image_size": 512, "model_type": "siglip_vision_model"}}"#;
        let config = parse(json).expect("a published file");
        let text = config.text.expect("both towers");
        assert_eq!((text.vocab_size, text.max_position_embeddings), (256_000, 64));
        assert_eq!(text.projection_size, 768);
        assert_eq!((config.vision.image_size, config.vision.grid()), (512, 32));
        assert!(config.vision.use_head);
        assert_eq!(config.vision.encoder, text.encoder);
    }

    #[test]
    fn null_is_the_default_and_unknown_keys_are_ignored() {
        let json = r#"{"model_type": "siglip", "text_config": null, "auto_map": {"a": "b"},
            "vision_config": {"hidden_size": null, "image_size": [384, 384], "patch_size": 14,
                              "hidden_act": null, "torch_dtype": "float32"}}"#;
        let vision = parse(json).expect("nulls are defaults").vision;
        assert_eq!((vision.encoder.hidden_size, vision.grid()), (768, 27));
    }

    #[test]
    fn a_vision_tower_alone_is_flat_or_nested() {
        for json in [
            r#"{"model_type": "siglip_vision_model", "hidden_size": 1152, "num_attention_heads": 16,
                "vision_use_head": false}"#,
            r#"{"model_type": "siglip_vision_model", "vision_config": {"hidden_size": 1152,
                "num_attention_heads": 16, "vision_use_head": false}}"#,
        ] {
            let config = parse(json).expect("both forms");
            assert_eq!(config.vision.encoder.hidden_size, 1152);
            assert!(config.text.is_none() && !config.vision.use_head);
        }
    }

    #[test]
    fn what_is_at_fault_is_named() {
        for (json, named) in [
            ("{", "config.json"),
            ("{}", "model_type"),
            (r#"{"model_type": "clip"}"#, "`clip`"),
            (
                r#"{"model_type": "siglip", "vision_config": {"hidden_act": "quick_gelu"}}"#,
                "vision_config.hidden_act",
            ),
            (
                r#"{"model_type": "siglip", "text_config": {"num_attention_heads": 7}}"#,
                "text_config.num_attention_heads",
            ),
            (
                r#"{"model_type": "siglip", "vision_config": {"patch_size": 0}}"#,
                "vision_config.patch_size",
            ),
            (
                r#"{"model_type": "siglip", "vision_config": {"image_size": [64, 32]}}"#,
                "vision_config.image_size",
            ),
            (r#"{"model_type": "siglip", "text_config": {"hidden_size": -4}}"#, "config.json"),
        ] {
            let message = parse(json).expect_err(json);
            assert!(message.contains(named), "{message}");
        }
    }
}

#[cfg(test)]
mod published;
