//! Every stage of a checkpoint of variable resolution, against transformers' padded and masked batches.

use std::io::Cursor;

use image::{ImageFormat, RgbImage};
use siglip_server::{
    model::{ResidentModel, Tower},
    preprocess::{self, Decoding, ImageLimits, ImageSpec, Pixels, TargetSize},
};

use super::{
    reference::{Judge, Reference, difference},
    stages::{check_texts, flat},
};

const LIMITS: ImageLimits =
    ImageLimits { max_bytes: 1 << 20, max_pixels: 1 << 24, max_decode_bytes: 1 << 26 };

/// The stored images as PNG.
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
pub(super) fn pictures(expected: &Reference, spec: &ImageSpec) -> Vec<Pixels> {
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
        other => panic!("one size: {other:?}"),
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

/// Compares an image's values with the first values of its row in a padded tensor `[batch, most, ..]`.
fn check_row(judge: &Judge, expected: &Reference, name: &str, (index, values): (usize, &[f32])) {
    let (shape, reference) = expected.floats(name);
    let row = &reference[index * shape[1] * shape[2]..][..values.len()];
    judge.close(&format!("{name}[{index}]"), values, row);
}

/// Compares every stage of every image, alone and together.
pub(super) fn check(judge: &Judge, name: &str) {
    let (mut model, expected) = judge.open(name);
    let rows = pictures(&expected, &model.image);
    let grids = expected.integers("spatial_shapes");
    assert_eq!(rows.len(), grids.len());
    let patch = patch_size(&model.image) as u32;
    for (index, (row, grid)) in rows.iter().zip(&grids).enumerate() {
        assert_eq!([row.height / patch, row.width / patch], grid[..], "picture {index}");
        check_row(judge, &expected, "pixel_values", (index, &patches(row, &model.image)));
        let stages = model.vision.stages(std::slice::from_ref(row)).expect("a valid picture");
        for (layer, state) in stages.hidden_states.iter().enumerate() {
            assert_eq!(state.shape[..2], [1, (grid[0] * grid[1]) as usize]);
            let name = format!("vision.hidden_state.{layer}");
            check_row(judge, &expected, &name, (index, &state.values));
        }
        let more = format!("vision.hidden_state.{}", stages.hidden_states.len());
        assert!(!expected.has(&more));
        let last = &stages.last_hidden_state.values;
        check_row(judge, &expected, "vision.last_hidden_state", (index, last));
    }
    let together = model.vision.forward(&rows).expect("valid pictures");
    let pooled = expected.floats("vision.pooled").1;
    judge.close("image embeddings", &flat(&together), &pooled);
    for (row, embedding) in rows.iter().zip(&together) {
        let alone = model.vision.forward(std::slice::from_ref(row)).expect("a valid picture");
        judge.same_row("alone and together", alone[0].as_slice(), embedding.as_slice());
    }
    check_resolutions(judge, &mut model, &expected);
    check_mistakes(&expected, &pooled);
    check_texts(judge, model, (&expected, &together));
}

/// The numbers of patches that a request may choose.
fn check_resolutions(judge: &Judge, model: &mut ResidentModel, expected: &Reference) {
    let chosen: Vec<_> =
        expected.names().into_iter().filter(|n| n.starts_with("pooled_at")).collect();
    assert_eq!(chosen.len(), 3);
    for name in chosen {
        let count = name["pooled_at.".len()..].parse().expect("a number");
        let rows = pictures(expected, &with_patches(&model.image, count));
        let embeddings = model.vision.forward(&rows).expect("valid pictures");
        judge.close(&name, &flat(&embeddings), &expected.floats(&name).1);
    }
}

/// Common mistakes must change the vectors, otherwise the comparisons above would prove nothing.
fn check_mistakes(expected: &Reference, pooled: &[f32]) {
    for name in ["mistake.unmasked", "mistake.not_antialiased"] {
        let difference = difference(pooled, &expected.floats(name).1);
        println!("{name}: {difference:.1e}");
        assert!(difference > 0.1, "{name} is off by {difference:e} only");
    }
}
