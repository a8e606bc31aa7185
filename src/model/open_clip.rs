//! `open_clip_config.json`, said in transformers' words.
//!
//! open_clip's SigLIP models are a timm vision transformer with attention pooling and a text transformer, which
//! are the same towers under other names. What timm derives from a model's name (heads, the kind of GELU)
//! follows from the name here too; widths and depths are read off the tensors.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{LoadError, weights::Weights};
use crate::tokenize::Cleaning;

/// The file that describes such a checkpoint.
pub(super) const CONFIG: &str = "open_clip_config.json";

/// The same description as transformers would write it.
#[derive(Debug)]
pub(super) struct Described {
    /// `config.json`.
    pub(super) config: Vec<u8>,
    /// `preprocessor_config.json`.
    pub(super) preprocessor: Vec<u8>,
    /// What is done to a text first.
    pub(super) cleaning: Cleaning,
}

#[derive(Deserialize)]
struct File {
    model_cfg: Model,
    preprocess_cfg: Option<Preprocess>,
}

#[derive(Deserialize)]
struct Model {
    embed_dim: usize,
    vision_cfg: Vision,
    text_cfg: Text,
    quick_gelu: Option<bool>,
}

#[derive(Deserialize)]
struct Vision {
    image_size: Option<Value>,
    timm_model_name: Option<String>,
    timm_pool: Option<String>,
    timm_proj: Option<String>,
}

#[derive(Deserialize)]
struct Text {
    context_length: Option<usize>,
    vocab_size: Option<usize>,
    width: Option<usize>,
    heads: Option<usize>,
    layers: Option<usize>,
    hf_model_name: Option<String>,
    tokenizer_kwargs: Option<TokenizerArguments>,
    no_causal_mask: Option<bool>,
    pool_type: Option<String>,
    embed_cls: Option<bool>,
    act_kwargs: Option<ActivationArguments>,
    norm_kwargs: Option<NormArguments>,
}

#[derive(Default, Deserialize)]
struct TokenizerArguments {
    clean: Option<String>,
    strip_sep_token: Option<bool>,
}

#[derive(Deserialize)]
struct ActivationArguments {
    approximate: Option<String>,
}

#[derive(Deserialize)]
struct NormArguments {
    eps: Option<f64>,
}

#[derive(Default, Deserialize)]
struct Preprocess {
    mean: Option<Value>,
    std: Option<Value>,
    interpolation: Option<String>,
    resize_mode: Option<String>,
}

impl Described {
    /// * `weights`: of the same checkpoint, under open_clip's names
    ///
    /// # Errors
    /// Names the key whose value is not served.
    pub(super) fn read(json: &[u8], weights: &Weights) -> Result<Self, LoadError> {
        let fault = |message: String| LoadError::new(format!("{CONFIG}: {message}"));
        let file: File = serde_json::from_slice(json).map_err(|error| fault(error.to_string()))?;
        let Model { embed_dim, vision_cfg, text_cfg, quick_gelu } = file.model_cfg;
        if quick_gelu == Some(true) {
            return Err(fault("model_cfg.quick_gelu is not served".to_owned()));
        }
        let cleaning = text_cfg.cleaning().map_err(fault)?;
        let vision = vision_cfg.describe(weights).map_err(fault)?;
        let preprocess = file.preprocess_cfg.unwrap_or_default();
        let preprocessor = preprocess.describe(&vision["image_size"]).map_err(fault)?;
        let text = text_cfg.describe(embed_dim, weights).map_err(fault)?;
        let config = json!({"model_type": "siglip", "vision_config": vision, "text_config": text});
        Ok(Self {
            config: config.to_string().into_bytes(),
            preprocessor: preprocessor.to_string().into_bytes(),
            cleaning,
        })
    }
}

impl Vision {
    fn describe(&self, weights: &Weights) -> Result<Value, String> {
        let Some(name) = &self.timm_model_name else {
            return Err("vision_cfg has no timm_model_name; SigLIP's towers are timm's".to_owned());
        };
        expect("vision_cfg.timm_pool", self.timm_pool.as_deref(), &["map"])?;
        expect("vision_cfg.timm_proj", self.timm_proj.as_deref(), &["none", ""])?;
        let Timm { heads, gelu } = Timm::of(name)?;
        let kernel = "vision_model.embeddings.patch_embedding.weight";
        let shape = weights.shape(kernel);
        let &[hidden, _, patch, _] = shape.unwrap_or_default() else {
            return Err(missing(kernel));
        };
        Ok(json!({
            "hidden_size": hidden,
            "intermediate_size": inner(weights, "vision_model")?,
            "num_hidden_layers": layers(weights, "vision_model"),
            "num_attention_heads": heads,
            "hidden_act": gelu,
            "layer_norm_eps": 1e-6,
            "image_size": self.image_size.clone().unwrap_or_else(|| json!(224)),
            "patch_size": patch,
        }))
    }
}

/// What timm's registry says of a model, by its name.
struct Timm {
    heads: usize,
    /// As transformers calls it.
    gelu: &'static str,
}

