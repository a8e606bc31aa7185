//! Compares vision towers from LLaVA's files, and images in tiles, with transformers:
//! `tests/golden/generate_llava.py`.

use std::{fs, io::Cursor, path::Path};

use image::{ImageFormat, RgbImage};
use siglip_server::{
    config,
    model::{self, ResidentModel, Tap, Tower},
    preprocess::{self, Decoding, ImageLimits, ImageSpec, Pinpoints, Prepared, Resample, Tiling},
};

use super::{
    reference::{Judge, Reference, assert_close, difference, folder, row},
    stages::flat,
};

const LIMITS: ImageLimits =
    ImageLimits { max_bytes: 1 << 25, max_pixels: 1 << 24, max_decode_bytes: 1 << 27 };

/// The checkpoints whose images are cut into tiles.
pub(super) const TILED: [&str; 4] =
    ["llava-onevision", "llava-onevision-bare", "llava-onevision-inner", "llava-next"];

pub(super) fn encoded(pixels: Vec<u8>, [height, width]: [u32; 2], format: ImageFormat) -> Vec<u8> {
    let image = RgbImage::from_raw(width, height, pixels).expect("three bytes a pixel");
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("written to memory");
    bytes.into_inner()
}

/// All views of an image, one below the other, and how it was cut.
fn views(bytes: &[u8], spec: &ImageSpec, pinpoints: &Pinpoints) -> (Tiling, Prepared) {
    let header = preprocess::inspect(bytes, &LIMITS).expect("an image");
    let tiling = pinpoints.tiling(header.size);
    let views = preprocess::views(bytes, (spec, &tiling), &LIMITS, Decoding::Full);
    let views = views.expect("an image");
    assert_eq!([views.pixels.height, views.pixels.width], tiling.stacked_size());
    assert_eq!(views.source_pixels, header.pixels);
    (tiling, views)
}

/// The largest difference in levels of 255.
fn most_levels(values: &[u8], expected: &[u8]) -> u8 {
    assert_eq!(values.len(), expected.len());
    let pairs = values.iter().zip(expected);
    pairs.map(|(value, expected)| value.abs_diff(*expected)).max().unwrap_or_default()
}

fn check(name: &str, (family, leading, layer): (&str, usize, i64)) {
    let judge = Judge::strict();
    let (mut model, expected) = judge.open(name);
    let card = model.card.clone();
    assert_eq!((&*card.family, card.leading_tokens), (family, leading));
    assert!(model.text.is_none() && model.tokenizer.is_none() && card.scorer.is_none());
    let language = card.language.expect("goes with the tower");
    assert_eq!(language.feature_layers, [layer]);
    assert_eq!(language.select_strategy, if leading == 0 { "full" } else { "default" });
    let pixels = expected.pixels();
    judge.stages(&expected, "vision", &model.vision.stages(&pixels).expect("valid images"));
    let images = model.vision.forward(&pixels).expect("valid images");
    judge.close("image embeddings", &flat(&images), &expected.floats("vision.pooled").1);
    // The language model's tensors are not counted.
    let width = card.vision_width as u64;
    assert!(
        card.parameters < 40_000 && card.parameters > 12 * width * width,
        "{}",
        card.parameters
    );
}

#[test]
fn llava_onevision_of_several_files_f16() {
    check("llava-onevision", ("llava_onevision", 0, -1));
}

#[test]
fn llava_onevision_of_transformers_5() {
    check("llava-onevision-bare", ("llava_onevision", 0, -1));
}

#[test]
fn llava_onevision_beside_tensors_that_cannot_be_read_bf16() {
    check("llava-onevision-inner", ("llava_onevision", 0, -1));
}

#[test]
fn llava_next_with_a_clip_tower() {
    check("llava-next", ("llava_next", 1, -2));
}

#[test]
fn llava_with_a_clip_tower() {
    check("llava-clip", ("llava", 1, -2));
}

