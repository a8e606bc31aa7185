use super::*;

#[test]
fn timm_derives_heads_and_gelu_from_the_name() {
    for (name, heads, gelu) in [
        ("vit_base_patch16_siglip_224", 12, "gelu"),
        ("vit_base_patch16_siglip_512.v2_webli", 12, "gelu"),
        ("vit_base_patch32_siglip_256", 12, "gelu_pytorch_tanh"),
        ("vit_large_patch16_siglip_384", 16, "gelu"),
        ("vit_large_patch16_siglip_512", 16, "gelu_pytorch_tanh"),
        ("vit_so400m_patch14_siglip_384", 16, "gelu"),
        ("vit_so400m_patch16_siglip_256", 16, "gelu_pytorch_tanh"),
        ("vit_giantopt_patch16_siglip_384", 16, "gelu_pytorch_tanh"),
    ] {
        let timm = Timm::of(name).expect(name);
        assert_eq!((timm.heads, timm.gelu), (heads, gelu), "{name}");
    }
    for name in ["vit_base_patch16_siglip_gap_224", "vit_base_patch16_clip_224", "resnet50", ""] {
        assert!(Timm::of(name).is_none(), "{name}");
    }
}

#[test]
fn images_are_squashed_or_cropped() {
    let read = |json: &str| {
        let document = Document::parse(json.as_bytes()).expect("JSON");
        preprocessor(&document.fields(), &json!(384)).map_err(|fault| fault.0)
    };
    let json = read(r#"{"resize_mode": "squash"}"#).expect("the family's own");
    assert_eq!((&json["size"]["height"], &json["resample"]), (&json!(384), &json!(3)));
    let cropped = read("{}").expect("CLIP's own");
    assert_eq!(
        (&cropped["size"]["shortest_edge"], &cropped["crop_size"]["width"]),
        (&json!(384), &json!(384))
    );
    for (json, expected) in [
        (
            r#"{"resize_mode": "longest"}"#,
            "`resize_mode` is \"longest\"; `shortest` or `squash` is read",
        ),
        (
            r#"{"resize_mode": "squash", "interpolation": "nearest"}"#,
            "`interpolation` is \"nearest\"; `bicubic` or `bilinear` is read",
        ),
        (
            r#"{"resize_mode": "squash", "mean": [1, 2]}"#,
            "`mean` is [1,2]; a number or a list of 3 numbers is read",
        ),
    ] {
        assert_eq!(read(json).expect_err(json), expected);
    }
}

#[test]
fn a_key_at_fault_is_named_with_its_value() {
    let weights = Weights::new(Vec::new()).expect("no file");
    for (json, expected) in [
        ("{}", "`model_cfg` is missing; an object is read"),
        (
            r#"{"model_cfg": {"quick_gelu": true,
                "vision_cfg": {"timm_model_name": "vit_base_patch16_siglip_224"}}}"#,
            "`model_cfg.quick_gelu` is true; false is read",
        ),
        (
            r#"{"model_cfg": {"embed_dim": 8, "text_cfg": {"tokenizer_kwargs": {"clean": "none"}}}}"#,
            "`model_cfg.text_cfg.tokenizer_kwargs.clean` is \"none\"; `whitespace`, `lower` or",
        ),
        (
            r#"{"model_cfg": {"vision_cfg": {"timm_pool": "avg",
                "timm_model_name": "vit_base_patch16_siglip_224"}}}"#,
            "`model_cfg.vision_cfg.timm_pool` is \"avg\"; `map` is read",
        ),
        (
            r#"{"model_cfg": {"vision_cfg": {"timm_pool": "map", "timm_proj": "none",
                "timm_model_name": "resnet50"}}}"#,
            "`model_cfg.vision_cfg.timm_model_name` is \"resnet50\"; one of vit_",
        ),
        (
            r#"{"model_cfg": {"embed_dim": 8, "vision_cfg": {"ls_init_value": 0.1}}}"#,
            "the checkpoint has no tensor for vision_model.encoder.layers.0.layer_scale1",
        ),
        ("<!DOCTYPE html>", "this is an HTML page"),
    ] {
        let error = Described::read(json.as_bytes(), &weights).expect_err(json).to_string();
        assert!(error.starts_with(&format!("open_clip_config.json: {expected}")), "{error}");
    }
}
