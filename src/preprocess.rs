//! Turns image bytes into the pixels that a vision tower reads.

mod bmp;
mod damage;
mod decode;
mod filter;
mod formats;
mod gif_frame;
#[cfg(any(feature = "heic", feature = "avif"))]
mod heif;
mod jpeg;
#[cfg(feature = "jxl")]
mod jxl;
mod normalized;
mod png;
mod reason;
mod resize;
mod sniff;
mod spec;
mod target;
#[cfg(test)]
mod tests;
mod tiff;
mod tiles;
mod webp;

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};

pub use decode::{is_image, size};
pub(crate) use filter::Filter;
pub use formats::{formats, formats_for_threads};
pub use normalized::from_normalized;
pub use sniff::Foreign;
pub use spec::SpecError;
pub(crate) use spec::processor_fields;
pub use target::{CropOffset, Resize, TargetSize};
pub use tiles::{Pinpoints, PinpointsError, Tiling};

use crate::config::Limit;

/// Whether a large image is decoded in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decoding {
    /// Every pixel.
    Full,
    /// A JPEG is decoded at half its size if both sides are at least four times as long as the target: the
    /// inverse transform then gives four values instead of sixteen. Only builds with `turbojpeg` do it.
    Fast,
}

impl Decoding {
    /// The version of the preprocessing. It is part of cache keys and of `/info`, so that stored vectors can be
    /// told apart when it changes. Raise the number with every change that may change a pixel.
    #[must_use]
    pub fn version(self) -> &'static str {
        match self {
            _ if cfg!(not(feature = "turbojpeg")) => "3",
            Self::Full => "3-turbo",
            Self::Fast => "3-turbo-fast",
        }
    }

    /// Whether an image of `size` that is resized to `target` may be decoded at half its size. The decoded
    /// image still has at least twice the target's pixels on each side, so the resize does most of the
    /// antialiasing.
    fn halves(self, size: [u32; 2], target: [usize; 2]) -> bool {
        let is_large = |(&side, target): (&u32, usize)| side as usize / 4 >= target;
        self == Self::Fast && size.iter().zip(target).all(is_large)
    }
}

/// A resized image: RGB, u8, rows from the top, channels innermost (`[height, width, 3]`).
///
/// Normalisation (`x * rescale`, mean, std) happens in the tower, so that only a quarter of the bytes is copied
/// to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
    /// `height * width * 3` values.
    pub data: Arc<[u8]>,
}

/// The filter of a resize. Both filters use Pillow's antialiasing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resample {
    /// Pillow's `BILINEAR` (2).
    Bilinear,
    /// Pillow's `BICUBIC` (3): a = -0.5.
    Bicubic,
}

/// How images are prepared for a checkpoint, as its `preprocessor_config.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// The size after the resize and the crop.
    pub size: TargetSize,
    /// The filter.
    pub resample: Resample,
    /// Factor applied to each u8 value (1/255).
    pub rescale: f32,
    /// Subtracted from each channel after rescaling.
    pub mean: [f32; 3],
    /// Divides each channel after subtracting.
    pub std: [f32; 3],
}

/// Limits on one image, checked before and during decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLimits {
    /// Most encoded bytes.
    pub max_bytes: usize,
    /// Maximum number of pixels, read from the header before decoding.
    pub max_pixels: u64,
    /// Maximum number of bytes that the decoder may allocate.
    pub max_decode_bytes: u64,
}

impl ImageLimits {
    /// Whether the header is consistent, and within the limits.
    #[must_use]
    pub fn allow(&self, header: Header) -> bool {
        let pixels = header.size.into_iter().map(u64::from).product::<u64>();
        pixels == header.pixels
            && pixels <= self.max_pixels
            && header.decode_bytes <= self.max_decode_bytes
    }
}

/// Why an image could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No bytes at all.
    #[error("the image is empty")]
    Empty,
    /// More encoded bytes than allowed.
    #[error(
        "the image has {bytes} bytes, more than the limit of {}",
        Limit::bytes(*.limit, "limits.max_image_bytes")
    )]
    TooManyBytes {
        /// Encoded bytes of the image.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// More pixels than allowed, by its header.
    #[error(
        "the image has {width} x {height} pixels, more than the limit of {}",
        Limit::count(*.limit, "limits.max_image_pixels")
    )]
    TooManyPixels {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// The limit on their product.
        limit: u64,
    },
    /// A side is longer than the limit on sides, by the header.
    #[error("the image has {width} x {height} pixels, a side of more than {limit}")]
    TooLongSide {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// The limit on each of them.
        limit: u32,
    },
    /// Decoding it would allocate more than allowed.
    #[error(
        "decoding the image needs more memory than the limit of {}",
        Limit::bytes(*.limit, "limits.max_decode_bytes")
    )]
    TooMuchMemory {
        /// The limit.
        limit: u64,
    },
    /// Not a format that is read here.
    #[error("{0}")]
    UnknownFormat(Foreign),
    /// A supported format, but damaged.
    #[error("the image cannot be decoded: {reason}")]
    Damaged {
        /// What is wrong with the image, in plain words. The decoder's own message goes to the log.
        reason: String,
    },
}

