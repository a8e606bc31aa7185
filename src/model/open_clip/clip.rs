//! open_clip's own vision transformer with a causal text transformer: CLIP.

use serde_json::{Value, json};

use super::{Fault, Fields, Weights, cleaning, count, expect, missing, sizes};
use crate::tokenize::Cleaning;

/// Options of a tower that make another network of it, with what they are where they are off.
const SWITCHES: [&str; 12] = [
    "attentional_pool",
    "no_ln_pre",
    "qk_norm",
    "scaled_cosine_attn",
    "scale_heads",
    "scale_attn_inner",
    "scale_attn",
    "scale_fc",
    "embed_cls",
    "no_causal_mask",
    "proj_bias",
    "input_patchnorm",
];

/// `config.json` as transformers would write it, without its model type.
pub(super) fn config(model: &Fields<'_>) -> Result<Value, Fault> {
    let gelu = if model.flag("quick_gelu")? == Some(true) { "quick_gelu" } else { "gelu" };
    let Some(embed_dim) = model.count("embed_dim")? else {
        return Err(model.unread("embed_dim", "a whole number").into());
    };
    Ok(json!({
        "model_type": "clip",
        "projection_dim": embed_dim,
        "vision_config": vision(&model.object_or_empty("vision_cfg")?, gelu)?,
        "text_config": text(&model.object_or_empty("text_cfg")?, gelu)?,
    }))
}

/// What is done to a text first: what open_clip's own tokenizer does, or the one of Hugging Face.
pub(super) fn text_cleaning(text: &Fields<'_>) -> Result<Cleaning, Fault> {
    let arguments = text.object_or_empty("tokenizer_kwargs")?;
    match arguments.text("clean")? {
        None if text.text("hf_tokenizer_name")?.is_none() => Ok(Cleaning::Lower),
        _ => cleaning(&arguments),
    }
}

fn vision(fields: &Fields<'_>, gelu: &str) -> Result<Value, Fault> {
    check(fields)?;
    or_absent(fields, "pool_type", "tok")?;
    or_absent(fields, "pos_embed_type", "learnable")?;
    let (width, layers) = (number(fields, "width", 768)?, number(fields, "layers", 12)?);
    let head_width = number(fields, "head_width", 64)?;
    if head_width == 0 || !width.is_multiple_of(head_width) {
        return Err(fields.unread("head_width", &format!("a divisor of `width`, {width},")).into());
    }
    let image_size = fields.read("image_size", "a whole number, or a list of two,", sizes)?;
    Ok(json!({
        "hidden_size": width,
        "intermediate_size": inner(fields, width)?,
        "num_hidden_layers": layers,
        "num_attention_heads": width / head_width,
        "hidden_act": activation(fields, gelu)?,
        "layer_norm_eps": eps(fields)?,
        "image_size": image_size.unwrap_or_else(|| json!(224)),
        "patch_size": number(fields, "patch_size", 16)?,
    }))
}

fn text(fields: &Fields<'_>, gelu: &str) -> Result<Value, Fault> {
    if fields.value("hf_model_name").is_some() {
        return Err(fields.unread("hf_model_name", "null").into());
    }
    check(fields)?;
    or_absent(fields, "proj_type", "linear")?;
    let end = match fields.text("pool_type")? {
        // What transformers means by an end token of 2.
        None | Some("argmax") => 2,
        Some("eos") => number(fields, "eos_id", 2)?,
        Some(_) => return Err(fields.unread("pool_type", "`argmax` or `eos`").into()),
    };
    if fields.text("pool_type")? == Some("eos") && end == 2 {
        return Err(fields.unread("eos_id", "the id of the end token, which is not 2,").into());
    }
    let width = number(fields, "width", 512)?;
    Ok(json!({
        "hidden_size": width,
        "intermediate_size": inner(fields, width)?,
        "num_hidden_layers": number(fields, "layers", 12)?,
        "num_attention_heads": number(fields, "heads", 8)?,
        "hidden_act": activation(fields, gelu)?,
        "layer_norm_eps": eps(fields)?,
        "vocab_size": number(fields, "vocab_size", 49408)?,
        "max_position_embeddings": number(fields, "context_length", 77)?,
        "eos_token_id": end,
    }))
}

/// Refuses a checkpoint that lacks the layer scale that its description asks for. What it has is read with the
/// projections.
pub(super) fn check_layer_scale(model: &Fields<'_>, weights: &Weights) -> Result<(), Fault> {
    for (tower, key) in [("vision_model", "vision_cfg"), ("text_model", "text_cfg")] {
        let fields = model.object_or_empty(key)?;
        if fields.number("ls_init_value")?.is_none() {
            continue;
        }
        for layer in 0..number(&fields, "layers", 12)? {
            for branch in 1..=2 {
                let name = format!("{tower}.encoder.layers.{layer}.layer_scale{branch}");
                if !weights.contains(&name) {
                    return Err(missing(&name));
                }
            }
        }
    }
    Ok(())
}

