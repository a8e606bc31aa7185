//! Tests formats, limits and damage. The golden tests compare pixels with Pillow.

use std::io::Cursor;

use image::{DynamicImage, ExtendedColorType, ImageBuffer, ImageEncoder, ImageFormat, Rgb, Rgba};

use super::*;

const LIMITS: ImageLimits =
    ImageLimits { max_bytes: 1 << 20, max_pixels: 10_000, max_decode_bytes: 1 << 20 };

const ALL: [ImageFormat; 6] = [
    ImageFormat::Png,
    ImageFormat::Jpeg,
    ImageFormat::WebP,
    ImageFormat::Gif,
    ImageFormat::Bmp,
    ImageFormat::Tiff,
];

fn spec(height: u32, width: u32) -> ImageSpec {
    ImageSpec {
        size: TargetSize::Fixed { height, width },
        resample: Resample::Bicubic,
        rescale: 1.0 / 255.0,
        mean: [0.5; 3],
        std: [0.5; 3],
    }
}

/// 4 columns, 2 rows: the left half red, the right half blue.
fn flag() -> DynamicImage {
    DynamicImage::ImageRgb8(ImageBuffer::from_fn(4, 2, |x, _| {
        if x < 2 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) }
    }))
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).expect("encodes");
    bytes.into_inner()
}

fn prepared(bytes: &[u8]) -> Pixels {
    prepare(bytes, &spec(2, 4), &LIMITS, Decoding::Full).expect("prepares").pixels
}

#[test]
fn every_format_is_read() {
    for format in ALL {
        let pixels = prepared(&encoded(&flag(), format));
        let (left, right) = (&pixels.data[..3], &pixels.data[9..12]);
        assert!(left[0] > 200 && left[2] < 60, "{format:?} {left:?}");
        assert!(right[2] > 200 && right[0] < 60, "{format:?} {right:?}");
    }
}

#[test]
fn grey_deep_and_palette_pictures_become_rgb() {
    let grey = DynamicImage::ImageLuma8(ImageBuffer::from_pixel(4, 2, image::Luma([77])));
    assert_eq!(prepared(&encoded(&grey, ImageFormat::Png)).data[..3], [77; 3]);
    let deep = DynamicImage::ImageRgb16(ImageBuffer::from_pixel(4, 2, Rgb([0x12FF, 0x8000, 0])));
    assert_eq!(prepared(&encoded(&deep, ImageFormat::Png)).data[..3], [0x12, 0x80, 0]);
    let deep = DynamicImage::ImageLuma16(ImageBuffer::from_pixel(4, 2, image::Luma([0x4DFF])));
    assert_eq!(prepared(&encoded(&deep, ImageFormat::Png)).data[..3], [0x4D; 3]);
}

#[test]
fn alpha_is_composited_on_white() {
    let picture = DynamicImage::ImageRgba8(ImageBuffer::from_fn(4, 2, |x, _| {
        Rgba([0, 0, 0, [0, 128, 255, 255][x as usize]])
    }));
    let pixels = prepared(&encoded(&picture, ImageFormat::Png));
    assert_eq!(pixels.data[..9], [255, 255, 255, 127, 127, 127, 0, 0, 0]);
}

/// A JPEG with an EXIF block that has only an orientation.
fn jpeg_with_orientation(orientation: u8) -> Vec<u8> {
    let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    let mut bytes = Vec::new();
    let picture =
        image::imageops::resize(&flag().into_rgb8(), 32, 16, image::imageops::FilterType::Nearest);
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 95);
    encoder.set_exif_metadata(exif).expect("has a place for it");
    encoder.write_image(&picture, 32, 16, ExtendedColorType::Rgb8).expect("encodes");
    bytes
}

#[test]
fn pictures_are_turned_upright() {
    // Whether a pixel is red: checked for each of the eight orientations.
    let red_at = |bytes: &[u8], index: usize| {
        let pixels = prepare(bytes, &spec(4, 4), &LIMITS, Decoding::Full).expect("prepares").pixels;
        pixels.data[index * 3] > 180 && pixels.data[index * 3 + 2] < 80
    };
    for (orientation, row, column) in
        [(1, 1, 0), (2, 1, 3), (3, 1, 3), (4, 1, 0), (5, 0, 1), (6, 0, 1), (7, 3, 1), (8, 3, 1)]
    {
        let bytes = jpeg_with_orientation(orientation);
        assert!(red_at(&bytes, row * 4 + column), "orientation {orientation}");
    }
}

#[test]
fn an_animation_gives_its_first_frame() {
    let mut bytes = Vec::new();
    let frame = |colour| image::Frame::new(ImageBuffer::from_pixel(4, 2, Rgba(colour)));
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
    encoder.encode_frames([frame([255, 0, 0, 255]), frame([0, 0, 255, 255])]).expect("encodes");
    drop(encoder);
    assert_eq!(prepared(&bytes).data[..3], [255, 0, 0]);
}

