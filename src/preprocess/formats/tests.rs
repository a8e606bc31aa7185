//! Compares HEIC, AVIF and JPEG XL files that libheif, libavif and libjxl wrote with Pillow's pixels.
//! `tests/fixtures/formats/make.py` writes them.

use std::{fs, path::PathBuf};

use super::super::{
    Decoding, ImageError, ImageLimits, ImageSpec, Prepared, Resample, TargetSize, inspect,
    looks_like_an_image, prepare, size,
};

const LIMITS: ImageLimits =
    ImageLimits { max_bytes: 1 << 20, max_pixels: 1 << 20, max_decode_bytes: 64 << 20 };

/// The formats of this build.
const EXTENSIONS: &[&str] = &[
    #[cfg(feature = "heic")]
    "heic",
    #[cfg(feature = "avif")]
    "avif",
    #[cfg(feature = "jxl")]
    "jxl",
];

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/formats");

/// Files of a format in the folder of samples.
fn samples(extension: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(FOLDER);
    let mut found: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    found.sort();
    assert!(found.len() >= 15, "{} of {extension}", found.len());
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).expect("readable");
        (path.to_str().expect("utf-8").to_owned(), bytes)
    };
    found.into_iter().map(read).collect()
}

/// An image at its own size.
fn prepared(bytes: &[u8], height: u32, width: u32) -> Result<Prepared, ImageError> {
    let spec = ImageSpec {
        size: TargetSize::Fixed { height, width },
        resample: Resample::Bicubic,
        rescale: 1.0 / 255.0,
        mean: [0.5; 3],
        std: [0.5; 3],
    };
    prepare(bytes, &spec, &LIMITS, Decoding::Full)
}

/// Compares every file with Pillow's pixels.
///
/// * `most`: the maximum difference of a sample, in levels
fn compare(extension: &str, most: impl Fn(&str) -> u8) {
    for (name, bytes) in samples(extension) {
        assert!(looks_like_an_image(&bytes[..32.min(bytes.len())]), "{name}");
        let reference = fs::read(format!("{name}.png")).expect("a reference");
        let (width, height) = size(&reference).expect("a PNG");
        let [ours, theirs] = [&bytes, &reference]
            .map(|bytes| prepared(bytes, height, width).unwrap_or_else(|e| panic!("{name}: {e}")));
        assert_eq!(ours.source_pixels, u64::from(width * height), "{name}");
        let apart = ours.pixels.data.iter().zip(&*theirs.pixels.data);
        let apart = apart.map(|(a, b)| a.abs_diff(*b)).max();
        assert!(apart <= Some(most(&name)), "{name}: {apart:?} levels");
    }
}

#[cfg(feature = "heic")]
#[test]
fn heic_is_read_as_pillow_reads_it() {
    compare("heic", |_| 3);
}

#[cfg(feature = "avif")]
#[test]
fn avif_is_read_as_pillow_reads_it() {
    compare("avif", |_| 3);
}

#[cfg(feature = "jxl")]
#[test]
fn jpeg_xl_is_read_as_pillow_reads_it() {
    compare("jxl", |name| match name {
        // A file made from a JPEG: Pillow's reader restores the JPEG and decodes that, while the reference pixels are
        // those of libjxl, so the two differ by rounding.
        _ if name.contains("from-jpeg") => 6,
        _ if name.contains("lossless") => 0,
        // The reference is the image before encoding, because libjxl does not return its colours.
        _ if name.ends_with("wide-profile.jxl") => 32,
        _ => 2,
    });
}

#[cfg(feature = "jxl")]
#[test]
fn jpeg_xl_in_colours_without_a_way_to_them_is_refused() {
    for (name, reason) in [
        ("hlg", "JPEG XL in high dynamic range is not supported; save it as JPEG or PNG"),
        ("pq", "JPEG XL in high dynamic range is not supported; save it as JPEG or PNG"),
        (
            "profile",
            "JPEG XL in the colours of a profile of its own is not supported; save it as PNG",
        ),
    ] {
        let bytes = fs::read(format!("{FOLDER}/refused/{name}.jxl")).expect("readable");
        let error = inspect(&bytes, &LIMITS).expect_err(name).to_string();
        assert_eq!(error, format!("the image cannot be decoded: {reason}"));
    }
}

/// A damaged file is refused or read, and makes no decoder panic. Decoders that may end the process are tested
/// in decode processes.
#[test]
fn what_is_damaged_makes_no_decoder_panic() {
    let mut dice = 0x9e37_79b9_u32;
    let mut below = move |end: usize| {
        dice ^= dice << 13;
        dice ^= dice >> 17;
        dice ^= dice << 5;
        dice as usize % end
    };
    for &extension in EXTENSIONS.iter().filter(|&&extension| extension != "avif") {
        for (_, bytes) in samples(extension) {
            for _ in 0..6 {
                let mut bytes = bytes.clone();
                for _ in 0..=below(8) {
                    let at = below(bytes.len());
                    bytes[at] = below(256) as u8;
                }
                let _ = prepared(&bytes, 8, 8);
            }
        }
    }
}

