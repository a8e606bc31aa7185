use super::*;
use crate::checkpoint::fields::Document;

pub(super) fn parse(json: &str) -> Result<SiglipConfig, String> {
    let document = Document::parse(json.as_bytes());
    let document = document.map_err(|error| format!("config.json: {error}"))?;
    SiglipConfig::read("config.json", &document.fields()).map_err(|error| error.to_string())
}

#[test]
fn a_sparse_config_means_the_defaults() {
    let json = r#"{"initializer_factor": 1.0, "model_type": "siglip",
        "text_config": {"model_type": "siglip_text_model", "vocab_size": 256000},
        "vision_config": {"image_size": 512, "model_type": "siglip_vision_model"}}"#;
    let config = parse(json).expect("a published file");
    let text = config.text.expect("both towers");
    assert_eq!((text.tokens.vocab_size, text.tokens.text_length), (256_000, 64));
    assert_eq!(text.projection_size, 768);
    assert_eq!(
        (config.vision.resolution, config.vision.grid),
        (Resolution::Fixed { image_size: 512 }, 32)
    );
    assert!(config.vision.use_head);
    assert_eq!(config.vision.encoder, text.encoder);
}

#[test]
fn null_is_the_default_and_unknown_keys_are_ignored() {
    let json = r#"{"model_type": "siglip", "text_config": null, "auto_map": {"a": "b"},
        "vision_config": {"hidden_size": null, "image_size": [384, 384], "patch_size": 14,
                          "hidden_act": null, "torch_dtype": "float32"}}"#;
    let vision = parse(json).expect("nulls are defaults").vision;
    assert_eq!((vision.encoder.hidden_size, vision.grid), (768, 27));
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
        (r#"{"model_type": "clip"}"#, "`model_type` is \"clip\"; `siglip`, `siglip2`,"),
        (
            r#"{"model_type": "siglip", "vision_config": {"hidden_act": "relu"}}"#,
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
        (
            r#"{"model_type": "siglip", "text_config": {"hidden_size": -4}}"#,
            "config.json: `text_config.hidden_size` is -4; a whole number is read",
        ),
        (
            r#"{"model_type": "siglip", "text_config": {"hidden_size": "768"}}"#,
            "`text_config.hidden_size` is \"768\"; a whole number is read",
        ),
        (r#"{"model_type": 7}"#, "config.json: `model_type` is 7; a text is read"),
        (
            r#"{"model_type": "siglip", "vision_config": "large"}"#,
            "`vision_config` is \"large\"; an object is read",
        ),
        (
            r#"{"model_type": "siglip", "vision_config": {"vision_use_head": 1}}"#,
            "`vision_config.vision_use_head` is 1; true or false is read",
        ),
        ("version https://git-lfs.github.com/spec/v1\n", "config.json: this is a Git LFS pointer"),
    ] {
        let message = parse(json).expect_err(json);
        assert!(message.contains(named), "{message}");
    }
}

#[test]
fn naflex_counts_positions_and_has_no_image_size() {
    let json = r#"{"architectures": ["Siglip2Model"], "initializer_factor": 1.0,
        "model_type": "siglip2", "text_config": {"model_type": "siglip2_text_model",
        "vocab_size": 256000}, "vision_config": {"model_type": "siglip2_vision_model"}}"#;
    let config = parse(json).expect("a sparse file");
    assert_eq!((config.vision.resolution, config.vision.grid), (Resolution::Naflex, 16));
    assert_eq!((config.vision.patch_size, config.vision.family()), (16, "siglip2"));
    assert_eq!(config.text.expect("both towers").tokens.vocab_size, 256_000);
    let json = r#"{"model_type": "siglip2", "text_config": {"projection_size": 1152},
        "vision_config": {"hidden_size": 1152, "num_attention_heads": 16, "image_size": 7,
        "num_patches": 1024, "patch_size": [14, 14], "spatial_merge_size": 2}}"#;
    let vision = parse(json).expect("unknown keys are ignored").vision;
    assert_eq!((vision.resolution, vision.grid, vision.patch_size), (Resolution::Naflex, 32, 14));
    let alone = parse(r#"{"model_type": "siglip2_vision_model", "num_patches": null}"#);
    let alone = alone.expect("a flat file");
    assert!(alone.text.is_none() && alone.vision.resolution == Resolution::Naflex);
    let json = r#"{"model_type": "siglip2", "vision_config": {"num_patches": 200}}"#;
    let message = parse(json).expect_err("no square");
    assert!(message.contains("`vision_config.num_patches` is 200; the square"), "{message}");
}