#[test]
fn one_pixel_is_a_picture() {
    let dot = DynamicImage::ImageRgb8(ImageBuffer::from_pixel(1, 1, Rgb([9, 8, 7])));
    let pixels = prepare(&encoded(&dot, ImageFormat::Png), &spec(16, 16), &LIMITS, Decoding::Full)
        .expect("ok");
    assert!(pixels.pixels.data.chunks(3).all(|pixel| pixel == [9, 8, 7]));
    assert_eq!(pixels.source_pixels, 1);
}

#[test]
fn limits_are_checked_before_decoding() {
    let large = encoded(&DynamicImage::new_rgb8(101, 100), ImageFormat::Png);
    let error = prepare(&large, &spec(2, 2), &LIMITS, Decoding::Full).expect_err("too many pixels");
    assert!(matches!(error, ImageError::TooManyPixels { width: 101, height: 100, .. }), "{error}");

    let tight = ImageLimits { max_decode_bytes: 100, ..LIMITS };
    let error = prepare(
        &encoded(&DynamicImage::new_rgb8(50, 50), ImageFormat::Png),
        &spec(2, 2),
        &tight,
        Decoding::Full,
    );
    assert!(matches!(error, Err(ImageError::TooMuchMemory { .. })));

    let tight = ImageLimits { max_bytes: 10, ..LIMITS };
    let error = prepare(&large, &spec(2, 2), &tight, Decoding::Full).expect_err("too many bytes");
    assert!(matches!(error, ImageError::TooManyBytes { limit: 10, .. }));
}

#[test]
fn a_header_that_claims_the_moon_is_refused_by_its_size() {
    // A PNG header of 65,535 x 65,535 with a right checksum and no data behind it.
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff\xff\0\0\xff\xff\x08\x02\0\0\0".to_vec();
    png.extend(crc32(&png[12..]).to_be_bytes());
    png.extend(b"\0\0\0\0IDAT");
    png.extend(crc32(b"IDAT").to_be_bytes());
    let error = prepare(&png, &spec(2, 2), &LIMITS, Decoding::Full).expect_err("too large");
    assert!(
        matches!(error, ImageError::TooManyPixels { .. } | ImageError::TooMuchMemory { .. }),
        "{error}"
    );
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, &byte: &u8| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 }
        })
    };
    !bytes.iter().fold(!0, step)
}

#[test]
fn what_is_no_picture_is_named_so() {
    for bytes in [&b"<svg xmlns='http://www.w3.org/2000/svg'/>"[..], b"<html>", b"%PDF-1.7", b"\0"]
    {
        let error = prepare(bytes, &spec(2, 2), &LIMITS, Decoding::Full).expect_err("no picture");
        assert!(matches!(error, ImageError::UnknownFormat(_)), "{error}");
    }
    assert!(matches!(prepare(b"", &spec(2, 2), &LIMITS, Decoding::Full), Err(ImageError::Empty)));
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif] {
        let whole = encoded(&flag(), format);
        for length in 0..whole.len() {
            // Some formats can be cut within their trailer; what matters is that nothing panics.
            drop(prepare(&whole[..length], &spec(2, 4), &LIMITS, Decoding::Full));
        }
        let half = prepare(&whole[..whole.len() / 2], &spec(2, 4), &LIMITS, Decoding::Full);
        assert!(matches!(half, Err(ImageError::Damaged { .. })), "{format:?}");
    }
}

/// Decoders' own messages change with their versions and do not help a client.
#[test]
fn damage_is_said_in_plain_words() {
    let message = |bytes: &[u8]| {
        let error = prepare(bytes, &spec(2, 4), &LIMITS, Decoding::Full).expect_err("damaged");
        error.to_string()
    };
    for format in ALL {
        let whole = encoded(&flag(), format);
        let name = formats::name(formats::Format::Library(format));
        let early = message(&whole[..whole.len() / 2]);
        assert_eq!(early, format!("the image cannot be decoded: the {name} data ends early"));
        // Whatever follows the signature, no message of a decoder reaches the client.
        for at in 8..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            let Err(error) = prepare(&bytes, &spec(2, 4), &LIMITS, Decoding::Full) else {
                continue;
            };
            if let ImageError::Damaged { reason } = error {
                let words = ["rror", "::", "nvalid", "xpected", "{", "IO"];
                let foreign = words.iter().any(|word| reason.contains(word));
                assert!(!foreign && reason.is_ascii(), "{reason}");
                assert!(reason.contains(name) || reason == "it has no pixels", "{reason}");
            }
        }
    }
}

#[test]
fn every_list_of_formats_is_the_one_in_the_code() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    for file in ["docs/api.md", "README.md", "proto/siglip/v1/embedding.proto"] {
        let text = std::fs::read_to_string(format!("{root}{file}")).expect(file);
        for name in formats() {
            assert!(text.contains(name), "{file} does not list {name}");
        }
    }
    for file in ["docs/api.md", "README.md"] {
        let text = std::fs::read_to_string(format!("{root}{file}")).expect(file);
        assert!(text.contains(&format!("({})", formats::Listed)), "{file}: an example's list");
    }
}
