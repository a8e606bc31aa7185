//! Compares thousands of layouts with Pillow's pixels, and checks which files are refused.

#[cfg(feature = "turbojpeg")]
mod half;

use std::{collections::BTreeMap, env, fs, io::Read};

use flate2::read::ZlibDecoder;
use image::{DynamicImage, RgbImage};

use super::{
    super::{ImageLimits, decode},
    *,
};

const LIMITS: ImageLimits =
    ImageLimits { max_bytes: 1 << 20, max_pixels: 1 << 20, max_decode_bytes: 1 << 26 };

/// Maximum difference in levels between the decoder of ordinary files (without `turbojpeg`) and Pillow:
/// docs/numerics.md.
const LEVELS: u8 = 40;

/// A file that `tests/golden/jpeg/generate.py` generated.
struct Drawn {
    name: String,
    bytes: Vec<u8>,
    pillow_refuses: bool,
    right: Option<RgbImage>,
}

fn drawn() -> Vec<Drawn> {
    let stored = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/jpeg/stored.bin");
    let path = env::var("SIGLIP_JPEG_FILES").unwrap_or_else(|_| stored.to_owned());
    let mut data = Vec::new();
    let file = fs::File::open(&path).expect("the drawn files");
    ZlibDecoder::new(file).read_to_end(&mut data).expect("deflated");
    let mut rest = &data[..];
    let mut take = |count: usize| {
        let (head, tail) = rest.split_at(count);
        rest = tail;
        head.to_vec()
    };
    let number =
        |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
    let mut found = Vec::new();
    let mut left = data.len();
    while left > 0 {
        let length = number(&take(2));
        let name = String::from_utf8(take(length)).expect("utf-8");
        let size = number(&take(4));
        let bytes = take(size);
        let pillow_refuses = take(1) == [1];
        let (width, height) = (number(&take(2)), number(&take(2)));
        let pixels = take(width * height * 3);
        left -= 2 + name.len() + 4 + bytes.len() + 1 + 4 + pixels.len();
        let right = RgbImage::from_raw(width as u32, height as u32, pixels);
        let right = right.filter(|image| image.width() > 0);
        found.push(Drawn { name, bytes, pillow_refuses, right });
    }
    found
}

/// Decodes as builds with `turbojpeg` do.
fn by_library(bytes: &[u8]) -> Result<RgbImage, Refusal> {
    let layout = Layout::read(bytes)?;
    let (width, height) = (u32::from(layout.width), u32::from(layout.height));
    let mut pixels = vec![0; (width * height * 3) as usize];
    let max_bytes = LIMITS.max_decode_bytes;
    library::decode(
        &library::Request {
            bytes,
            layout: &layout,
            colours: library::Colours::Own,
            halve: false,
            max_bytes,
        },
        &mut pixels,
    )?;
    let image = RgbImage::from_raw(width, height, pixels).expect("three bytes a pixel");
    let mut image = DynamicImage::ImageRgb8(image);
    let mut decoder = JpegDecoder::new(bytes, max_bytes).expect("it was read");
    image.apply_orientation(decoder.orientation().expect("known"));
    Ok(image.into_rgb8())
}

fn levels(found: &RgbImage, right: &RgbImage) -> u8 {
    assert_eq!(found.dimensions(), right.dimensions());
    let pairs = found.as_raw().iter().zip(right.as_raw());
    pairs.map(|(found, right)| found.abs_diff(*right)).max().unwrap_or(0)
}

#[test]
fn every_layout_is_pillows_image_or_refused() {
    let (mut counts, mut failures) = (BTreeMap::<String, usize>::new(), Vec::new());
    for Drawn { name, bytes, pillow_refuses, right } in drawn() {
        let served = decode::decode(&bytes, &LIMITS, |_| false);
        let library = by_library(&bytes);
        if served.is_ok() != library.is_ok() {
            failures.push(format!("{name}: builds differ: {:?}, {:?}", served.is_ok(), library));
        }
        let verdict = match (&served, &right) {
            (Ok(served), Some(right)) => match levels(&served.picture, right) {
                0 => "equal".to_owned(),
                most if most <= LEVELS => format!("within {LEVELS} levels"),
                // Bits were changed within the data in a way that no decoder notices. Each version of each
                // decoder gives other pixels.
                _ if name.ends_with("-damaged") => "unnoticed damage".to_owned(),
                most => {
                    failures.push(format!("{name}: {most} levels"));
                    "wrong".to_owned()
                }
            },
            (Ok(_), None) => {
                failures.push(format!("{name}: answered, which Pillow refuses"));
                "answered without cause".to_owned()
            }
            (Err(error), _) => error.to_string(),
        };
        if let (Ok(library), Some(right)) = (&library, &right)
            && levels(library, right) > 0
            && !name.ends_with("-damaged")
        {
            failures.push(format!("{name}: libjpeg: {} levels", levels(library, right)));
        }
        let pillow = if pillow_refuses { "refused by Pillow" } else { "read by Pillow" };
        *counts.entry(format!("{pillow}: {verdict}")).or_default() += 1;
    }
    for (verdict, count) in &counts {
        println!("{count:6} {verdict}");
    }
    println!("{failures:#?}");
    assert!(failures.is_empty(), "{} failures", failures.len());
}

/// A JFIF header means that the colours are YCbCr. Pillow ignores an Adobe marker that contradicts it.
#[test]
fn jfif_decides_before_adobe() {
    let [width, height] = [64_u16, 48];
    let gradient = |index: usize| (index * 7 % 251) as u8;
    let picture: Vec<u8> =
        (0..usize::from(width) * usize::from(height) * 3).map(gradient).collect();
    let mut plain = Vec::new();
    jpeg_encoder::Encoder::new(&mut plain, 90)
        .encode(&picture, width, height, jpeg_encoder::ColorType::Rgb)
        .expect("encodes");
    assert_eq!(plain[6..10], *b"JFIF");
    let right = decode::decode(&plain, &LIMITS, |_| false).expect("an image").picture;
    let behind_jfif = 4 + usize::from(u16::from_be_bytes([plain[4], plain[5]]));
    for transform in 0..=2 {
        let adobe = [&b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"[..], &[transform]].concat();
        let both = [&plain[..behind_jfif], &adobe, &plain[behind_jfif..]].concat();
        let found = decode::decode(&both, &LIMITS, |_| false).expect("an image").picture;
        let differs = found.iter().zip(right.iter()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(differs.is_some_and(|levels| levels <= LEVELS), "{transform}: {differs:?}");
    }
}
