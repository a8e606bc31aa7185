//! `open_clip_config.json`, translated to transformers' format.
//!
//! open_clip's SigLIP models are a timm vision transformer with attention pooling and a text transformer, which
//! are the same towers under other names. What timm derives from a model's name (heads, the kind of GELU)
//! follows from the name here too; widths and depths are read off the tensors.

mod clip;

use serde_json::{Value, json};

use super::{LoadError, weights::Weights};
use crate::{
    checkpoint::{
        OPEN_CLIP_CONFIG,
        content::ReadError,
        fields::{Document, Fields, count},
    },
    tokenize::Cleaning,
};

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

const OPENAI_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const OPENAI_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// What is wrong with the file, for behind its name.
#[derive(Debug)]
struct Fault(String);

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        Self(error.to_string())
    }
}

impl Described {
    /// * `weights`: of the same checkpoint, under open_clip's names
    ///
    /// # Errors
    /// Names the key whose value is not served.
    pub(super) fn read(json: &[u8], weights: &Weights) -> Result<Self, LoadError> {
        Self::of(json, weights)
            .map_err(|fault| LoadError::new(format!("{OPEN_CLIP_CONFIG}: {}", fault.0)))
    }

    fn of(json: &[u8], weights: &Weights) -> Result<Self, Fault> {
        let document = Document::parse(json)?;
        let root = document.fields();
        let missing = || root.unread("model_cfg", "an object");
        let model = root.object("model_cfg")?.ok_or_else(missing)?;
        let (vision, text) =
            (model.object_or_empty("vision_cfg")?, model.object_or_empty("text_cfg")?);
        let (config, cleaning) = if vision.text("timm_model_name")?.is_some() {
            (siglip(&model, weights)?, self::cleaning(&text.object_or_empty("tokenizer_kwargs")?)?)
        } else {
            clip::check_layer_scale(&model, weights)?;
            (clip::config(&model)?, clip::text_cleaning(&text)?)
        };
        let side = &config["vision_config"]["image_size"];
        let preprocessor = preprocessor(&root.object_or_empty("preprocess_cfg")?, side)?;
        if config["model_type"] == "siglip" && preprocessor.get("crop_size").is_some() {
            let preprocess = root.object_or_empty("preprocess_cfg")?;
            return Err(preprocess.unread("resize_mode", "`squash`").into());
        }
        Ok(Self {
            config: config.to_string().into_bytes(),
            preprocessor: preprocessor.to_string().into_bytes(),
            cleaning,
        })
    }
}

/// A timm vision transformer with attention pooling, and a text transformer that reads both ways.
fn siglip(model: &Fields<'_>, weights: &Weights) -> Result<Value, Fault> {
    if model.flag("quick_gelu")? == Some(true) {
        return Err(model.unread("quick_gelu", "false").into());
    }
    let vision = vision(&model.object_or_empty("vision_cfg")?, weights)?;
    let Some(embed_dim) = model.count("embed_dim")? else {
        return Err(model.unread("embed_dim", "a whole number").into());
    };
    let text = text(&model.object_or_empty("text_cfg")?, embed_dim, weights)?;
    Ok(json!({"model_type": "siglip", "vision_config": vision, "text_config": text}))
}

/// A number, or a list of numbers.
fn sizes(value: &Value) -> Option<Value> {
    match value {
        Value::Array(sides) => {
            sides.iter().all(|side| count(side).is_some()).then(|| value.clone())
        }
        side => count(side).map(Into::into),
    }
}

fn vision(fields: &Fields<'_>, weights: &Weights) -> Result<Value, Fault> {
    expect(fields, "timm_pool", &["map"])?;
    expect(fields, "timm_proj", &["none", ""])?;
    let name = fields.text("timm_model_name")?;
    let Some(Timm { heads, gelu }) = name.and_then(Timm::of) else {
        let served = "one of vit_{base,large,so400m,giantopt}_patch*_siglip_*";
        return Err(fields.unread("timm_model_name", served).into());
    };
    let image_size = fields.read("image_size", "a whole number, or a list of two,", sizes)?;
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
        "image_size": image_size.unwrap_or_else(|| json!(224)),
        "patch_size": patch,
    }))
}

/// What timm's registry says of a model, by its name.
struct Timm {
    heads: usize,
    /// As transformers calls it.
    gelu: &'static str,
}

impl Timm {
    /// None for a name that is not one of the family.
    fn of(name: &str) -> Option<Self> {
        // A tag behind the dot names pretrained weights.
        let name = name.split('.').next().unwrap_or_default();
        let (size, rest) = name.strip_prefix("vit_")?.split_once('_')?;
        let (patch, pixels) = rest.split_once("_siglip_")?;
        let heads = match size {
            "base" => 12,
            "large" | "so400m" | "giantopt" => 16,
            _ => return None,
        };
        if pixels.is_empty() || !pixels.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        // The models that came with SigLIP 2 have the approximation; those that exist since SigLIP 1 keep
        // the exact function, also for the weights of SigLIP 2.
        let gelu = match (size, patch, pixels) {
            ("giantopt", ..) | ("large", _, "512") => "gelu_pytorch_tanh",
            ("base", "patch32", _) | ("so400m", "patch16", _) => "gelu_pytorch_tanh",
            _ => "gelu",
        };
        Some(Self { heads, gelu })
    }
}

