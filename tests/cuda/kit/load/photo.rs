//! Images like photographs, as JPEG.

#[path = "../../../../benches/pictures/photo.rs"]
mod made;

use image::RgbImage;

/// How many there are: their cost differs little, and making them takes longer than sending them.
const COUNT: u32 = 8;
/// As cameras and web sites have it.
const QUALITY: u8 = 85;

pub(super) fn photos(width: u32, height: u32) -> Vec<RgbImage> {
    let whole = made::photo(width + 16 * COUNT, height);
    let cut = |index| image::imageops::crop_imm(&whole, 16 * index, 0, width, height).to_image();
    (0..COUNT).map(cut).collect()
}

/// With half the colour's rows and columns, as usual.
#[cfg(feature = "turbojpeg")]
pub(super) fn jpeg(image: &RgbImage) -> Vec<u8> {
    let image = turbojpeg::Image {
        pixels: image.as_raw().as_slice(),
        width: image.width() as usize,
        pitch: image.width() as usize * 3,
        height: image.height() as usize,
        format: turbojpeg::PixelFormat::RGB,
    };
    let bytes = turbojpeg::compress(image, i32::from(QUALITY), turbojpeg::Subsamp::Sub2x2);
    bytes.expect("an image becomes a file").to_vec()
}

/// With all of the colour: this encoder has no other way.
#[cfg(not(feature = "turbojpeg"))]
pub(super) fn jpeg(image: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, QUALITY);
    image.write_with_encoder(encoder).expect("an image becomes a file");
    bytes
}
