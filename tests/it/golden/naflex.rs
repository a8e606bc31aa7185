//! Pictures in variable resolution, against transformers' padded and masked batches.

use std::io::Cursor;

use image::{ImageFormat, RgbImage};
use siglip_server::{
    model::{Siglip, Tower, TowerError},
    preprocess::{self, Decoding, ImageLimits, ImageSpec, Pixels, TargetSize},
};

use super::{
    reference::{Reference, assert_close, difference},
    variants::{check_texts, flat, open},
};

const LIMITS: ImageLimits =
    ImageLimits { max_bytes: 1 << 20, max_pixels: 1 << 24, max_decode_bytes: 1 << 26 };

/// The stored pictures as PNG.
pub(super) fn sources(expected: &Reference) -> Vec<Vec<u8>> {
    let names = (0..).map(|index| format!("source.{index}"));
    let files = names.take_while(|name| expected.has(name)).map(|name| {
        let (shape, values) = expected.bytes(&name);
        let picture = RgbImage::from_raw(shape[1] as u32, shape[0] as u32, values);
        let mut png = Cursor::new(Vec::new());
        let picture = picture.expect("width x height x 3 bytes");
        picture.write_to(&mut png, ImageFormat::Png).expect("a valid picture");
        png.into_inner()
    });
    files.collect()
}

/// The same, prepared as a model asks for it.
fn pictures(expected: &Reference, spec: &ImageSpec) -> Vec<Pixels> {
    let prepare = |png: &Vec<u8>| {
        preprocess::prepare(png, spec, &LIMITS, Decoding::Full).expect("valid").pixels
    };
    sources(expected).iter().map(prepare).collect()
}

fn with_patches(spec: &ImageSpec, count: u32) -> ImageSpec {
    ImageSpec { size: spec.size.with_max_num_patches(count), ..spec.clone() }
}

fn patch_size(spec: &ImageSpec) -> usize {
    match spec.size {
        TargetSize::Patches { patch_size, .. } => patch_size as usize,
        TargetSize::Fixed { .. } => panic!("a fixed size"),
    }
}

/// Normalised patches in transformers' order: row, column, channel innermost.
fn patches(row: &Pixels, spec: &ImageSpec) -> Vec<f32> {
    let (patch, width) = (patch_size(spec), row.width as usize);
    let mut values = Vec::with_capacity(row.data.len());
    for top in (0..row.height as usize).step_by(patch) {
        for left in (0..width).step_by(patch) {
            for y in top..top + patch {
                let line = &row.data[(y * width + left) * 3..][..patch * 3];
                values.extend(line.iter().zip([0, 1, 2].into_iter().cycle()).map(
                    |(&value, channel)| {
                        (f32::from(value) * spec.rescale - spec.mean[channel]) / spec.std[channel]
                    },
                ));
            }
        }
    }
    values
}

/// Compares a picture's values with the first of its row in a padded tensor `[batch, most, ..]`.
fn check_row(expected: &Reference, name: &str, index: usize, values: &[f32]) {
    let (shape, reference) = expected.floats(name);
    let row = &reference[index * shape[1] * shape[2]..][..values.len()];
    assert_close(&format!("{name}[{index}]"), values, row);
}

