//! Generated images that resemble photographs: detail at every scale, weaker at finer scales, and a few hard
//! edges.

use image::{Rgb, RgbImage};

/// A generated photograph.
#[must_use]
pub(super) fn photo(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let disc = (i64::from(x) - 300).pow(2) + (i64::from(y) - 250).pow(2) < 150 * 150;
        let stripe = (x + 2 * y) % 700 < 40;
        let light = if disc { 70.0 } else { f32::from(u8::from(stripe)) * -60.0 };
        // The channels of a photograph share most of their detail.
        let common = 128.0 + light + 0.8 * detail(x, y, 1, 9);
        Rgb([0, 1, 2]
            .map(|channel| (common + 0.4 * detail(x, y, 6, channel)).clamp(0.0, 255.0) as u8))
    })
}

/// Octaves of smooth noise from `2^finest` pixels upwards, each half as strong as the next coarser octave.
fn detail(x: u32, y: u32, finest: u32, seed: u32) -> f32 {
    let octave =
        |octave| smooth(x, y, 1_u32 << octave, seed + 16 * octave) * (1_u32 << octave) as f32 / 2.5;
    (finest..=8).map(octave).sum()
}

/// Random values on a grid of `cell` pixels, from -1 to 1, with interpolated values between them.
fn smooth(x: u32, y: u32, cell: u32, seed: u32) -> f32 {
    let corner = |right, down| {
        hash(x / cell + right, y / cell + down, seed) as f32 / (u32::MAX / 2) as f32 - 1.0
    };
    let [right, down] = [x, y].map(|at| (at % cell) as f32 / cell as f32);
    let between = |from: f32, to: f32, share: f32| from + (to - from) * share;
    between(
        between(corner(0, 0), corner(1, 0), right),
        between(corner(0, 1), corner(1, 1), right),
        down,
    )
}

fn hash(x: u32, y: u32, seed: u32) -> u32 {
    let mut value =
        x.wrapping_mul(0x9E37_79B1) ^ y.wrapping_mul(0x85EB_CA77) ^ seed.wrapping_mul(0xC2B2_AE3D);
    for _ in 0..2 {
        value = (value ^ (value >> 15)).wrapping_mul(0x2C1B_3C6D);
    }
    value ^ (value >> 13)
}