#[test]
fn what_is_cut_is_refused() {
    for &extension in EXTENSIONS {
        for (name, bytes) in samples(extension).into_iter().step_by(5) {
            for quarter in 1..4 {
                let cut = &bytes[..bytes.len() * quarter / 4];
                let error = prepared(cut, 8, 8).expect_err(&name);
                let known =
                    matches!(error, ImageError::Damaged { .. } | ImageError::UnknownFormat(_));
                assert!(known, "{name}: {error}");
            }
        }
    }
}

#[test]
fn limits_hold_before_a_pixel_is_decoded() {
    for &extension in EXTENSIONS {
        for (name, bytes) in
            samples(extension).into_iter().filter(|(name, _)| !name.contains("one-pixel"))
        {
            let Ok(header) = inspect(&bytes, &LIMITS) else { continue };
            let tight = ImageLimits { max_pixels: header.pixels - 1, ..LIMITS };
            let error = inspect(&bytes, &tight).expect_err("too many pixels");
            assert!(matches!(error, ImageError::TooManyPixels { .. }), "{name}: {error}");
            let tight = ImageLimits { max_decode_bytes: header.decode_bytes - 1, ..LIMITS };
            let error = inspect(&bytes, &tight).expect_err("too much memory");
            assert!(matches!(error, ImageError::TooMuchMemory { .. }), "{name}: {error}");
        }
    }
}

/// A file with a box's contents changed.
fn with(bytes: &[u8], name: &[u8; 4], at: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let start = bytes.windows(4).position(|found| found == name).expect("the box") + 4 + at;
    bytes[start..start + value.len()].copy_from_slice(value);
    bytes
}

#[cfg(all(feature = "heic", feature = "avif"))]
#[test]
fn containers_that_lie_are_refused() {
    let sample = |extension: &str, name: &str| {
        let found = samples(extension).into_iter().find(|(path, _)| path.ends_with(name));
        found.expect(name).1
    };
    let (heic, avif) = (sample("heic", "/imir-0.heic"), sample("avif", "/imir-0.avif"));
    let grid = sample("heic", "/grid.heic");
    let side = |value: u32| value.to_be_bytes();
    for (what, bytes) in [
        // The header's size differs from that of the coded image.
        ("narrow", with(&heic, b"ispe", 4, &side(8))),
        ("wide", with(&heic, b"ispe", 4, &side(900))),
        ("narrow AVIF", with(&avif, b"ispe", 4, &side(8))),
        ("wide AVIF", with(&avif, b"ispe", 4, &side(900))),
        ("no pixels", with(&heic, b"ispe", 4, &side(0))),
        ("the moon", with(&heic, b"ispe", 4, &side(u32::MAX))),
        ("too many items", with(&heic, b"iinf", 0, &[1, 0, 0, 0, 0, 1, 0, 0])),
        ("another coding", with(&heic, b"infe", 8, b"jpeg")),
        ("no primary item", with(&heic, b"pitm", 4, &[0, 9])),
        ("tiles that do not cover", with(&grid, b"mdat", grid_at(&grid), &side(0x0100_0100))),
    ] {
        let refused = prepared(&bytes, 8, 8);
        assert!(refused.is_err(), "{what}");
    }
    // The first box decides which decoder runs.
    for (bytes, brand, name) in [(avif, b"heic", "HEIC"), (heic, b"avif", "AVIF")] {
        let error = prepared(&with(&bytes, b"ftyp", 0, brand), 8, 8).expect_err("another coding");
        assert_eq!(
            error.to_string(),
            format!(
                "the image cannot be decoded: this {name} file is not supported (it is coded in another way than \
                 it says); convert it to JPEG or PNG"
            )
        );
    }
}

#[cfg(feature = "avif")]
#[test]
fn only_avif_is_kept_from_threads() {
    for &extension in EXTENSIONS {
        let expected = (extension == "avif").then_some("AVIF");
        for (name, bytes) in samples(extension) {
            assert_eq!(super::super::may_abort(&bytes), expected, "{name}");
        }
    }
}

/// The offset of the grid's sizes: after the name of the data box, at its end.
#[cfg(all(feature = "heic", feature = "avif"))]
fn grid_at(bytes: &[u8]) -> usize {
    let start = bytes.windows(4).position(|found| found == b"mdat").expect("data") + 4;
    bytes.len() - 4 - start
}
