//! The published checkpoints: their sparse files, and how many parameters follow from them.

use super::*;

/// Millions of parameters of both towers.
fn parameters(config: &SiglipConfig, patches: usize) -> f64 {
    let (vision, text) = (&config.vision, config.text.as_ref().expect("both towers"));
    let mlp = |encoder: &EncoderConfig| {
        let (hidden, inner) = (encoder.hidden_size, encoder.intermediate_size);
        2 * hidden * inner + hidden + inner
    };
    let layers = |encoder: &EncoderConfig| {
        let hidden = encoder.hidden_size;
        encoder.num_hidden_layers * (4 * hidden * (hidden + 1) + mlp(encoder) + 4 * hidden)
    };
    let hidden = vision.encoder.hidden_size;
    let kernel = 3 * vision.patch_size * vision.patch_size;
    let head = hidden + 4 * hidden * (hidden + 1) + 2 * hidden + mlp(&vision.encoder);
    let pictures = hidden * (kernel + 1 + patches) + layers(&vision.encoder) + 2 * hidden + head;
    let hidden = text.encoder.hidden_size;
    let texts = hidden * (text.tokens.vocab_size + text.tokens.text_length)
        + layers(&text.encoder)
        + 2 * hidden
        + text.projection_size * (hidden + 1);
    (pictures + texts + 2) as f64 / 1e6
}

const BASE: &str = "";
const LARGE: &str = r#""hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16,"#;
const SO400M: &str = r#""hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
    "num_attention_heads": 16,"#;
const GIANT: &str = r#""hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 40,
    "num_attention_heads": 16,"#;

#[test]
fn parameters_are_as_published() {
    // Name, shape of the towers, what each says beyond its shape, patches, millions of parameters.
    for (name, [vision, text], [of_vision, of_text], patches, millions) in [
        ("base-patch16-224", [BASE, BASE], ["", ""], 196, 203.16),
        ("base-patch16-512", [BASE, BASE], [r#""image_size": 512,"#, ""], 1024, 203.79),
        (
            "base-multilingual",
            [BASE, BASE],
            [r#""image_size": 256,"#, r#""vocab_size": 250000,"#],
            256,
            370.63,
        ),
        ("large-patch16-384", [LARGE, LARGE], [r#""image_size": 384,"#, ""], 576, 652.48),
        (
            "so400m-patch14-224",
            [SO400M, SO400M],
            [r#""patch_size": 14,"#, r#""max_position_embeddings": 16,"#],
            256,
            877.36,
        ),
        (
            "so400m-patch14-384",
            [SO400M, SO400M],
            [r#""image_size": 384, "patch_size": 14,"#, ""],
            729,
            877.96,
        ),
        (
            "so400m-patch16-256-i18n",
            [SO400M, SO400M],
            [r#""image_size": 256,"#, r#""vocab_size": 250000,"#],
            256,
            1128.76,
        ),
        (
            "2-base-patch32-256",
            [BASE, BASE],
            [r#""image_size": 256, "patch_size": 32,"#, r#""vocab_size": 256000,"#],
            64,
            376.86,
        ),
        (
            "2-large-patch16-512",
            [LARGE, LARGE],
            [r#""image_size": 512,"#, r#""vocab_size": 256000,"#],
            1024,
            882.31,
        ),
        (
            "2-so400m-patch16-512",
            [SO400M, SO400M],
            [r#""image_size": 512,"#, r#""vocab_size": 256000, "projection_size": 1152,"#],
            1024,
            1136.56,
        ),
        (
            "2-giant-opt-patch16-384",
            [GIANT, SO400M],
            [r#""image_size": 384,"#, r#""vocab_size": 256000, "projection_size": 1536,"#],
            576,
            1871.89,
        ),
    ] {
        let json = format!(
            r#"{{"model_type": "siglip", "initializer_factor": 1.0, "transformers_version": "4.49.0",
            "vision_config": {{{vision} {of_vision} "model_type": "siglip_vision_model"}},
            "text_config": {{{text} {of_text} "model_type": "siglip_text_model"}}}}"#
        );
        let config = tests::parse(&json).expect(name);
        let counted = parameters(&config, patches);
        assert!((counted - millions).abs() < 0.006, "{name}: {counted}");
    }
}