impl Timm {
    fn of(name: &str) -> Result<Self, String> {
        let not_served = || {
            format!(
                "vision_cfg.timm_model_name `{name}` is not served; \
                 vit_{{base,large,so400m,giantopt}}_patch*_siglip_* are"
            )
        };
        // A tag behind the dot names pretrained weights.
        let name = name.split('.').next().unwrap_or_default();
        let (size, rest) = name
            .strip_prefix("vit_")
            .and_then(|name| name.split_once('_'))
            .ok_or_else(not_served)?;
        let (patch, pixels) = rest.split_once("_siglip_").ok_or_else(not_served)?;
        let heads = match size {
            "base" => 12,
            "large" | "so400m" | "giantopt" => 16,
            _ => return Err(not_served()),
        };
        if pixels.is_empty() || !pixels.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(not_served());
        }
        // The models that came with SigLIP 2 have the approximation; those that exist since SigLIP 1 keep
        // the exact function, also for the weights of SigLIP 2.
        let gelu = match (size, patch, pixels) {
            ("giantopt", ..) | ("large", _, "512") => "gelu_pytorch_tanh",
            ("base", "patch32", _) | ("so400m", "patch16", _) => "gelu_pytorch_tanh",
            _ => "gelu",
        };
        Ok(Self { heads, gelu })
    }
}

impl Text {
    fn cleaning(&self) -> Result<Cleaning, String> {
        let arguments = self.tokenizer_kwargs.as_ref();
        if arguments.and_then(|arguments| arguments.strip_sep_token) == Some(true) {
            return Err("text_cfg.tokenizer_kwargs.strip_sep_token is not served".to_owned());
        }
        match arguments.and_then(|arguments| arguments.clean.as_deref()) {
            None | Some("whitespace") => Ok(Cleaning::Whitespace),
            Some("lower") => Ok(Cleaning::Lower),
            Some("canonicalize") => Ok(Cleaning::Canonicalize),
            Some(other) => Err(format!("text_cfg.tokenizer_kwargs.clean `{other}` is not known")),
        }
    }

    fn describe(&self, embed_dim: usize, weights: &Weights) -> Result<Value, String> {
        if let Some(name) = &self.hf_model_name {
            return Err(format!("text_cfg.hf_model_name `{name}` is not served"));
        }
        if self.no_causal_mask != Some(true) {
            return Err("text_cfg.no_causal_mask is not true; SigLIP reads both ways".to_owned());
        }
        if self.embed_cls == Some(true) {
            return Err("text_cfg.embed_cls is not served".to_owned());
        }
        expect("text_cfg.pool_type", self.pool_type.as_deref(), &["last"])?;
        let approximate = self.act_kwargs.as_ref().and_then(|kwargs| kwargs.approximate.as_deref());
        let gelu = match approximate {
            None | Some("none") => "gelu",
            Some("tanh") => "gelu_pytorch_tanh",
            Some(other) => return Err(format!("text_cfg.act_kwargs.approximate `{other}`")),
        };
        Ok(json!({
            "hidden_size": self.width.unwrap_or(512),
            "intermediate_size": inner(weights, "text_model")?,
            "num_hidden_layers": self.layers.unwrap_or(12),
            "num_attention_heads": self.heads.unwrap_or(8),
            "hidden_act": gelu,
            // What torch has where open_clip says nothing.
            "layer_norm_eps": self.norm_kwargs.as_ref().and_then(|norm| norm.eps).unwrap_or(1e-5),
            "vocab_size": self.vocab_size.unwrap_or(49408),
            "max_position_embeddings": self.context_length.unwrap_or(77),
            "projection_size": embed_dim,
        }))
    }
}

impl Preprocess {
    /// * `side`: what the vision tower reads
    fn describe(self, side: &Value) -> Result<Value, String> {
        // Without a word open_clip keeps the aspect ratio and crops, and normalises as CLIP did.
        expect("preprocess_cfg.resize_mode", self.resize_mode.as_deref(), &["squash"])?;
        let resample = match self.interpolation.as_deref() {
            None | Some("bicubic") => 3,
            Some("bilinear") => 2,
            Some(other) => return Err(format!("preprocess_cfg.interpolation `{other}`")),
        };
        // The size in this file is overruled by the tower's.
        let size = match side {
            Value::Array(sides) => json!({"height": sides.first(), "width": sides.get(1)}),
            side => json!({"height": side, "width": side}),
        };
        Ok(json!({
            "size": size,
            "resample": resample,
            "image_mean": self.mean.unwrap_or_else(|| json!([0.481_454_66, 0.457_827_5, 0.408_210_73])),
            "image_std": self.std.unwrap_or_else(|| json!([0.268_629_54, 0.261_302_58, 0.275_777_11])),
        }))
    }
}

/// Refuses a value that means another architecture.
fn expect(key: &str, value: Option<&str>, served: &[&str]) -> Result<(), String> {
    match value {
        Some(value) if served.contains(&value) => Ok(()),
        Some(value) => Err(format!("{key} `{value}` is not served; `{}` is", served[0])),
        None => Err(format!("{key} is missing; `{}` is served", served[0])),
    }
}

fn missing(name: &str) -> String {
    format!("the checkpoint has no tensor for {name}")
}

/// The width of a tower's MLPs.
fn inner(weights: &Weights, tower: &str) -> Result<usize, String> {
    let name = format!("{tower}.encoder.layers.0.mlp.fc1.weight");
    weights.shape(&name).and_then(|shape| shape.first().copied()).ok_or_else(|| missing(&name))
}

/// The layers that the checkpoint has for a tower.
fn layers(weights: &Weights, tower: &str) -> usize {
    (0..)
        .take_while(|layer| {
            weights.contains(&format!("{tower}.encoder.layers.{layer}.mlp.fc1.weight"))
        })
        .count()
}

#[cfg(test)]
mod tests;
