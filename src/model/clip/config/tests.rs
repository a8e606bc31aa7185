use super::*;
use crate::checkpoint::fields::Document;

fn parse(json: &str) -> Result<ClipConfig, String> {
    let document = Document::parse(json.as_bytes()).expect("JSON");
    ClipConfig::read("config.json", &document.fields()).map_err(|error| error.to_string())
}

#[test]
fn a_sparse_config_means_the_defaults() {
    let config = parse(r#"{"model_type": "clip", "text_config": null}"#).expect("defaults");
    let (vision, text) = (&config.vision, config.text.as_ref().expect("both towers"));
    assert_eq!((vision.image_size, vision.patch_size), (224, 32));
    assert_eq!((vision.encoder.hidden_size, vision.encoder.num_attention_heads), (768, 12));
    assert_eq!(vision.projection, Projection::Dim(512));
    assert_eq!((text.encoder.hidden_size, text.encoder.num_attention_heads), (512, 8));
    assert_eq!((text.tokens.vocab_size, text.tokens.text_length), (49408, 77));
    assert_eq!(text.end, TextEnd::First(49407));
    for encoder in [&vision.encoder, &text.encoder] {
        assert_eq!((encoder.activation, encoder.layer_norm_eps), (Activation::QuickGelu, 1e-5));
    }
    assert_eq!((vision.encoder.mask, text.encoder.mask), (Mask::None, Mask::Causal));
}

#[test]
fn the_old_object_replaces_the_new_one_with_its_defaults() {
    let json = r#"{"model_type": "clip", "projection_dim": 768,
        "text_config": {"eos_token_id": 2, "hidden_act": "gelu", "hidden_size": 640},
        "text_config_dict": {"hidden_size": 768},
        "vision_config": {"patch_size": 14, "hidden_act": "gelu"}, "vision_config_dict": null}"#;
    let config = parse(json).expect("a published form");
    let text = config.text.expect("both towers");
    assert_eq!(text.encoder.hidden_size, 768);
    assert_eq!((text.encoder.activation, text.end), (Activation::QuickGelu, TextEnd::First(49407)));
    assert_eq!(config.vision.encoder.activation, Activation::GeluErf);
    assert_eq!((config.vision.patch_size, text.projection_dim), (14, 768));
}

#[test]
fn an_end_token_of_2_means_the_largest_id() {
    let end = |id: &str| {
        let json = format!(r#"{{"model_type": "clip", "text_config": {{"eos_token_id": {id}}}}}"#);
        parse(&json).map(|config| config.text.expect("both towers").end)
    };
    assert_eq!(end("2"), Ok(TextEnd::Largest));
    assert_eq!(end("7"), Ok(TextEnd::First(7)));
    assert_eq!(end("null"), Ok(TextEnd::First(49407)));
    assert!(end("[2, 49407]").expect_err("a list").contains("text_config.eos_token_id"));
}

#[test]
fn a_vision_tower_alone_is_flat_or_nested() {
    for json in [
        r#"{"model_type": "clip_vision_model", "hidden_size": 1024, "num_attention_heads": 16,
            "projection_dim": 768}"#,
        r#"{"model_type": "clip_vision_model", "vision_config": {"hidden_size": 1024,
            "num_attention_heads": 16, "projection_dim": 768}}"#,
    ] {
        let config = parse(json).expect(json);
        assert!(config.text.is_none());
        assert_eq!(config.vision.encoder.hidden_size, 1024);
        assert_eq!(config.vision.projection, Projection::IfStored(768));
    }
}

#[test]
fn what_is_not_served_is_named() {
    for (json, key) in [
        (r#"{"vision_config": {"hidden_act": "relu"}}"#, "`vision_config.hidden_act` is \"relu\""),
        (r#"{"vision_config": {"num_channels": 4}}"#, "vision_config.num_channels"),
        (r#"{"text_config": {"hidden_size": 7}}"#, "`text_config.hidden_size` is 7"),
        (r#"{"vision_config": {"patch_size": 300}}"#, "larger than `vision_config.image_size`"),
        (r#"{"projection_dim": 0}"#, "`projection_dim` is 0"),
    ] {
        let error = parse(json).expect_err(json);
        assert!(error.starts_with("config.json: ") && error.contains(key), "{error}");
    }
}