/// Compares every stage of every picture, alone and together.
fn check(name: &str) {
    let (mut model, expected) = open(name);
    let rows = pictures(&expected, &model.image);
    let grids = expected.integers("spatial_shapes");
    assert_eq!(rows.len(), grids.len());
    let patch = patch_size(&model.image) as u32;
    for (index, (row, grid)) in rows.iter().zip(&grids).enumerate() {
        assert_eq!([row.height / patch, row.width / patch], grid[..], "picture {index}");
        check_row(&expected, "pixel_values", index, &patches(row, &model.image));
        let stages = model.vision.stages(std::slice::from_ref(row)).expect("a valid picture");
        for (layer, state) in stages.hidden_states.iter().enumerate() {
            assert_eq!(state.shape[..2], [1, (grid[0] * grid[1]) as usize]);
            check_row(&expected, &format!("vision.hidden_state.{layer}"), index, &state.values);
        }
        let more = format!("vision.hidden_state.{}", stages.hidden_states.len());
        assert!(!expected.has(&more));
        let last = &stages.last_hidden_state.values;
        check_row(&expected, "vision.last_hidden_state", index, last);
    }
    let together = model.vision.forward(&rows).expect("valid pictures");
    let pooled = expected.floats("vision.pooled").1;
    assert_close("image embeddings", &flat(&together), &pooled);
    for (row, embedding) in rows.iter().zip(&together) {
        let alone = model.vision.forward(std::slice::from_ref(row)).expect("a valid picture");
        let pairs = alone[0].as_slice().iter().zip(embedding.as_slice());
        let most = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(most <= 1e-5, "alone and together differ by {most}");
    }
    check_resolutions(&mut model, &expected);
    check_mistakes(&expected, &pooled);
    check_texts(model, &expected, &together);
}

/// The numbers of patches that a request may choose.
fn check_resolutions(model: &mut Siglip, expected: &Reference) {
    let chosen: Vec<_> =
        expected.names().into_iter().filter(|n| n.starts_with("pooled_at")).collect();
    assert_eq!(chosen.len(), 3);
    for name in chosen {
        let count = name["pooled_at.".len()..].parse().expect("a number");
        let rows = pictures(expected, &with_patches(&model.image, count));
        let embeddings = model.vision.forward(&rows).expect("valid pictures");
        assert_close(&name, &flat(&embeddings), &expected.floats(&name).1);
    }
}

/// What others get wrong must change the vectors, or the comparisons above would prove nothing.
fn check_mistakes(expected: &Reference, pooled: &[f32]) {
    for name in ["mistake.unmasked", "mistake.not_antialiased"] {
        let difference = difference(pooled, &expected.floats(name).1);
        println!("{name}: {difference:.1e}");
        assert!(difference > 0.1, "{name} is off by {difference:e} only");
    }
}

#[test]
fn grids_smaller_than_the_stored_one() {
    check("naflex-down");
}

#[test]
fn grids_larger_than_the_stored_one_and_a_projection_bf16() {
    check("naflex-up");
}

#[test]
fn a_vision_tower_alone_f16() {
    check("naflex-vision-only");
}

#[test]
fn pictures_of_broken_patches_are_refused() {
    let (mut model, expected) = open("naflex-down");
    let row = pictures(&expected, &model.image).swap_remove(0);
    let refused = |row: Pixels, model: &mut Siglip| match model.vision.forward(&[row]) {
        Err(TowerError::Shape(message)) => message,
        other => panic!("{other:?}"),
    };
    let odd = Pixels { height: row.height + 1, ..row.clone() };
    assert!(refused(odd, &mut model).contains("multiples of 4"));
    let short = Pixels { data: row.data[1..].into(), ..row.clone() };
    refused(short, &mut model);
    let none = Pixels { height: 0, data: [].into(), ..row };
    refused(none, &mut model);
}

#[test]
fn pictures_of_unequal_size_have_no_common_stages() {
    let (model, expected) = open("naflex-down");
    let rows = pictures(&expected, &model.image);
    // 3 x 4 and 4 x 3 patches fit into one tensor, 3 x 3 does not.
    let alike = model.vision.stages(&rows[..2]).expect("equally many patches");
    assert_eq!(alike.last_hidden_state.shape[..2], [2, 12]);
    assert!(model.vision.stages(&rows[1..3]).is_err());
}

#[test]
fn the_tokenizer_of_the_second_siglip_knows_no_case() {
    let (model, _) = open("naflex-down");
    let tokenizer = model.tokenizer.expect("goes with the text tower");
    let ids =
        |text: &str| tokenizer.encode(&tokenizer.canonical(text)).expect("any text").ids.to_vec();
    assert_eq!(ids("A CAT"), ids("a cat"));
    assert_eq!(ids("a cat<eos>").iter().filter(|&&id| id == 1).count(), 1);
    assert_eq!(model.card.family, "siglip2");
}
