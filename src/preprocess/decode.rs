//! Decodes encoded bytes to upright RGB.

use std::io::Cursor;

use image::{
    ColorType, DynamicImage, ImageDecoder, ImageError as DecoderError, ImageFormat, ImageReader,
    ImageResult, Limits, RgbImage, RgbaImage, error::LimitErrorKind, metadata::Orientation,
};

#[cfg(any(feature = "heic", feature = "avif"))]
use super::heif::{Coding, HeifDecoder};
#[cfg(feature = "jxl")]
use super::jxl::JxlDecoder;
use super::{
    Header, ImageError, ImageLimits, bmp, damage,
    formats::{self, Format},
    gif_frame::GifDecoder,
    jpeg::JpegDecoder,
    png,
    png::PngDecoder,
    sniff,
    tiff::TiffDecoder,
    webp::WebPDecoder,
};

/// Bytes per pixel that decoding takes in addition to the decoded image: the coefficients of a progressive JPEG
/// (three planes of two bytes), or the buffers of other decoders.
const EXTRA_BYTES_PER_PIXEL: u64 = 6;

/// Bytes per pixel of the copies during the conversion of deep or grey images with alpha to RGB: four bytes
/// with alpha, and three without.
const ALPHA_BYTES_PER_PIXEL: u64 = 7;

/// Bytes per pixel of a resize: the image, and its state between both passes.
const RESIZE_BYTES_PER_PIXEL: u64 = 6;

/// Additional bytes of a resize for each pixel of the longer side: the columns of a strip of rows, and weights.
const BYTES_PER_COLUMN: u64 = 3 * siglip_kernels::resize::LANES as u64 + 32;

/// Maximum length of a side, as in libpng. A resize has as many weights as the longest side has pixels; for an
/// image of one by fifty million pixels they would take more memory than everything else.
const MAX_SIDE: u32 = 1_000_000;

/// Maximum number of bytes that may be allocated for anything but pixels: a colour profile or a comment can
/// expand a thousand times. The PNG decoder keeps to this limit until the end, because it holds only one row at
/// a time.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// The result of [`decode`].
pub(super) struct Decoded {
    /// The image, upright.
    pub(super) picture: RgbImage,
    /// Rows and columns by its header, upright.
    pub(super) size: [u32; 2],
    /// The valid rows and columns of `picture`. If an odd side was halved, the last pixel covers only half a
    /// source pixel.
    pub(super) extent: [f64; 2],
}

/// Decodes the first frame, upright, alpha composited on white.
///
/// * `halves`: whether half the size is enough for an image with these rows and columns
pub(super) fn decode(
    bytes: &[u8],
    limits: &ImageLimits,
    halves: impl FnOnce([u32; 2]) -> bool,
) -> Result<Decoded, ImageError> {
    let format = readable(bytes, limits)?;
    let (mut decoder, _) = open(bytes, format, limits)?;
    // An image with a damaged EXIF block is read as upright, as viewers do.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let (width, height) = decoder.dimensions();
    let size = if is_sideways(orientation) { [width, height] } else { [height, width] };
    // Rotation would move the half-covered last pixel to the other side, so rotated odd sides are decoded in
    // full.
    let symmetric = orientation == Orientation::NoTransforms || (width | height) % 2 == 0;
    let halve = symmetric && halves(size);
    let damaged = |error| failure(error, format, limits);
    let halved = if halve { halved(bytes, format, limits).map_err(damaged)? } else { None };
    let factor = if halved.is_some() { 0.5 } else { 1.0 };
    let picture = DynamicImage::from_decoder(halved.unwrap_or(decoder));
    let mut picture = picture.map_err(damaged)?;
    picture.apply_orientation(orientation);
    let extent = size.map(|side| f64::from(side) * factor);
    Ok(Decoded { picture: to_rgb(picture), size, extent })
}

/// Whether turning the image upright swaps its rows and columns.
fn is_sideways(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

/// A decoder that decodes at half the size, if the format and the build have one.
#[cfg(feature = "turbojpeg")]
fn halved<'b>(
    bytes: &'b [u8],
    format: Format,
    limits: &ImageLimits,
) -> ImageResult<Option<Box<dyn ImageDecoder + 'b>>> {
    if format != ImageFormat::Jpeg {
        return Ok(None);
    }
    let decoder = JpegDecoder::new(bytes, limits.max_decode_bytes)?;
    Ok(Some(Box::new(decoder.halved())))
}

#[cfg(not(feature = "turbojpeg"))]
fn halved<'b>(
    _: &'b [u8],
    _: Format,
    _: &ImageLimits,
) -> ImageResult<Option<Box<dyn ImageDecoder + 'b>>> {
    Ok(None)
}

