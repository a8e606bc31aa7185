//! Images like photographs, as JPEG.

#[path = "../../../../benches/pictures/photo.rs"]
mod made;

use image::RgbImage;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

/// Number of images. Their cost differs little, and making them takes longer than sending them.
const COUNT: u32 = 8;
/// A typical value for cameras and web sites.
const QUALITY: u8 = 85;

pub(super) fn photos(width: u32, height: u32) -> Vec<RgbImage> {
    let whole = made::photo(width + 16 * COUNT, height);
    let cut = |index| image::imageops::crop_imm(&whole, 16 * index, 0, width, height).to_image();
    (0..COUNT).map(cut).collect()
}

/// With 4:2:0 chroma subsampling, as usual.
pub(super) fn jpeg(image: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, QUALITY);
    encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
    let [width, height] =
        [image.width(), image.height()].map(|side| u16::try_from(side).expect("a side of a JPEG"));
    encoder.encode(image.as_raw(), width, height, ColorType::Rgb).expect("an image becomes a file");
    bytes
}