/// Refuses what makes another network of a tower.
fn check(fields: &Fields<'_>) -> Result<(), Fault> {
    for key in SWITCHES {
        if fields.flag(key)? == Some(true) {
            return Err(fields.unread(key, "false").into());
        }
    }
    match fields.value("block_type") {
        None => Ok(()),
        Some(value) if value == "default" => Ok(()),
        Some(_) => Err(fields.unread("block_type", "null or `default`").into()),
    }
}

fn or_absent(fields: &Fields<'_>, key: &str, served: &str) -> Result<(), Fault> {
    match fields.text(key)? {
        None => Ok(()),
        Some(_) => expect(fields, key, &[served]),
    }
}

fn number(fields: &Fields<'_>, key: &str, default: usize) -> Result<usize, Fault> {
    Ok(fields.read(key, "a whole number", count)?.unwrap_or(default))
}

/// The width of a tower's MLPs.
fn inner(fields: &Fields<'_>, width: usize) -> Result<usize, Fault> {
    Ok((width as f64 * fields.number("mlp_ratio")?.unwrap_or(4.0)) as usize)
}

fn eps(fields: &Fields<'_>) -> Result<f64, Fault> {
    Ok(fields.object_or_empty("norm_kwargs")?.number("eps")?.unwrap_or(1e-5))
}

fn activation<'g>(fields: &Fields<'_>, gelu: &'g str) -> Result<&'g str, Fault> {
    let arguments = fields.object_or_empty("act_kwargs")?;
    match arguments.text("approximate")? {
        None | Some("none") => Ok(gelu),
        Some("tanh") if gelu == "gelu" => Ok("gelu_pytorch_tanh"),
        Some(_) => Err(arguments.unread("approximate", "`none` or `tanh`").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::fields::Document;

    fn read(json: &str) -> Result<Value, String> {
        let document = Document::parse(json.as_bytes()).expect("JSON");
        config(&document.fields()).map_err(|fault| fault.0)
    }

    #[test]
    fn a_published_file_is_read() {
        let json = r#"{"embed_dim": 1024, "vision_cfg": {"image_size": 224, "layers": 32, "width": 1280,
            "head_width": 80, "patch_size": 14}, "text_cfg": {"context_length": 77,
            "vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24}}"#;
        let config = read(json).expect("H/14");
        let (vision, text) = (&config["vision_config"], &config["text_config"]);
        assert_eq!(
            (&vision["num_attention_heads"], &vision["intermediate_size"]),
            (&json!(16), &json!(5120))
        );
        assert_eq!((&vision["hidden_act"], &text["hidden_act"]), (&json!("gelu"), &json!("gelu")));
        assert_eq!((&text["eos_token_id"], &text["num_attention_heads"]), (&json!(2), &json!(16)));
        assert_eq!(config["projection_dim"], 1024);
        let quick = read(r#"{"embed_dim": 8, "quick_gelu": true}"#).expect("defaults");
        assert_eq!(quick["vision_config"]["hidden_act"], "quick_gelu");
    }

    #[test]
    fn other_networks_are_refused() {
        for (json, key) in [
            (r#"{"embed_dim": 8, "vision_cfg": {"layers": [3, 4, 6, 3]}}"#, "vision_cfg.layers"),
            (r#"{"embed_dim": 8, "vision_cfg": {"no_ln_pre": true}}"#, "vision_cfg.no_ln_pre"),
            (r#"{"embed_dim": 8, "vision_cfg": {"pool_type": "avg"}}"#, "vision_cfg.pool_type"),
            (r#"{"embed_dim": 8, "vision_cfg": {"attentional_pool": true}}"#, "attentional_pool"),
            (r#"{"embed_dim": 8, "text_cfg": {"hf_model_name": "xlm"}}"#, "text_cfg.hf_model_name"),
            (r#"{"embed_dim": 8, "text_cfg": {"no_causal_mask": true}}"#, "no_causal_mask"),
            (r#"{"embed_dim": 8, "text_cfg": {"embed_cls": true}}"#, "text_cfg.embed_cls"),
            (r#"{"embed_dim": 8, "text_cfg": {"pool_type": "last"}}"#, "text_cfg.pool_type"),
            ("{}", "`embed_dim` is missing"),
        ] {
            let error = read(json).expect_err(json);
            assert!(error.contains(key), "{error}");
        }
    }
}