/// Reads the header and checks it against the limits.
pub(super) fn inspect(bytes: &[u8], limits: &ImageLimits) -> Result<Header, ImageError> {
    let format = readable(bytes, limits)?;
    let (mut decoder, mut header) = open(bytes, format, limits)?;
    if decoder.orientation().is_ok_and(is_sideways) {
        header.size.reverse();
    }
    Ok(header)
}

/// The format of the bytes, if they are not empty, not too many and of a format that is read.
fn readable(bytes: &[u8], limits: &ImageLimits) -> Result<Format, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    if bytes.len() > limits.max_bytes {
        return Err(ImageError::TooManyBytes { bytes: bytes.len(), limit: limits.max_bytes });
    }
    let format =
        formats::format(bytes).ok_or_else(|| ImageError::UnknownFormat(sniff::name(bytes)))?;
    if format == ImageFormat::Tiff
        && let Some(raw) = sniff::camera_raw(bytes)
    {
        return Err(ImageError::UnknownFormat(raw));
    }
    Ok(format)
}

/// A decoder that has read the header and checked it against the limits.
fn open<'b>(
    bytes: &'b [u8],
    format: Format,
    limits: &ImageLimits,
) -> Result<(Box<dyn ImageDecoder + 'b>, Header), ImageError> {
    let (mut decoder, extra) =
        decoder(bytes, format, limits).map_err(|error| failure(error, format, limits))?;
    // Turning an image on its side needs a copy.
    let turned = decoder.orientation().is_ok_and(is_sideways);
    let extra = extra.max(if turned { decoder.total_bytes() } else { 0 });
    let kept = if format == ImageFormat::Png { png::profile_bytes(bytes) } else { 0 };
    let header = check_header(&*decoder, [extra, kept.min(2 * MAX_HEADER_BYTES)], limits)?;
    decoder
        .set_limits(allocation_limits(limits.max_decode_bytes))
        .map_err(|error| failure(error, format, limits))?;
    Ok((decoder, header))
}

/// A decoder that has read the header, and the additional bytes that it takes if it knows them. A format that
/// needs more than the library's decoder has its own module, which gives another [`ImageDecoder`] here.
fn decoder<'b>(
    bytes: &'b [u8],
    format: Format,
    limits: &ImageLimits,
) -> ImageResult<(Box<dyn ImageDecoder + 'b>, u64)> {
    let format = match format {
        #[cfg(feature = "heic")]
        Format::Heic => return heif(bytes, Coding::Hevc),
        #[cfg(feature = "avif")]
        Format::Avif => return heif(bytes, Coding::Av1),
        #[cfg(feature = "jxl")]
        Format::Jxl => {
            let decoder = JxlDecoder::new(bytes, limits.max_decode_bytes)?;
            let extra = decoder.extra_bytes();
            return Ok((Box::new(decoder), extra));
        }
        Format::Library(format) => format,
    };
    if format == ImageFormat::Jpeg {
        let decoder = JpegDecoder::new(bytes, limits.max_decode_bytes)?;
        let extra = decoder.extra_bytes();
        return Ok((Box::new(decoder), extra));
    }
    // The reader's own limits guard what decoders allocate while they read the header.
    let most = allocation_limits(limits.max_decode_bytes.min(MAX_HEADER_BYTES));
    let decoder: Box<dyn ImageDecoder + 'b> = match format {
        ImageFormat::Gif => Box::new(GifDecoder::new(bytes)?),
        ImageFormat::Png => Box::new(PngDecoder::new(bytes, most)?),
        ImageFormat::Tiff => {
            let decoder = TiffDecoder::new(bytes)?;
            let extra = decoder.extra_bytes();
            return Ok((Box::new(decoder), extra));
        }
        ImageFormat::WebP => {
            let decoder = WebPDecoder::new(bytes)?;
            let extra = decoder.extra_bytes();
            return Ok((Box::new(decoder), extra));
        }
        _ => {
            let bytes = if format == ImageFormat::Bmp { bmp::opaque(bytes) } else { bytes.into() };
            let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
            reader.limits(most);
            Box::new(reader.into_decoder()?)
        }
    };
    Ok((decoder, 0))
}

/// Whether the bytes begin like an image, of a format that is read or of one that the refusal names.
#[must_use]
pub fn is_image(bytes: &[u8]) -> bool {
    // HEIC and AVIF files consist of boxes, and the first one names the format.
    let is_boxes = bytes.get(4..8) == Some(b"ftyp");
    formats::format(bytes).is_some() || is_boxes
}

#[cfg(any(feature = "heic", feature = "avif"))]
fn heif(bytes: &[u8], coding: Coding) -> ImageResult<(Box<dyn ImageDecoder + '_>, u64)> {
    let decoder = HeifDecoder::new(bytes, coding)?;
    let extra = decoder.extra_bytes();
    Ok((Box::new(decoder), extra))
}

