//! Decoding and resizing against Pillow and transformers.

use std::{fs, io::Cursor};

use image::{ImageFormat, RgbImage};
use siglip_server::preprocess::{self, ImageLimits, ImageSpec, Resample, TargetSize};

use super::reference::{Reference, folder, row};

const LIMITS: ImageLimits =
    ImageLimits { max_bytes: 1 << 20, max_pixels: 1 << 24, max_decode_bytes: 1 << 26 };

/// The largest difference in levels of 255.
fn levels(bytes: &[u8], spec: &ImageSpec, expected: &[u8]) -> u8 {
    let prepared = preprocess::prepare(bytes, spec, &LIMITS).expect("a valid picture");
    assert_eq!(prepared.pixels.data.len(), expected.len());
    let pairs = prepared.pixels.data.iter().zip(expected);
    pairs.map(|(value, expected)| value.abs_diff(*expected)).max().unwrap_or(0)
}

#[test]
fn resizing_gives_pillows_pixels() {
    let reference = Reference::open("resize.safetensors");
    let mut failures = Vec::new();
    for name in reference.names() {
        let parts: Vec<&str> = name.split('.').collect();
        let &[kind, size, side, filter] = parts.as_slice() else { continue };
        let (shape, source) = reference.bytes(&format!("{kind}.{size}"));
        let picture = RgbImage::from_raw(shape[1] as u32, shape[0] as u32, source);
        let mut png = Cursor::new(Vec::new());
        let picture = picture.expect("width x height x 3 bytes");
        picture.write_to(&mut png, ImageFormat::Png).expect("a valid picture");
        let side = side.parse().expect("a number");
        let resample = if filter == "bicubic" { Resample::Bicubic } else { Resample::Bilinear };
        let spec = ImageSpec { resample, ..ImageSpec::parse(b"{}", side).expect("the defaults") };
        let most = levels(&png.into_inner(), &spec, &reference.bytes(&name).1);
        row(&name, &format!("{most} levels"), "1 level");
        if most > 1 {
            failures.push(format!("{name}: {most} levels"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn every_kind_of_file_becomes_pillows_pixels() {
    let reference = Reference::open("decode.safetensors");
    let size = TargetSize::Fixed { height: 16, width: 12 };
    let spec = ImageSpec { size, ..ImageSpec::parse(b"{}", 1).expect("the defaults") };
    let mut failures = Vec::new();
    for name in reference.names() {
        let bytes = fs::read(folder().join("decode").join(&name)).expect("a stored file");
        let most = levels(&bytes, &spec, &reference.bytes(&name).1);
        // JPEG decoders differ in the inverse transform and in how they widen the chroma.
        let allowed = if name.ends_with("jpg") { 6 } else { 1 };
        row(&name, &format!("{most} levels"), &format!("{allowed} levels"));
        if most > allowed {
            failures.push(format!("{name}: {most} levels, {allowed} allowed"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
