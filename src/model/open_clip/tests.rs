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
        assert!(Timm::of(name).is_err(), "{name}");
    }
}

#[test]
fn pictures_are_squashed() {
    let squash = Preprocess { resize_mode: Some("squash".to_owned()), ..Preprocess::default() };
    let json = squash.describe(&json!(384)).expect("the family's own");
    assert_eq!((&json["size"]["height"], &json["resample"]), (&json!(384), &json!(3)));
    let cropped = Preprocess::default().describe(&json!(384)).expect_err("crops");
    assert!(cropped.contains("resize_mode"), "{cropped}");
}