/// Facts about an image from its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Rows and columns, upright, before the resize.
    pub size: [u32; 2],
    /// Pixels, before the resize.
    pub pixels: u64,
    /// An upper estimate of the bytes that decoding takes at its peak, without the encoded bytes.
    pub decode_bytes: u64,
}

/// The result of [`prepare`].
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The resized image.
    pub pixels: Pixels,
    /// Pixels of the image before the resize.
    pub source_pixels: u64,
}

/// Whether the first bytes of a file are those of a supported format. 32 bytes are enough to decide.
#[must_use]
pub fn looks_like_an_image(head: &[u8]) -> bool {
    formats::format(head).is_some()
}

/// The name of the image's format if its decoder can end the process that it runs in. Such an image may only be
/// decoded in a separate process.
#[must_use]
pub fn may_abort(bytes: &[u8]) -> Option<&'static str> {
    formats::format(bytes).filter(|&format| formats::may_abort(format)).map(formats::name)
}

/// Names the kind of bytes that are not an image of a supported format, and says what the client can do.
#[must_use]
pub fn what_else(bytes: &[u8]) -> Foreign {
    sniff::name(bytes)
}

/// Reads an image's header and checks it against the limits. No pixel is decoded.
///
/// # Errors
/// Any [`ImageError`]. The caller has to catch a decoder's panic.
pub fn inspect(bytes: &[u8], limits: &ImageLimits) -> Result<Header, ImageError> {
    decode::inspect(bytes, limits)
}

/// Decodes an image, turns it upright (EXIF), composites alpha on white, converts it to RGB and resizes it.
///
/// Synchronous and CPU-bound: call it on the [`crate::cpu_pool`]. Limits are checked from the header before
/// any pixel is decoded.
///
/// # Errors
/// Any [`ImageError`]. The caller has to catch a decoder's panic.
pub fn prepare(
    bytes: &[u8],
    spec: &ImageSpec,
    limits: &ImageLimits,
    decoding: Decoding,
) -> Result<Prepared, ImageError> {
    let plan = |[height, width]: [u32; 2]| spec.size.plan(height, width);
    let halves = |size| decoding.halves(size, plan(size).resized);
    let decoded = decode::decode(bytes, limits, halves)?;
    let source_pixels = decoded.size.into_iter().map(u64::from).product();
    let plan = plan(decoded.size);
    let image = Cow::Owned(decoded.picture);
    let pixels = resize::resize(image, decoded.extent, &plan, spec.resample);
    Ok(Prepared { pixels, source_pixels })
}

/// Decodes an image and prepares several views of it, which are stacked one below the other: see
/// [`Tiling::split`].
///
/// * `spec`: how the views are resized; its size is not used
/// * `tiling`: must be made for the size that [`inspect`] reads
///
/// # Errors
/// As [`prepare`].
pub fn views(
    bytes: &[u8],
    (spec, tiling): (&ImageSpec, &Tiling),
    limits: &ImageLimits,
    decoding: Decoding,
) -> Result<Prepared, ImageError> {
    let [rows, columns] = tiling.inner_size.map(|pixels| pixels.max(tiling.side) as usize);
    let decoded = decode::decode(bytes, limits, |size| decoding.halves(size, [rows, columns]))?;
    if decoded.size != tiling.image_size {
        let reason = "it has another size than its header says".to_owned();
        return Err(ImageError::Damaged { reason });
    }
    let source_pixels = decoded.size.into_iter().map(u64::from).product();
    let resized = |[height, width]: [u32; 2]| {
        let plan = TargetSize::Fixed { height, width }.plan(decoded.size[0], decoded.size[1]);
        resize::resize(Cow::Borrowed(&decoded.picture), decoded.extent, &plan, spec.resample)
    };
    let (whole, inner) = (resized([tiling.side; 2]), resized(tiling.inner_size));
    Ok(Prepared { pixels: tiling.stack(&whole, &inner), source_pixels })
}