fn cleaning(arguments: &Fields<'_>) -> Result<Cleaning, Fault> {
    if arguments.flag("strip_sep_token")? == Some(true) {
        return Err(arguments.unread("strip_sep_token", "false").into());
    }
    match arguments.text("clean")? {
        None | Some("whitespace") => Ok(Cleaning::Whitespace),
        Some("lower") => Ok(Cleaning::Lower),
        Some("canonicalize") => Ok(Cleaning::Canonicalize),
        Some(_) => Err(arguments.unread("clean", "`whitespace`, `lower` or `canonicalize`").into()),
    }
}

fn text(fields: &Fields<'_>, embed_dim: usize, weights: &Weights) -> Result<Value, Fault> {
    if fields.value("hf_model_name").is_some() {
        return Err(fields.unread("hf_model_name", "null").into());
    }
    if fields.flag("no_causal_mask")? != Some(true) {
        return Err(fields
            .unread("no_causal_mask", "true (SigLIP's text tower reads both ways)")
            .into());
    }
    if fields.flag("embed_cls")? == Some(true) {
        return Err(fields.unread("embed_cls", "false").into());
    }
    expect(fields, "pool_type", &["last"])?;
    let activation = fields.object_or_empty("act_kwargs")?;
    let gelu = match activation.text("approximate")? {
        None | Some("none") => "gelu",
        Some("tanh") => "gelu_pytorch_tanh",
        Some(_) => return Err(activation.unread("approximate", "`none` or `tanh`").into()),
    };
    Ok(json!({
        "hidden_size": fields.count("width")?.unwrap_or(512),
        "intermediate_size": inner(weights, "text_model")?,
        "num_hidden_layers": fields.count("layers")?.unwrap_or(12),
        "num_attention_heads": fields.count("heads")?.unwrap_or(8),
        "hidden_act": gelu,
        // What torch has where open_clip says nothing.
        "layer_norm_eps": fields.object_or_empty("norm_kwargs")?.number("eps")?.unwrap_or(1e-5),
        "vocab_size": fields.count("vocab_size")?.unwrap_or(49408),
        "max_position_embeddings": fields.count("context_length")?.unwrap_or(77),
        "projection_size": embed_dim,
    }))
}

/// * `side`: what the vision tower reads
fn preprocessor(fields: &Fields<'_>, side: &Value) -> Result<Value, Fault> {
    // Where the file is silent, open_clip keeps the aspect ratio and crops, and normalises as CLIP did.
    let is_cropped = match fields.text("resize_mode")? {
        None | Some("shortest") => true,
        Some("squash") => false,
        Some(_) => return Err(fields.unread("resize_mode", "`shortest` or `squash`").into()),
    };
    let resample = match fields.text("interpolation")? {
        None | Some("bicubic") => 3,
        Some("bilinear") => 2,
        Some(_) => return Err(fields.unread("interpolation", "`bicubic` or `bilinear`").into()),
    };
    let channels = |key: &str, usual: [f64; 3]| -> Result<Value, Fault> {
        let numbers = |value: &Value| match value {
            Value::Array(values) => {
                (values.len() == 3 && values.iter().all(Value::is_number)).then(|| value.clone())
            }
            value => value.is_number().then(|| value.clone()),
        };
        let value = fields.read(key, "a number or a list of 3 numbers", numbers)?;
        Ok(value.unwrap_or_else(|| json!(usual)))
    };
    // The size in this file is overruled by the tower's.
    let size = match side {
        Value::Array(sides) => json!({"height": sides.first(), "width": sides.get(1)}),
        side => json!({"height": side, "width": side}),
    };
    if is_cropped {
        return Ok(json!({
            "size": {"shortest_edge": size["height"]},
            "crop_size": size,
            "resample": resample,
            "image_mean": channels("mean", OPENAI_MEAN)?,
            "image_std": channels("std", OPENAI_STD)?,
        }));
    }
    Ok(json!({
        "size": size,
        "do_center_crop": false,
        "resample": resample,
        "image_mean": channels("mean", OPENAI_MEAN)?,
        "image_std": channels("std", OPENAI_STD)?,
    }))
}

/// Refuses a value that means another architecture.
fn expect(fields: &Fields<'_>, key: &str, served: &[&str]) -> Result<(), Fault> {
    match fields.text(key)? {
        Some(value) if served.contains(&value) => Ok(()),
        _ => Err(fields.unread(key, &format!("`{}`", served[0])).into()),
    }
}

fn missing(name: &str) -> Fault {
    Fault(format!("the checkpoint has no tensor for {name}"))
}

/// The width of a tower's MLPs.
fn inner(weights: &Weights, tower: &str) -> Result<usize, Fault> {
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