#[test]
fn views_are_those_of_the_processor_and_features_those_of_the_tower() {
    let mut failures = Vec::new();
    for name in TILED {
        let (mut model, expected) = Judge::strict().open(name);
        let language = model.card.language.clone().expect("goes with the tower");
        let pinpoints = language.pinpoints.expect("in the file");
        assert_eq!(pinpoints.sizes().len(), 36);
        let states = model.card.vision_layers as i64 + 1;
        let tap = Tap::HiddenState((states + language.feature_layers[0]) as usize);
        for index in 0.. {
            if !expected.has(&format!("image.{index}")) {
                assert_eq!(index, 12);
                break;
            }
            let (shape, source) = expected.bytes(&format!("image.{index}"));
            let size = [shape[0] as u32, shape[1] as u32];
            let png = encoded(source, size, ImageFormat::Png);
            let (tiling, views) = views(&png, &model.image, &pinpoints);
            let (shape, stored) = expected.bytes(&format!("views.{index}"));
            assert_eq!((tiling.image_size, tiling.views()), (size, shape[0]), "{name} {size:?}");
            let most = most_levels(&views.pixels.data, &stored);
            row(&format!("{name} views of {size:?}"), &format!("{most} levels"), "1 level");
            if most > 1 {
                failures.push(format!("{name} {size:?}: {most} levels"));
            }
            let views = tiling.split(&views.pixels);
            let features = model.vision.tapped(&views, &vec![tap; views.len()]).expect("views");
            let (shape, stored) = expected.floats(&format!("features.{index}"));
            assert_eq!(shape[0], views.len());
            assert_close(&format!("{name} features of {size:?}"), &flat(&features), &stored);
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn the_same_sizes_are_chosen_in_every_order() {
    let reference = Reference::open("llava-tiles/expected.safetensors");
    let pairs = |name: &str| -> Vec<[u32; 2]> {
        reference.integers(name).iter().map(|pair| [pair[0], pair[1]]).collect()
    };
    let images = pairs("images");
    for order in ["rows", "reversed", "columns", "next", "wide", "tall", "one"] {
        let pinpoints =
            Pinpoints::new(&pairs(&format!("sizes.{order}")), 384).expect("whole tiles");
        let (chosen, inner) = (pairs(&format!("chosen.{order}")), pairs(&format!("inner.{order}")));
        for (index, &image) in images.iter().enumerate() {
            let tiling = pinpoints.tiling(image);
            assert_eq!(tiling.grid.map(|tiles| tiles * 384), chosen[index], "{order} {image:?}");
            assert_eq!(tiling.inner_size, inner[index], "{order} {image:?}");
        }
        row(&format!("sizes, {order}, {} images", images.len()), "0", "0");
    }
    // The order matters if two sizes are equally good, otherwise this shows nothing.
    assert!(reference.integers("chosen.wide") != reference.integers("chosen.tall"));
}

/// A large image from a formula, which the reference uses too.
fn formula([height, width]: [u32; 2]) -> Vec<u8> {
    let level = |row: u32, column: u32, channel: u32| {
        ((row * 7 + column * 13 + channel * 29) ^ ((row * column) >> 6)) as u8
    };
    let pixels = (0..height).flat_map(|row| (0..width).map(move |column| [row, column]));
    pixels.flat_map(|[row, column]| [0, 1, 2].map(|channel| level(row, column, channel))).collect()
}

#[test]
fn a_side_of_641_pixels_is_cut_as_in_the_reference() {
    const LINES: [usize; 8] = [0, 62, 63, 64, 200, 319, 320, 383];
    let reference = Reference::open("llava-tiles/expected.safetensors");
    let spec = ImageSpec::parse_squashed(b"{}", 384).expect("the defaults");
    assert_eq!(spec.resample, Resample::Bicubic);
    let pinpoints = Pinpoints::new(&[[768, 768]], 384).expect("whole tiles");
    for (name, size, inner) in
        [("wide", [2445, 2934], [641, 768]), ("tall", [2934, 2445], [768, 641])]
    {
        let bytes = encoded(formula(size), size, ImageFormat::Bmp);
        let (tiling, views) = views(&bytes, &spec, &pinpoints);
        assert_eq!(tiling.inner_size, inner);
        let line = 384 * 3;
        let views = tiling.split(&views.pixels);
        let lines = views.iter().flat_map(|view| LINES.map(|at| &view.data[at * line..][..line]));
        let (shape, stored) = reference.bytes(&format!("large.{name}"));
        assert_eq!(shape, [5, LINES.len(), 384, 3]);
        let most = most_levels(&lines.collect::<Vec<_>>().concat(), &stored);
        row(&format!("views of {size:?}"), &format!("{most} levels"), "1 level");
        assert!(most <= 1, "{name}: {most} levels");
    }
}

#[test]
fn narrow_weights_of_a_llava_tower_are_checked_against_its_own() {
    for (name, dtype) in [
        ("llava-onevision", config::DType::F16),
        ("llava-onevision-bare", config::DType::Bf16),
        ("llava-onevision-inner", config::DType::Int8),
        ("llava-next", config::DType::Int8),
    ] {
        let source = folder().join(name).to_string_lossy().into_owned();
        let config = config::Model { source, dtype, ..config::Model::default() };
        let model = model::load_resident(&config).expect("any type");
        let agreement = model.card.agreement.expect("measured");
        row(&format!("{name} {dtype}"), &format!("cosine {agreement:.6}"), "0.99");
        assert!(agreement > 0.99, "{name} {dtype}: {agreement}");
    }
}

/// A copy of a checkpoint with a file changed or removed.
fn changed(name: &str, file: &str, change: Option<(&str, &str)>) -> Result<ResidentModel, String> {
    let copy = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(folder().join(name)).expect("there") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, copy.path().join(path.file_name().expect("a file"))).expect("copied");
    }
    let path = copy.path().join(file);
    match change {
        None => fs::remove_file(&path).expect("there"),
        Some((from, to)) => replace(&path, from, to),
    }
    let source = copy.path().to_string_lossy().into_owned();
    let config = config::Model { source, ..config::Model::default() };
    model::load_resident(&config).map_err(|error| error.to_string())
}

/// Replaces a text with one of the same length, which is necessary in a file of tensors.
fn replace(path: &Path, from: &str, to: &str) {
    let bytes = fs::read(path).expect("there");
    // Only ASCII is replaced, and the rest stays the same byte for byte.
    let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
    assert!(text.contains(from), "{from}");
    let changed: Vec<u8> = text.replace(from, to).chars().map(|c| c as u8).collect();
    fs::write(path, changed).expect("room");
}

#[test]
fn what_is_no_tower_of_these_is_refused_by_name() {
    const CONFIG: &str = "config.json";
    const PROCESSOR: &str = "preprocessor_config.json";
    const WEIGHTS: &str = "model.safetensors";
    let model_type = |from, to| Some((from, to));
    for (name, file, change, expected) in [
        ("llava-clip", CONFIG, model_type("\"llava\"", "\"llava_qwen\""), "LLaVA's own code"),
        ("llava-clip", CONFIG, model_type("\"llava\"", "\"vipllava\""), "several layers"),
        ("llava-clip", CONFIG, model_type("\"llava\"", "\"llava_next_video\""), "reads videos"),
        (
            "llava-clip",
            CONFIG,
            Some(("clip_vision_model", "pixtral")),
            "`vision_config.model_type` is \"pixtral\"; `siglip_vision_model` or `clip_vision_model` is read",
        ),
        (
            "llava-onevision",
            CONFIG,
            Some(("siglip_vision_model", "siglip2_vision_model")),
            "`vision_config.model_type` is \"siglip2_vision_model\"",
        ),
        (
            "llava-clip",
            CONFIG,
            Some(("vision_config", "other_config")),
            "`vision_config` is missing",
        ),
        (
            "llava-onevision",
            CONFIG,
            Some(("\"full\"", "\"half\"")),
            "`vision_feature_select_strategy` is \"half\"; `default` or `full` is read",
        ),
        (
            "llava-onevision",
            CONFIG,
            Some(("\"vision_feature_layer\": -1", "\"vision_feature_layer\": \"all\"")),
            "`vision_feature_layer` is \"all\"",
        ),
        (
            "llava-onevision",
            CONFIG,
            Some(("\"vision_feature_layer\": -1", "\"vision_feature_layer\": -5")),
            "`vision_feature_layer` is -5, but the tower has hidden states 0 to 3",
        ),
        // Without the file, it is unknown how images are normalised.
        ("llava-onevision", PROCESSOR, None, "preprocessor_config.json is missing"),
        (
            "llava-onevision-bare",
            "processor_config.json",
            None,
            "preprocessor_config.json is missing",
        ),
        (
            "llava-onevision-bare",
            "processor_config.json",
            Some(("\"image_processor\"", "\"video_processor\"")),
            "preprocessor_config.json is missing",
        ),
        (
            "llava-onevision",
            PROCESSOR,
            Some(("LlavaOnevision", "Pixtral")),
            "`image_processor_type` is \"PixtralImageProcessor\"",
        ),
        (
            "llava-onevision",
            PROCESSOR,
            Some(("\"height\": 16", "\"height\": 8")),
            "images become 8 x 16",
        ),
        (
            "llava-onevision",
            PROCESSOR,
            Some(("\"size\"", "\"crop_size\": 8, \"size\"")),
            "`crop_size` is 8",
        ),
        (
            "llava-next",
            PROCESSOR,
            Some(("\"shortest_edge\": 16", "\"shortest_edge\": 20")),
            "the size of the crop is read",
        ),
        (
            "llava-clip",
            PROCESSOR,
            Some(("\"CLIPImageProcessor\"", "\"LlavaImageProcessor\", \"do_pad\": true")),
            "`do_pad` is true; false is read",
        ),
        // The first size of the file.
        (
            "llava-onevision",
            PROCESSOR,
            Some(("\"image_grid_pinpoints\": [", "\"image_grid_pinpoints\": [[16, 15], ")),
            "[16, 15] is no size in whole tiles of 16 x 16",
        ),
        (
            "llava-onevision-inner",
            WEIGHTS,
            Some(("vision_tower", "vision_other")),
            "tensor `vision_tower.vision_model.embeddings.patch_embedding.weight` is missing",
        ),
    ] {
        let error = changed(name, file, change).err().expect(expected);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn each_part_of_the_tower_counts() {
    let expected = Reference::open("llava-onevision/expected.safetensors");
    let pooled = expected.floats("vision.pooled").1;
    let differs = |from: &str, to: &str| {
        let model = changed("llava-onevision", "config.json", Some((from, to)));
        let mut vision = model.unwrap_or_else(|error| panic!("{to}: {error}")).vision;
        difference(&flat(&vision.forward(&expected.pixels()).expect("images")), &pooled) > 1e-3
    };
    assert!(differs("\"image_size\": 16", "\"image_size\": 16, \"hidden_act\": \"quick_gelu\""));
    assert!(differs("\"image_size\": 16", "\"image_size\": 16, \"layer_norm_eps\": 0.1"));
    // A layer too many or too few: its tensors are missing or unused.
    let layers = "\"num_hidden_layers\": ";
    let missing = changed(
        "llava-onevision",
        "config.json",
        Some((&format!("{layers}3"), &format!("{layers}4"))),
    );
    let missing = missing.err().expect("refused");
    assert!(missing.contains("tensor `vision_tower.vision_model.encoder.layers.3."), "{missing}");
    let spare = changed(
        "llava-onevision",
        "config.json",
        Some((&format!("{layers}3"), &format!("{layers}2"))),
    );
    let spare = spare.err().expect("refused");
    assert!(spare.contains("has no place in the model"), "{spare}");
}
