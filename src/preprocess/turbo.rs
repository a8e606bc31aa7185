//! JPEG through libjpeg-turbo: the pixels that Pillow has from it, and pictures of half their size.

use image::RgbImage;
use turbojpeg::{Colorspace, Decompressor, Image, PixelFormat, ScalingFactor};

/// Most scans of a progressive JPEG, as the other decoder allows: a few bytes of a file make one, and each is a
/// pass over the whole picture.
const MAX_SCANS: u32 = 100;

/// The picture, whose header says `width` and `height`; with `halve` its sides are half of that, rounded up.
///
/// None where libjpeg-turbo has anything to say against the file, if only a warning: the other decoder then
/// decides, so that the same files are refused with and without this one. It also keeps CMYK, and what it
/// refuses itself (arithmetic coding, lossless).
pub(super) fn decode(bytes: &[u8], (width, height): (u32, u32), halve: bool) -> Option<RgbImage> {
    let mut decompressor = Decompressor::new().ok()?;
    decompressor.set_scan_limit(MAX_SCANS).ok()?;
    let header = decompressor.read_header(bytes).ok()?;
    // The limits were checked on what the other decoder has read.
    let agreed = (header.width, header.height) == (width as usize, height as usize);
    let three = matches!(header.colorspace, Colorspace::RGB | Colorspace::YCbCr | Colorspace::Gray);
    if !agreed || !three || header.is_arithmetic || header.is_lossless {
        return None;
    }
    let scale = if halve { ScalingFactor::ONE_HALF } else { ScalingFactor::ONE };
    decompressor.set_scaling_factor(scale).ok()?;
    let (width, height) = (scale.scale(header.width), scale.scale(header.height));
    let (format, pitch) = (PixelFormat::RGB, width * 3);
    let mut pixels = vec![0; pitch * height];
    let output = Image { pixels: &mut pixels[..], width, pitch, height, format };
    decompressor.decompress(bytes, output).ok()?;
    RgbImage::from_raw(width as u32, height as u32, pixels)
}

#[cfg(test)]
mod tests;
