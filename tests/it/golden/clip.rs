//! CLIP's towers, tokenizer and crops against transformers and open_clip: `tests/golden/generate_clip.py`.

use std::{fs, io::Cursor};

use image::{ImageFormat, RgbImage};
use siglip_server::{
    config,
    embedding::Embedding,
    model::{self, ResidentModel, Scorer, Stages, Tap, Tower, TowerError},
    preprocess::{self, CropOffset, Decoding, ImageLimits, ImageSpec},
    tokenize::{IdsError, Tokens},
};

use super::{
    pictures::levels,
    reference::{Judge, Reference, difference, folder, row},
    stages::{check_scores, flat},
};

fn open(name: &str) -> (ResidentModel, Reference) {
    Judge::strict().open(name)
}

/// The ids of the stored texts from the model's tokenizer, after a comparison with the stored ids.
fn texts(model: &ResidentModel, expected: &Reference) -> Vec<Tokens> {
    let tokenizer = model.tokenizer.as_ref().expect("goes with the tower");
    let encode = |text: &String| tokenizer.encode(&tokenizer.canonical(text)).expect("any text");
    let rows: Vec<_> = expected.list("texts").iter().map(encode).collect();
    for (row, stored) in rows.iter().zip(expected.tokens()) {
        assert_eq!(row.ids, stored.ids);
        // Padded ids that a client made mean the same text.
        assert_eq!(tokenizer.accept(&stored.ids).expect("ids of a text").ids, row.ids);
    }
    rows
}

fn check(name: &str) {
    let judge = Judge::strict();
    let (mut model, expected) = open(name);
    assert_eq!((&*model.card.family, model.card.leading_tokens), ("clip", 1));
    let pixels = expected.pixels();
    if expected.has("vision.hidden_state.0") {
        judge.stages(&expected, "vision", &model.vision.stages(&pixels).expect("valid images"));
    }
    let images = model.vision.forward(&pixels).expect("valid images");
    judge.close("image embeddings", &flat(&images), &expected.floats("vision.pooled").1);
    assert_eq!(images[0].dim(), model.card.embedding_dim);
    if model.text.is_none() {
        assert!(model.card.scorer.is_none() && !expected.has("text.pooled"));
        return;
    }
    let rows = texts(&model, &expected);
    let text = model.text.as_mut().expect("both towers");
    for (index, row) in rows.iter().enumerate() {
        if expected.has("text.hidden_state.0") {
            let stages = text.stages(std::slice::from_ref(row)).expect("a valid text");
            check_text(&judge, &expected, (index, row.ids.len()), &stages);
        }
    }
    // All at once: texts of several lengths. A batch has only one length.
    let embedded = text.forward(&rows).expect("valid texts");
    judge.close("text embeddings", &flat(&embedded), &expected.floats("text.pooled").1);
    let scorer = model.card.scorer.expect("goes with the tower");
    assert!(matches!(scorer, Scorer::Softmax { .. }));
    check_scores(&judge, (&expected, scorer), (&images, &embedded));
}

/// Compares the stages of one text with the stored ones up to its end. The rest is padding.
fn check_text(
    judge: &Judge,
    expected: &Reference,
    (index, length): (usize, usize),
    stages: &Stages,
) {
    let of_row = |name: &str| {
        let (shape, values) = expected.floats(name);
        let whole = values.len() / shape[0];
        let width = if shape.len() == 3 { length * shape[2] } else { whole };
        values[index * whole..][..width].to_vec()
    };
    for (layer, state) in stages.hidden_states.iter().enumerate() {
        let name = format!("text.hidden_state.{layer}");
        judge.close(&name, &state.values, &of_row(&name));
    }
    let last = &stages.last_hidden_state;
    judge.close("text.last_hidden_state", &last.values, &of_row("text.last_hidden_state"));
    judge.close("text.pooled", &stages.pooled.values, &of_row("text.pooled"));
}

