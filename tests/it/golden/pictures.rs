//! Compares decoding and resizing with Pillow and transformers.

use std::{fs, io::Cursor};

use image::{ImageFormat, RgbImage};
use siglip_server::preprocess::{self, Decoding, ImageLimits, ImageSpec, Resample, TargetSize};

use super::reference::{Reference, folder, row};

const LIMITS: ImageLimits =
    ImageLimits { max_bytes: 1 << 20, max_pixels: 1 << 24, max_decode_bytes: 1 << 26 };

/// Maximum difference in levels for a JPEG that is not resized, since nothing is averaged.
const WHOLE_JPEG_LEVELS: u8 = 24;

/// The largest difference in levels of 255.
pub(super) fn levels(bytes: &[u8], spec: &ImageSpec, expected: &[u8]) -> u8 {
    let prepared =
        preprocess::prepare(bytes, spec, &LIMITS, Decoding::Full).expect("a valid picture");
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
    let mut failures = Vec::new();
    for name in reference.names() {
        let bytes = fs::read(folder().join("decode").join(&name)).expect("a stored file");
        let (shape, expected) = reference.bytes(&name);
        // Some are not resized at all: 16 x 12, or the image's own size.
        let size = TargetSize::Fixed { height: shape[0] as u32, width: shape[1] as u32 };
        let spec = ImageSpec { size, ..ImageSpec::parse(b"{}", 1).expect("the defaults") };
        let most = levels(&bytes, &spec, &expected);
        let allowed = allowed(&name);
        row(&name, &format!("{most} levels"), &format!("{allowed} levels"));
        if most > allowed {
            failures.push(format!("{name}: {most} levels, {allowed} allowed"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Maximum difference of a file from Pillow's pixels in levels.
fn allowed(name: &str) -> u8 {
    let is_jpeg = name.ends_with("jpg");
    let has_inks = ["cmyk", "ycck"].iter().any(|kind| name.starts_with(kind));
    match is_jpeg {
        // Pillow's decoder, except for CMYK images.
        true if cfg!(feature = "turbojpeg") && !has_inks => 0,
        // Other decoders differ in the inverse transform and in chroma upsampling.
        true if name.starts_with("whole-") => WHOLE_JPEG_LEVELS,
        true => 6,
        false => 1,
    }
}
