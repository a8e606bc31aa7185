//! Small random checkpoints of every kind, with every parameter overwritten by noise.

use std::fs;

use siglip_server::{
    config,
    embedding::Embedding,
    model::{self, ResidentModel, Tower, TowerError},
    preprocess::Pixels,
};

use super::{
    reference::{self, Judge, Reference, cosines, difference, load, tokens},
    stages::{self, flat},
};

fn open(name: &str) -> (ResidentModel, Reference) {
    Judge::strict().open(name)
}

fn check(name: &str) {
    stages::check(&Judge::strict(), name);
}

macro_rules! variants {
    ($($test:ident: $name:literal,)*) => {
        $(#[test] fn $test() { check($name); })*
    };
}

variants! {
    tiny: "tiny",
    head_dim_72_odd_mlp_truncating_patches_f16: "odd-shapes",
    text_length_16_bf16: "text-length-16",
    giant_like_with_projection_in_two_shards: "giant-like",
    erf_gelu: "erf-gelu",
    identity_text_head: "identity-text-head",
    vision_alone_without_prefix: "vision-only",
    vision_alone_headless_with_prefix: "vision-headless",
    headless_tap_26_of_27: "headless-27",
    open_clip_erf_gelu_wrapped: "open-clip-erf",
    open_clip_tanh_gelu_unbiased_projection_f16: "open-clip-tanh",
    open_clip_without_projection_text_at_the_root: "open-clip-bare",
}

#[test]
fn a_row_does_not_depend_on_its_batch_mates() {
    stages::check_mates(&Judge::strict(), "tiny");
    let mut text = load("tiny").text.expect("both towers");
    assert!(text.forward(&[]).expect("nothing to do").is_empty());
}

#[test]
fn a_pass_that_was_begun_gives_what_one_that_was_run_gives() {
    stages::check_begun(&Judge::strict(), "tiny", 8);
}

#[test]
fn what_is_noted_does_not_end_a_comparison() {
    let judge = Judge::noting(config::Model::default(), [1e-12, 1.0]);
    stages::check(&judge, "tiny");
    stages::check_mates(&judge, "tiny");
    let noted = judge.take();
    let over = |prefix: &str| {
        let of_stage = noted.iter().filter(|comparison| comparison.stage.starts_with(prefix));
        of_stage.filter(|comparison| comparison.difference > comparison.tolerance).count()
    };
    assert!(over("vision.") > 0 && over("text.") > 0 && over("alone") == 0, "{noted:?}");
    assert!(judge.take().is_empty());
}

#[test]
fn threads_do_not_change_a_row() {
    let (mut one, expected) = open("tiny");
    let source = reference::folder().join("tiny").to_string_lossy().into_owned();
    let config = config::Model { source, threads: 3, ..config::Model::default() };
    let mut three = model::load_resident(&config).expect("the same checkpoint");
    let pixels = expected.pixels();
    let (a, b) = (one.vision.forward(&pixels), three.vision.forward(&pixels));
    assert!(difference(&flat(&a.expect("valid")), &flat(&b.expect("valid"))) <= 1e-6);
}

/// Instructions that the processor lacks are refused. All others give the reference's results.
#[test]
fn every_set_of_instructions_agrees() {
    for name in ["tiny", "odd-shapes", "erf-gelu", "naflex-up"] {
        let expected = Reference::open(&format!("{name}/expected.safetensors"));
        for cpu_features in
            ["portable", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx", "neon"]
        {
            let source = reference::folder().join(name).to_string_lossy().into_owned();
            let cpu_features: config::CpuFeatures = cpu_features.parse().expect("a set");
            let config = config::Model { source, cpu_features, ..config::Model::default() };
            let mut model = match model::load_resident(&config) {
                Ok(model) => model,
                Err(error) => {
                    assert_eq!(error.to_string(), format!("this processor has no {cpu_features}"));
                    assert_ne!(cpu_features, config::CpuFeatures::Portable);
                    continue;
                }
            };
            let set = model.card.cpu_features.as_ref().expect("a processor");
            assert_eq!(set.name, cpu_features.to_string());
            assert_eq!(set.why, "the configuration pins it");
            if let Some(text) = &mut model.text {
                let texts = text.forward(&expected.tokens()).expect("valid texts");
                expected.check("text.pooled", &expected.floats("text.pooled").0, &flat(&texts));
            }
            if expected.has("pixels") {
                let images = model.vision.forward(&expected.pixels()).expect("valid pictures");
                let shape = expected.floats("vision.pooled").0;
                expected.check("vision.pooled", &shape, &flat(&images));
            }
        }
    }
}

/// Every variant with narrower weights: the error of each dtype.
#[test]
fn narrow_weights_stay_close() {
    let variants = [
        "tiny",
        "odd-shapes",
        "text-length-16",
        "giant-like",
        "erf-gelu",
        "identity-text-head",
        "vision-only",
        "vision-headless",
        "open-clip-erf",
        "open-clip-tanh",
    ];
    let auto = config::CpuFeatures::Auto;
    for (dtype, cpu_features, least) in [
        (config::DType::F16, auto, 0.9999),
        (config::DType::Bf16, auto, 0.9999),
        // 8-bit inputs, or the width that is fastest on the processor: 7 bits on many.
        (config::DType::Int8, config::CpuFeatures::Portable, 0.999),
        (config::DType::Int8, auto, 0.995),
        // Whole towers in AMX tiles, which plain Rust emulates if the processor has no AMX.
        #[cfg(target_arch = "x86_64")]
        (config::DType::Bf16, config::CpuFeatures::AmxTwin, 0.9999),
        #[cfg(target_arch = "x86_64")]
        (config::DType::Int8, config::CpuFeatures::AmxTwin, 0.999),
    ] {
        for name in variants {
            let expected = Reference::open(&format!("{name}/expected.safetensors"));
            let source = reference::folder().join(name).to_string_lossy().into_owned();
            let config = config::Model { source, dtype, cpu_features, ..config::Model::default() };
            let mut model = model::load_resident(&config).expect("any type");
            let images = model.vision.forward(&expected.pixels()).expect("valid pictures");
            let mut worst = least_cosine(&images, &expected.floats("vision.pooled"));
            if let Some(mut text) = model.text {
                let texts = text.forward(&expected.tokens()).expect("valid texts");
                worst = worst.min(least_cosine(&texts, &expected.floats("text.pooled")));
            }
            reference::row(
                &format!("{name} {dtype} {cpu_features}"),
                &format!("cosine {worst:.6}"),
                &least.to_string(),
            );
            assert!(worst >= least, "{name} {dtype} {cpu_features}: {worst}");
            // The load compares other rows itself, and refuses.
            assert!(model.card.agreement.is_some(), "{name} {dtype}");
        }
    }
}

/// f32 in three bf16 products: close to the references, and used only where this was measured.
#[cfg(target_arch = "x86_64")]
#[test]
fn high_precision_is_near_to_the_highest() {
    use config::{CpuFeatures, MatmulPrecision};
    let load = |name: &str, cpu_features, matmul_precision, min_agreement| {
        let source = reference::folder().join(name).to_string_lossy().into_owned();
        let (dtype, model) = (config::DType::F32, config::Model::default());
        let config =
            config::Model { source, dtype, cpu_features, matmul_precision, min_agreement, ..model };
        model::load_resident(&config).expect("f32")
    };
    let precision = |model: &model::ResidentModel| {
        let own = model.card.matmul_precision.clone().expect("f32 on a processor");
        (own.value, own.why)
    };
    let high = Some(MatmulPrecision::High);
    for name in ["tiny", "odd-shapes", "giant-like", "erf-gelu", "open-clip-tanh"] {
        let expected = Reference::open(&format!("{name}/expected.safetensors"));
        let mut model = load(name, CpuFeatures::AmxTwin, high, None);
        let (value, why) = precision(&model);
        assert!(value == MatmulPrecision::High && why.contains("within"), "{name}: {why}");
        let images = model.vision.forward(&expected.pixels()).expect("valid pictures");
        let cosine = least_cosine(&images, &expected.floats("vision.pooled"));
        reference::row(&format!("{name} f32 high"), &why, "1e-5");
        assert!(cosine > 1.0 - 1e-5, "{name}: {cosine}");
        // It is chosen automatically only if it is close enough.
        let (chosen, why) = precision(&load(name, CpuFeatures::AmxTwin, None, None));
        let is_high = chosen == MatmulPrecision::High;
        assert_eq!(is_high, !why.contains("more than"), "{name}: {why}");
    }
    let unchecked = Some(config::Agreement::UNCHECKED);
    let (value, _) = precision(&load("tiny", CpuFeatures::AmxTwin, None, unchecked));
    assert_eq!(value, MatmulPrecision::Highest);
    let highest = Some(MatmulPrecision::Highest);
    let (value, _) = precision(&load("tiny", CpuFeatures::AmxTwin, highest, None));
    assert_eq!(value, MatmulPrecision::Highest);
    let (value, why) = precision(&load("tiny", CpuFeatures::Portable, high, None));
    assert!(value == MatmulPrecision::Highest && why.contains("no faster"), "{why}");
}

#[test]
fn a_type_that_agrees_too_little_is_refused() {
    let source = reference::folder().join("tiny").to_string_lossy().into_owned();
    let model = |dtype: &str, device: &str, least: &str| config::Model {
        source: source.clone(),
        dtype: dtype.parse().expect("a type"),
        device: device.parse().expect("a device"),
        min_agreement: Some(least.parse().expect("a cosine")),
        ..config::Model::default()
    };
    let load =
        |model: &config::Model| model::load_resident(model).map(|model| model.card.agreement);
    let error = load(&model("int8", "cpu", "1")).expect_err("rounded").to_string();
    let (before, after) =
        ("the least cosine between embeddings in int8 and in f32 is 0.99", "below the 1 of");
    assert!(error.contains(before) && error.contains(after), "{error}");
    assert!(load(&model("int8", "cpu", "0.99")).expect("near enough").is_some());
    // Nothing is measured if the check is disabled, or if there is nothing to compare with.
    assert_eq!(load(&model("int8", "cpu", "0")).expect("any"), None);
    assert_eq!(load(&model("f32", "cpu", "1")).expect("itself"), None);
    let error = load(&model("int8", "cuda", "0")).expect_err("of the processor").to_string();
    assert!(error.contains("dtype `int8` is for the device `cpu`"), "{error}");
}

/// The lowest cosine between rows and their references.
fn least_cosine(rows: &[Embedding], (shape, values): &(Vec<usize>, Vec<f32>)) -> f32 {
    let references = values.chunks_exact(shape[1]).map(Embedding::new);
    let pairs = rows.iter().zip(references);
    let cosine = |(row, reference)| cosines(std::slice::from_ref(row), &[reference])[0];
    pairs.map(cosine).fold(1.0, f32::min)
}

/// Mistakes that servers make: each must change the vector, otherwise a test of it would prove nothing.
#[test]
fn padding_is_part_of_the_model() {
    let (model, expected) = open("tiny");
    let mut text = model.text.expect("both towers");
    let ids = expected.ids().swap_remove(0);
    let mut embed = |ids: &[u32]| text.forward(&[tokens(ids)]).expect("valid ids").swap_remove(0);
    let right = embed(&ids);
    // The model config's own pad id, which is wrong here as in the published files.
    let padded_with_one: Vec<u32> = ids.iter().map(|&id| if id == 0 { 1 } else { id }).collect();
    assert!(difference(embed(&padded_with_one).as_slice(), right.as_slice()) > 0.01);
    // What transformers gives for the same ids without their padding, and with a mask over it.
    let wrong = Reference::open("tiny/mistakes.safetensors");
    for mistake in ["unpadded", "masked", "padded_with_one"] {
        let (shape, values) = wrong.floats(&format!("text.pooled.{mistake}"));
        assert_eq!(shape[1], right.dim());
        let apart = difference(&values[..shape[1]], right.as_slice());
        assert!(apart > 0.01, "{mistake}: {apart}");
    }
    // Ids that are not padded are refused, rather than embedded as something else.
    let used = ids.iter().take_while(|&&id| id != 0).count();
    let unpadded = text.forward(&[tokens(&ids[..used])]).expect_err("too short");
    assert!(matches!(unpadded, TowerError::Shape(_)), "{unpadded}");
}

#[test]
fn rows_of_a_wrong_shape_are_refused() {
    let (mut model, expected) = open("tiny");
    let mut pixels = expected.pixels().swap_remove(0);
    pixels.height += 1;
    let missized = model.vision.forward(std::slice::from_ref(&pixels));
    assert!(matches!(missized, Err(TowerError::Shape(_))));
    let short = Pixels { height: pixels.width, data: [0u8; 5].as_slice().into(), ..pixels };
    assert!(matches!(model.vision.forward(&[short]), Err(TowerError::Shape(_))));
    let mut text = model.text.expect("both towers");
    let mut ids = expected.ids().swap_remove(0);
    ids[2] = 27;
    let unknown = text.forward(&[tokens(&ids)]);
    assert!(matches!(unknown, Err(TowerError::Shape(_))), "an id behind the vocabulary");
}

#[test]
fn case_does_not_matter_and_cut_texts_end() {
    let (model, _) = open("tiny");
    let tokenizer = model.tokenizer.expect("goes with the text tower");
    let ids =
        |text: &str| tokenizer.encode(&tokenizer.canonical(text)).expect("any text").ids.to_vec();
    assert_eq!(ids("A CAT"), ids("a cat"));
    let long = ids(&"cat ".repeat(50));
    assert_eq!((long.len(), long.last()), (12, Some(&1)));
}

/// Copies a variant, edits one of its files, and gives the message with which it is refused.
fn refused(edit: impl FnOnce(&std::path::Path)) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for entry in fs::read_dir(reference::folder().join("tiny")).expect("the variant") {
        let entry = entry.expect("the variant");
        fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("room for a copy");
    }
    edit(folder.path());
    let source = folder.path().to_string_lossy().into_owned();
    match model::load(&config::Model { source, ..config::Model::default() }) {
        Ok(_) => panic!("a broken checkpoint was loaded"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_checkpoint_at_fault_names_file_and_tensor() {
    let replace = |file: &'static str, from: &'static str, to: &'static str| {
        refused(move |folder| {
            let path = folder.join(file);
            let bytes = fs::read(&path).expect("the variant");
            let text: Vec<u8> = if bytes.starts_with(b"{") {
                String::from_utf8(bytes).expect("JSON").replace(from, to).into_bytes()
            } else {
                // Names of equal length do not change the offsets in a safetensors header.
                assert_eq!(from.len(), to.len());
                let at = bytes.windows(from.len()).position(|window| window == from.as_bytes());
                let at = at.expect("the tensor");
                [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
            };
            fs::write(path, text).expect("room");
        })
    };
    let missing = replace("model.safetensors", "logit_bias", "logit_bios");
    assert!(missing.contains("`logit_bias` is missing from model.safetensors"), "{missing}");
    let misshapen =
        replace("config.json", "\"intermediate_size\": 28", "\"intermediate_size\": 27");
    assert!(misshapen.contains("model.safetensors: tensor"), "{misshapen}");
    assert!(misshapen.contains("mlp.fc1.weight` has the shape [28, 24]"), "{misshapen}");
    let extra = replace("config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
    assert!(extra.contains("layers.1.") && extra.contains("no place"), "{extra}");
    let other = replace("config.json", "\"model_type\": \"siglip\"", "\"model_type\": \"flava\"");
    assert!(other.contains("config.json: `model_type` is \"flava\"; `siglip`,"), "{other}");
    let size = replace("preprocessor_config.json", "\"height\": 16", "\"height\": 32");
    assert!(size.contains("preprocessor_config.json: size is 32 x 16"), "{size}");
    let untokenized = refused(|folder| {
        fs::remove_file(folder.join("tokenizer.json")).expect("it was there");
    });
    assert!(untokenized.contains("tokenizer.json: it is missing"), "{untokenized}");
    let cut = refused(|folder| {
        let path = folder.join("model.safetensors");
        let bytes = fs::read(&path).expect("the variant");
        fs::write(path, &bytes[..bytes.len() - 5]).expect("room");
    });
    assert!(cut.contains("model.safetensors"), "{cut}");
}