macro_rules! variants {
    ($($test:ident: $name:literal,)*) => {
        $(#[test] fn $test() { check($name); })*
    };
}

variants! {
    clip_quick_gelu: "clip-tiny",
    clip_legacy_end_erf_gelu_head_dim_80_truncating_patches_f16: "clip-legacy-end",
    clip_old_objects_win_bf16: "clip-config-dict",
    clip_vision_alone_without_prefix: "clip-vision-only",
    clip_vision_alone_with_prefix: "clip-vision-prefixed",
    clip_of_open_clip: "clip-open-clip",
    clip_of_open_clip_quick_gelu_custom_text_wrapped: "clip-open-clip-quick",
    clip_of_open_clip_with_layer_scale: "clip-open-clip-scaled",
}

#[test]
fn a_clip_row_does_not_depend_on_its_batch_mates() {
    let (mut model, expected) = open("clip-tiny");
    let rows = texts(&model, &expected);
    let text = model.text.as_mut().expect("both towers");
    let together = text.forward(&rows).expect("valid texts");
    for (row, embedding) in rows.iter().zip(together) {
        let alone = text.forward(std::slice::from_ref(row)).expect("a valid text");
        assert!(difference(alone[0].as_slice(), embedding.as_slice()) <= 1e-6);
    }
    let pixels = expected.pixels();
    let together = model.vision.forward(&pixels).expect("valid images");
    for (row, embedding) in pixels.iter().zip(together) {
        let alone = model.vision.forward(std::slice::from_ref(row)).expect("a valid image");
        assert!(difference(alone[0].as_slice(), embedding.as_slice()) <= 1e-6);
    }
}

#[test]
fn taps_of_clip_have_the_class_token_first() {
    let (mut model, expected) = open("clip-tiny");
    let (pixels, taps) =
        (expected.pixels(), [Tap::HiddenState(1), Tap::LastHiddenState, Tap::Pooled]);
    let outputs = model.vision.tapped(&pixels, &taps).expect("outputs of the tower");
    let names = ["vision.hidden_state.1", "vision.last_hidden_state", "vision.pooled"];
    for (index, (output, name)) in outputs.iter().zip(names).enumerate() {
        let (shape, values) = expected.floats(name);
        let row = values.len() / shape[0];
        assert!(difference(output.as_slice(), &values[index * row..][..row]) <= 1e-5, "{name}");
    }
    let mut text = model.text.expect("both towers");
    let refused = text.tapped(&expected.tokens()[..1], &[Tap::LastHiddenState]);
    assert!(matches!(refused, Err(TowerError::Shape(_))));
}

/// Mistakes that servers make: each must change the vector, otherwise a test of it would prove nothing.
#[test]
fn each_rule_of_clip_counts() {
    let with = |from: &str, to: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        for entry in fs::read_dir(super::reference::folder().join("clip-tiny")).expect("there") {
            let path = entry.expect("an entry").path();
            fs::copy(&path, folder.path().join(path.file_name().expect("a file"))).expect("room");
        }
        let path = folder.path().join("config.json");
        let json = fs::read_to_string(&path).expect("text");
        assert!(json.contains(from), "{from}");
        fs::write(&path, json.replace(from, to)).expect("room");
        let source = folder.path().to_string_lossy().into_owned();
        model::load_resident(&config::Model { source, ..config::Model::default() })
    };
    let expected = Reference::open("clip-tiny/expected.safetensors");
    let differs = |model: ResidentModel| {
        let (mut vision, mut text) = (model.vision, model.text.expect("both towers"));
        let images = vision.forward(&expected.pixels()).expect("valid images");
        let texts = text.forward(&expected.tokens()).expect("valid texts");
        [(&images, "vision.pooled"), (&texts, "text.pooled")]
            .map(|(rows, name)| difference(&flat(rows), &expected.floats(name).1) > 1e-3)
    };
    let gelu = with("\"quick_gelu\"", "\"gelu\"").expect("the other GELU");
    assert_eq!(differs(gelu), [true, true]);
    let eps =
        with("\"layer_norm_eps\": 1e-05", "\"layer_norm_eps\": 0.1").expect("another epsilon");
    assert_eq!(differs(eps), [true, true]);
    let refused = |from: &str, to: &str| with(from, to).err().expect("refused").to_string();
    let chinese = refused("\"model_type\": \"clip\"", "\"model_type\": \"chinese_clip\"");
    assert!(chinese.contains("its text tower is a BERT"), "{chinese}");
    let heads = refused("\"num_attention_heads\": 2", "\"num_attention_heads\": 7");
    assert!(heads.contains("num_attention_heads"), "{heads}");
}

