//! Measures the memory of the decode process: no image takes more memory than the server counts for it.

use std::{fs, io::Cursor, path::Path};

use image::{DynamicImage, ExtendedColorType, ImageEncoder as _, ImageFormat, codecs::webp};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use reqwest::{Client, StatusCode};
use siglip_server::{
    decoder::Decoder,
    preprocess::{self, ImageLimits},
};
use weezl::BitOrder;

use super::{QUIET, bombs, embed, only_child};
use crate::{app, hostile, process::Server};

/// The limits of a server without options.
const LIMITS: ImageLimits =
    ImageLimits { max_bytes: 20 << 20, max_pixels: 50_000_000, max_decode_bytes: 512 << 20 };
/// Memory that a process needs for any image: tables, a few rows, the allocator's rounding.
const SLACK_BYTES: u64 = 3 << 19;
const WIDTH: u32 = 1600;
const HEIGHT: u32 = 1500;

fn status_bytes(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).expect("a line");
    kib.parse::<u64>().expect("a number") << 10
}

/// Values that repeat often, but not always, so that the file is small.
fn shade(x: u32, y: u32) -> u8 {
    (x / 64 * 7 + y / 64 * 13) as u8
}

fn written(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).expect("written to memory");
    bytes.into_inner()
}

fn jpeg(color: ColorType, sampling: SamplingFactor, progressive: bool) -> Vec<u8> {
    let channels = match color {
        ColorType::Luma => 1,
        ColorType::Rgb => 3,
        _ => 4,
    };
    let pixel = |at: usize| shade(at as u32 % WIDTH, at as u32 / WIDTH);
    let pixels = (WIDTH * HEIGHT) as usize;
    let samples: Vec<_> =
        (0..pixels).flat_map(|at| std::iter::repeat_n(pixel(at), channels)).collect();
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, 80);
    encoder.set_sampling_factor(sampling);
    encoder.set_progressive(progressive);
    encoder.encode(&samples, WIDTH as u16, HEIGHT as u16, color).expect("written to memory");
    bytes
}

/// Rotated by 90 degrees with an Exif block.
fn turned(jpeg: &[u8]) -> Vec<u8> {
    let exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let length = (exif.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], b"\xff\xe1", &length, exif, &jpeg[2..]].concat()
}

/// A TIFF of one LZW strip with this many 8-bit samples per pixel.
fn tiff(samples: u32) -> Vec<u8> {
    let pixels = vec![7; (WIDTH * HEIGHT * samples) as usize];
    let strip = weezl::encode::Encoder::with_tiff_size_switch(BitOrder::Msb, 8)
        .encode(&pixels)
        .expect("written to memory");
    // After the tags.
    let start = 8 + 2 + 11 * 12 + 4;
    let length = u32::try_from(strip.len()).expect("short");
    let tags = [
        (256_u16, 4_u16, 1, WIDTH),
        (257, 4, 1, HEIGHT),
        (258, 3, 1, 8),
        (259, 3, 1, 5),
        (262, 3, 1, 1),
        (273, 4, 1, start),
        (277, 3, 1, samples),
        (278, 4, 1, HEIGHT),
        (279, 4, 1, length),
        (284, 3, 1, 1),
        // The samples after the first are extra samples that are not shown.
        (338, 3, samples - 1, start + length),
    ];
    bombs::tiff(&tags, &[&strip[..], &[0; 32]].concat())
}