/// Columns and rows from an image's header, before it is turned upright; none if the bytes are not an image.
#[must_use]
pub fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    // Only the header is read, and its own limits apply.
    let limits = ImageLimits {
        max_bytes: usize::MAX,
        max_pixels: u64::MAX,
        max_decode_bytes: MAX_HEADER_BYTES,
    };
    let (decoder, _) = decoder(bytes, formats::format(bytes)?, &limits).ok()?;
    Some(decoder.dimensions())
}

/// Checks the size limits before any pixel is decoded.
///
/// * `extra`: bytes that decoding takes in addition to the image, at least
/// * `kept`: further bytes that are held until the end
fn check_header(
    decoder: &dyn ImageDecoder,
    [extra, kept]: [u64; 2],
    limits: &ImageLimits,
) -> Result<Header, ImageError> {
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(ImageError::Damaged { reason: "it has no pixels".to_owned() });
    }
    let pixels = u64::from(width) * u64::from(height);
    if pixels > limits.max_pixels {
        return Err(ImageError::TooManyPixels { width, height, limit: limits.max_pixels });
    }
    if width.max(height) > MAX_SIDE {
        return Err(ImageError::TooLongSide { width, height, limit: MAX_SIDE });
    }
    let copies = match decoder.color_type() {
        ColorType::La8 | ColorType::La16 | ColorType::Rgba16 => ALPHA_BYTES_PER_PIXEL,
        _ => EXTRA_BYTES_PER_PIXEL,
    };
    let decoding = decoder.total_bytes().saturating_add(extra.max(pixels * copies));
    let sides = u64::from(width.max(height)) * BYTES_PER_COLUMN;
    let working = decoding.max(pixels * RESIZE_BYTES_PER_PIXEL + sides);
    let decode_bytes = working.saturating_add(kept);
    if decode_bytes > limits.max_decode_bytes {
        return Err(ImageError::TooMuchMemory { limit: limits.max_decode_bytes });
    }
    Ok(Header { size: [height, width], pixels, decode_bytes })
}

fn allocation_limits(bytes: u64) -> Limits {
    let mut allocation = Limits::no_limits();
    allocation.max_alloc = Some(bytes);
    allocation
}

fn failure(error: DecoderError, format: Format, limits: &ImageLimits) -> ImageError {
    match error {
        DecoderError::Limits(error) if error.kind() == LimitErrorKind::InsufficientMemory => {
            ImageError::TooMuchMemory { limit: limits.max_decode_bytes }
        }
        error => ImageError::Damaged { reason: damage::reason(&error, format) },
    }
}

/// Converts to RGB, u8. 16-bit samples keep their high byte, as Pillow does when it opens 16-bit colour. Floats
/// and other formats use the `image` crate's conversion.
fn to_rgb(picture: DynamicImage) -> RgbImage {
    let high = |sample: u16| (sample >> 8) as u8;
    match picture {
        DynamicImage::ImageRgb8(rgb) => rgb,
        DynamicImage::ImageRgb16(deep) => RgbImage::from_fn(deep.width(), deep.height(), |x, y| {
            image::Rgb(deep.get_pixel(x, y).0.map(high))
        }),
        DynamicImage::ImageLuma16(deep) => {
            RgbImage::from_fn(deep.width(), deep.height(), |x, y| {
                image::Rgb([high(deep.get_pixel(x, y).0[0]); 3])
            })
        }
        DynamicImage::ImageRgba16(deep) => {
            on_white(&RgbaImage::from_fn(deep.width(), deep.height(), |x, y| {
                image::Rgba(deep.get_pixel(x, y).0.map(high))
            }))
        }
        DynamicImage::ImageLumaA16(deep) => {
            on_white(&RgbaImage::from_fn(deep.width(), deep.height(), |x, y| {
                let [grey, alpha] = deep.get_pixel(x, y).0.map(high);
                image::Rgba([grey, grey, grey, alpha])
            }))
        }
        picture if picture.color().has_alpha() => on_white(&picture.into_rgba8()),
        picture => picture.into_rgb8(),
    }
}

/// Composites on white and rounds like Pillow's `alpha_composite`, which transformers uses.
fn on_white(picture: &RgbaImage) -> RgbImage {
    let mut data = Vec::with_capacity(picture.len() / 4 * 3);
    for pixel in picture.pixels() {
        let [channels @ .., alpha] = pixel.0.map(u32::from);
        data.extend(channels.map(|channel| blend(channel, alpha)));
    }
    #[expect(clippy::expect_used, reason = "three bytes were pushed for each pixel")]
    RgbImage::from_raw(picture.width(), picture.height(), data).expect("three bytes a pixel")
}

/// `channel * alpha / 255 + 255 * (255 - alpha) / 255`, with seven more bits until the rounding.
fn blend(channel: u32, alpha: u32) -> u8 {
    let sum = (channel * alpha + 255 * (255 - alpha)) * 128 + (128 << 7);
    // The division by 255 as two shifts, exact in this range.
    ((((sum >> 8) + sum) >> 8) >> 7) as u8
}