#[test]
fn a_text_cannot_say_the_control_tokens() {
    let (model, _) = open("clip-tiny");
    let tokenizer = model.tokenizer.expect("goes with the tower");
    let plain = tokenizer.encode("a cat").expect("a text");
    let (&start, &end) = (&plain.ids[0], plain.ids.last().expect("an end"));
    for text in ["a<|endoftext|>cat", "<|startoftext|>", "x <|endoftext|> y"] {
        let ids = tokenizer.encode(text).expect(text).ids;
        assert_eq!(ids.iter().filter(|&&id| id == start || id == end).count(), 2, "{text}");
        assert_eq!(ids.last(), Some(&end), "{text}");
    }
    let long = tokenizer.encode(&"dog ".repeat(50)).expect("a text");
    assert!(long.truncated && long.ids.len() == 14 && long.ids.last() == Some(&end));
    assert!(matches!(tokenizer.accept(&[start, 3]), Err(IdsError::NoEnd { .. })));
    assert!(matches!(tokenizer.accept(&[]), Err(IdsError::NoEnd { .. })));
    let cut = tokenizer.accept(&[start, 3, end, 5, end]).expect("ids with an end");
    assert_eq!(&*cut.ids, [start, 3, end]);
}

#[test]
fn images_are_cropped_as_in_the_references() {
    let mut failures = Vec::new();
    let mut compare = |reference: &Reference, prefix: &str, spec: &ImageSpec| {
        for name in reference.names() {
            let Some(index) = name.strip_prefix(&format!("{prefix}image.")) else { continue };
            let (shape, source) = reference.bytes(&name);
            let image = RgbImage::from_raw(shape[1] as u32, shape[0] as u32, source);
            let mut png = Cursor::new(Vec::new());
            image.expect("its size").write_to(&mut png, ImageFormat::Png).expect("an image");
            let (shape, expected) = reference.bytes(&format!("{prefix}prepared.{index}"));
            let png = png.into_inner();
            let limits =
                ImageLimits { max_bytes: 1 << 20, max_pixels: 1 << 20, max_decode_bytes: 1 << 24 };
            let prepared = preprocess::prepare(&png, spec, &limits, Decoding::Full);
            let pixels = prepared.expect("an image").pixels;
            assert_eq!([pixels.height as usize, pixels.width as usize], shape[..2], "{name}");
            let most = levels(&png, spec, &expected);
            row(&name, &format!("{most} levels"), "1 level");
            if most > 1 {
                failures.push(format!("{name}: {most} levels"));
            }
        }
    };
    for name in ["clip-tiny", "clip-open-clip"] {
        let (model, expected) = open(name);
        compare(&expected, "", &model.image);
    }
    let crops = Reference::open("clip-crops/expected.safetensors");
    for (prefix, json) in [
        ("small.", r#"{"size": 9, "crop_size": 14}"#),
        ("odd.", r#"{"size": {"shortest_edge": 20}, "crop_size": {"height": 13, "width": 13}}"#),
    ] {
        let spec = ImageSpec::parse_cropped(json.as_bytes(), 14, CropOffset::Down).expect("valid");
        compare(&crops, prefix, &spec);
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Every kind of weights and every set of instructions, on texts of several lengths and on images.
#[test]
fn narrow_weights_of_clip_stay_close() {
    let cosine = |a: &[f32], b: &[f32]| {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    for (dtype, least) in [
        (config::DType::F32, 0.999_999),
        (config::DType::F16, 0.9999),
        // Rounding has a larger effect at the small width of these.
        (config::DType::Bf16, 0.9998),
        (config::DType::Int8, 0.995),
    ] {
        for (name, cpu_features) in [
            ("clip-tiny", config::CpuFeatures::Auto),
            ("clip-tiny", config::CpuFeatures::Portable),
            ("clip-legacy-end", config::CpuFeatures::Auto),
            ("clip-open-clip", config::CpuFeatures::Auto),
            ("clip-open-clip-scaled", config::CpuFeatures::Auto),
        ] {
            let expected = Reference::open(&format!("{name}/expected.safetensors"));
            let source = folder().join(name).to_string_lossy().into_owned();
            let config = config::Model { source, dtype, cpu_features, ..config::Model::default() };
            let mut model = model::load_resident(&config).expect("any type");
            let images = model.vision.forward(&expected.pixels()).expect("valid images");
            let mut text = model.text.expect("both towers");
            let texts = text.forward(&expected.tokens()).expect("valid texts");
            let worst = |rows: &[Embedding], name: &str| {
                let (shape, values) = expected.floats(name);
                let pairs = rows.iter().zip(values.chunks_exact(shape[1]));
                pairs.map(|(row, own)| cosine(row.as_slice(), own)).fold(1.0, f32::min)
            };
            let worst = worst(&images, "vision.pooled").min(worst(&texts, "text.pooled"));
            row(&format!("{name} {dtype}"), &format!("cosine {worst:.6}"), &least.to_string());
            assert!(worst >= least, "{name} {dtype} {cpu_features}: {worst}");
        }
    }
}