fn generated() -> Vec<(String, Vec<u8>)> {
    let rgb = || DynamicImage::new_rgb8(WIDTH, HEIGHT);
    let mut lossless = Vec::new();
    let pixels: Vec<_> = (0..WIDTH * HEIGHT * 4)
        .map(|at| if at % 4 == 3 { 99 } else { shade(at / 4 % WIDTH, at / 4 / WIDTH) })
        .collect();
    webp::WebPEncoder::new_lossless(&mut lossless)
        .write_image(&pixels, WIDTH, HEIGHT, ExtendedColorType::Rgba8)
        .expect("written to memory");
    let progressive = jpeg(ColorType::Rgb, SamplingFactor::F_1_1, true);
    let mut images = vec![
        ("png, rgb", written(rgb(), ImageFormat::Png)),
        ("png, rgba", written(DynamicImage::new_rgba8(WIDTH, HEIGHT), ImageFormat::Png)),
        ("png, 16 bits", written(DynamicImage::new_rgb16(WIDTH, HEIGHT), ImageFormat::Png)),
        ("png, rgba, 16 bits", written(DynamicImage::new_rgba16(WIDTH, HEIGHT), ImageFormat::Png)),
        (
            "png, grey, alpha, 16 bits",
            written(DynamicImage::new_luma_a16(WIDTH, HEIGHT), ImageFormat::Png),
        ),
        ("png, grey, alpha", written(DynamicImage::new_luma_a8(WIDTH, HEIGHT), ImageFormat::Png)),
        ("png, grey", written(DynamicImage::new_luma8(WIDTH, HEIGHT), ImageFormat::Png)),
        ("png, a row", written(DynamicImage::new_rgb8(1_000_000, 1), ImageFormat::Png)),
        ("png, a column", written(DynamicImage::new_rgb8(1, 1_000_000), ImageFormat::Png)),
        ("gif", written(DynamicImage::new_rgba8(WIDTH, HEIGHT), ImageFormat::Gif)),
        ("bmp", written(rgb(), ImageFormat::Bmp)),
        ("webp, lossless", written(rgb(), ImageFormat::WebP)),
        ("webp, lossless, alpha", lossless),
        ("jpeg", jpeg(ColorType::Rgb, SamplingFactor::F_2_2, false)),
        ("jpeg, grey", jpeg(ColorType::Luma, SamplingFactor::F_1_1, false)),
        ("jpeg, cmyk", jpeg(ColorType::Cmyk, SamplingFactor::F_1_1, false)),
        ("jpeg, cmyk, progressive", jpeg(ColorType::Cmyk, SamplingFactor::F_1_1, true)),
        ("jpeg, progressive, turned", turned(&progressive)),
        ("jpeg, progressive", progressive),
        ("tiff", written(rgb(), ImageFormat::Tiff)),
        ("tiff, one strip", tiff(4)),
        ("tiff, samples that are not shown", tiff(12)),
    ]
    .into_iter()
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .collect::<Vec<_>>();
    images.push(("tiff, small strips".to_owned(), bombs::tiff_of_shared_rows(2, 64)));
    images
}

/// Files that are mostly refused.
fn hostile() -> Vec<(String, Vec<u8>)> {
    let inflated = hostile::inflated().into_iter().map(|bytes| ("inflated".to_owned(), bytes));
    let hostile = [hostile::bombs(), hostile::impostors()].into_iter().flatten();
    inflated.chain(hostile.map(|hostile| (hostile.name, hostile.bytes))).collect()
}

fn files(folder: &str) -> Vec<(String, Vec<u8>)> {
    let file = |path: &Path| (path.display().to_string(), fs::read(path).expect("readable"));
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("a file").path()).filter(|path| path.is_file());
    paths.map(|path| file(&path)).collect()
}

/// By how much the peak memory of a process grows for an image. `None` if the image is refused.
async fn taken(client: &Client, server: &Server, image: &[u8]) -> Option<u64> {
    let child = only_child(server);
    // Reset the peak.
    fs::write(format!("/proc/{child}/clear_refs"), "5").expect("its own user's");
    let before = status_bytes(child, "VmRSS");
    let (status, _) = embed(client, server, image).await;
    // A process that was ended had reached its limit.
    let alive = only_child(server) == child && status == StatusCode::OK;
    alive.then(|| status_bytes(child, "VmHWM").saturating_sub(before))
}

#[tokio::test]
async fn no_image_takes_more_than_is_counted_for_it() {
    let args = [&QUIET[..], &["--cache-image-bytes", "0"]].concat();
    let (client, server) = (app::client(), Server::start(&args));
    let folders = ["tests/fixtures/images", "tests/fixtures/webp"].map(files);
    let good = folders.into_iter().flatten().chain(generated()).map(|image| (image, true));
    // Some of the formats' samples are not read.
    let hostile = files("tests/fixtures/formats").into_iter().chain(hostile());
    let hostile = hostile.map(|image| (image, false));
    let mut wrong = Vec::new();
    for ((name, image), is_good) in good.chain(hostile) {
        let Ok(header) = preprocess::inspect(&image, &LIMITS) else {
            assert!(!is_good || name.ends_with(".md"), "{name}");
            continue;
        };
        let counted = Decoder::memory(&image, header);
        // The first image of a format initialises the decoder.
        let _ = taken(&client, &server, &image).await;
        match taken(&client, &server, &image).await {
            Some(taken) if taken > counted + SLACK_BYTES => {
                wrong.push(format!("{name}: {taken} taken, {counted} counted"));
            }
            Some(_) => {}
            None => assert!(!is_good, "{name} is not decoded"),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
