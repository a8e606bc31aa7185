//! Tests how much decoding at half the size changes an image.

use image::{RgbImage, imageops};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

use crate::preprocess::{
    Decoding, ImageError, ImageLimits, ImageSpec, Pixels, Resample, TargetSize, prepare,
};

#[path = "../../../../benches/pictures/photo.rs"]
mod photo;

const LIMITS: ImageLimits =
    ImageLimits { max_bytes: 1 << 24, max_pixels: 1 << 24, max_decode_bytes: 1 << 28 };

const SIDE: u32 = 224;

/// The chroma of an encoded image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subsamp {
    None,
    Sub2x1,
    Sub2x2,
    Gray,
}

fn spec(resample: Resample) -> ImageSpec {
    ImageSpec { resample, ..ImageSpec::parse(b"{}", SIDE).expect("the defaults") }
}

fn compressed(picture: &RgbImage, subsamp: Subsamp, progressive: bool) -> Vec<u8> {
    let [width, height] = [picture.width(), picture.height()]
        .map(|side| u16::try_from(side).expect("a side of a JPEG"));
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, 90);
    encoder.set_progressive(progressive);
    encoder.set_sampling_factor(match subsamp {
        Subsamp::None | Subsamp::Gray => SamplingFactor::R_4_4_4,
        Subsamp::Sub2x1 => SamplingFactor::R_4_2_2,
        Subsamp::Sub2x2 => SamplingFactor::R_4_2_0,
    });
    let grey = imageops::grayscale(picture);
    let encoded = if subsamp == Subsamp::Gray {
        encoder.encode(grey.as_raw(), width, height, ColorType::Luma)
    } else {
        encoder.encode(picture.as_raw(), width, height, ColorType::Rgb)
    };
    encoded.expect("encodes");
    bytes
}

/// White noise, unlike any photograph.
fn noise(width: u32, height: u32) -> RgbImage {
    let mut state = 1_u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    RgbImage::from_fn(width, height, |_, _| image::Rgb([byte(), byte(), byte()]))
}

fn prepared(bytes: &[u8], resample: Resample, decoding: Decoding) -> Pixels {
    let prepared = prepare(bytes, &spec(resample), &LIMITS, decoding).expect("a picture");
    prepared.pixels
}

/// The largest and the mean difference between fast and full decoding, in levels of 255.
fn levels(bytes: &[u8], resample: Resample) -> (u8, f64) {
    let [fast, full] =
        [Decoding::Fast, Decoding::Full].map(|decoding| prepared(bytes, resample, decoding));
    assert_ne!(fast, full, "halving was not noticed");
    let pairs = || fast.data.iter().zip(&*full.data).map(|(fast, full)| fast.abs_diff(*full));
    let sum: u64 = pairs().map(u64::from).sum();
    (pairs().max().unwrap_or_default(), sum as f64 / fast.data.len() as f64)
}

/// Prints a difference for docs/numerics.md and compares it with its limit.
fn within(name: &str, (most, mean): (u8, f64), bound: (u8, f64)) {
    println!("{name}: at most {most}, mean {mean:.3}");
    assert!(most <= bound.0 && mean <= bound.1, "{name}: {most}, {mean:.3}; bound {bound:?}");
}

#[test]
fn half_the_size_moves_a_photograph_by_few_levels() {
    // The change is largest at exactly four times the target. Odd sides end within a pixel.
    for (width, height) in [(896, 896), (901, 899)] {
        let picture = photo::photo(width, height);
        for subsamp in [Subsamp::None, Subsamp::Sub2x1, Subsamp::Sub2x2, Subsamp::Gray] {
            for resample in [Resample::Bicubic, Resample::Bilinear] {
                let name = format!("photograph, {width} x {height}, {subsamp:?}, {resample:?}");
                within(&name, levels(&compressed(&picture, subsamp, false), resample), (10, 0.5));
            }
        }
    }
}

#[test]
fn half_the_size_of_white_noise_is_the_worst_case() {
    for (width, height) in [(896, 896), (901, 899)] {
        let picture = noise(width, height);
        for subsamp in [Subsamp::None, Subsamp::Sub2x1, Subsamp::Sub2x2] {
            let name = format!("white noise, {width} x {height}, {subsamp:?}");
            let bytes = compressed(&picture, subsamp, false);
            within(&name, levels(&bytes, Resample::Bicubic), (48, 6.5));
        }
    }
}

#[test]
fn the_sample_pictures_keep_their_levels() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images");
    for name in ["dog.jpg", "car.png", "pizza.webp"] {
        let picture = image::open(format!("{folder}/{name}")).expect("a picture").into_rgb8();
        let large = imageops::resize(&picture, 900, 900, imageops::FilterType::CatmullRom);
        let bytes = compressed(&large, Subsamp::Sub2x2, false);
        within(name, levels(&bytes, Resample::Bicubic), (20, 0.2));
    }
}

#[test]
fn a_picture_below_four_times_the_target_is_decoded_in_full() {
    for (width, height) in [(895, 896), (896, 895), (224, 224), (100, 3000)] {
        let bytes = compressed(&photo::photo(width, height), Subsamp::Sub2x2, true);
        let [fast, full] = [Decoding::Fast, Decoding::Full]
            .map(|decoding| prepared(&bytes, Resample::Bicubic, decoding));
        assert_eq!(fast, full, "{width} x {height}");
    }
}

#[test]
fn the_pixels_of_the_header_are_counted() {
    let bytes = compressed(&photo::photo(1001, 901), Subsamp::Sub2x2, false);
    let prepared = prepare(&bytes, &spec(Resample::Bicubic), &LIMITS, Decoding::Fast);
    assert_eq!(prepared.expect("a picture").source_pixels, 1001 * 901);
    let tight = ImageLimits { max_pixels: 1000 * 900, ..LIMITS };
    let error = prepare(&bytes, &spec(Resample::Bicubic), &tight, Decoding::Fast);
    assert!(matches!(error, Err(ImageError::TooManyPixels { width: 1001, height: 901, .. })));
}

#[test]
fn a_picture_of_many_scans_is_refused() {
    let bytes = compressed(&photo::photo(64, 64), Subsamp::None, true);
    let scan = bytes.windows(2).rposition(|pair| pair == [0xFF, 0xDA]).expect("a scan");
    let (head, end) = bytes.split_at(bytes.len() - 2);
    let many = [head, &head[scan..].repeat(200), end].concat();
    let error = prepare(&many, &spec(Resample::Bicubic), &LIMITS, Decoding::Full);
    assert!(matches!(error, Err(ImageError::Damaged { .. })), "{error:?}");
}

#[test]
fn damage_within_the_data_never_panics() {
    let spec =
        ImageSpec { size: TargetSize::Fixed { height: 8, width: 8 }, ..spec(Resample::Bicubic) };
    for progressive in [false, true] {
        let whole = compressed(&photo::photo(48, 40), Subsamp::Sub2x2, progressive);
        for at in 2..whole.len() {
            for value in [0x00, 0xFF, 0xD9, whole[at] ^ 0x11] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                drop(prepare(&bytes, &spec, &LIMITS, Decoding::Fast));
            }
        }
    }
}
