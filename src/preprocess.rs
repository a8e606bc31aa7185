//! Picture bytes to the pixels that a vision tower reads.

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

/// How much of a large picture is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decoding {
    /// Every pixel.
    Full,
    /// A JPEG at half its size where both sides have four times the pixels that they are resized to, or more:
    /// the inverse transform then gives four values in place of sixteen. Only builds with `turbojpeg` do it.
    Fast,
}

impl Decoding {
    /// Names the arithmetic of this module. It goes into cache keys and `/info`, so that stored vectors can
    /// be told apart when the arithmetic changes; raise the number with every change that may move a pixel.
    #[must_use]
    pub fn version(self) -> &'static str {
        match self {
            _ if cfg!(not(feature = "turbojpeg")) => "3",
            Self::Full => "3-turbo",
            Self::Fast => "3-turbo-fast",
        }
    }

    /// Whether a picture of `size`, to be resized to `target`, may be decoded at half its size. What is left
    /// has twice the target's pixels on each side: the resize still does most of the antialiasing.
    fn halves(self, size: [u32; 2], target: [usize; 2]) -> bool {
        let is_large = |(&side, target): (&u32, usize)| side as usize / 4 >= target;
        self == Self::Fast && size.iter().zip(target).all(is_large)
    }
}

/// A resized picture: RGB, u8, rows from the top, channels innermost (`[height, width, 3]`).
///
/// Normalisation (`x * rescale`, mean, std) happens in the tower, so that a quarter of the bytes travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
    /// `height * width * 3` values.
    pub data: Arc<[u8]>,
}

/// Which filter a resize uses; both with Pillow's antialiasing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resample {
    /// Pillow's `BILINEAR` (2).
    Bilinear,
    /// Pillow's `BICUBIC` (3): a = -0.5.
    Bicubic,
}

/// How a checkpoint wants its pictures, as its `preprocessor_config.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// The size after the resize, and what is cropped.
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

/// Bounds on one picture, checked before and while decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLimits {
    /// Most encoded bytes.
    pub max_bytes: usize,
    /// Most pixels, read from the header before decoding.
    pub max_pixels: u64,
    /// Most bytes that the decoder may allocate.
    pub max_decode_bytes: u64,
}

impl ImageLimits {
    /// Whether an image with this header is within the limits, and its header is of one piece.
    #[must_use]
    pub fn allow(&self, header: Header) -> bool {
        let pixels = header.size.into_iter().map(u64::from).product::<u64>();
        pixels == header.pixels
            && pixels <= self.max_pixels
            && header.decode_bytes <= self.max_decode_bytes
    }
}

/// Why a picture could not be prepared.
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
        /// Bytes of this one.
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
    /// A side that is longer than any picture's, by its header.
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
        /// What is wrong with it, in plain words. A decoder's own go to the log.
        reason: String,
    },
}

/// What a picture's header says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Rows and columns, upright, before the resize.
    pub size: [u32; 2],
    /// Pixels, before the resize.
    pub pixels: u64,
    /// Bytes that decoding takes at its peak beside the encoded ones, estimated from above.
    pub decode_bytes: u64,
}

/// What [`prepare`] yields.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The resized picture.
    pub pixels: Pixels,
    /// Pixels of the picture before the resize.
    pub source_pixels: u64,
}

/// Whether the first bytes of a file are those of a supported format. 32 bytes tell.
#[must_use]
pub fn looks_like_an_image(head: &[u8]) -> bool {
    formats::format(head).is_some()
}

/// The name of the format of an image, where its decoder can end the process that it runs in: such an image belongs
/// in a process that has nothing else to lose.
#[must_use]
pub fn may_abort(bytes: &[u8]) -> Option<&'static str> {
    formats::format(bytes).filter(|&format| formats::may_abort(format)).map(formats::name)
}

/// What bytes are that are no image of a supported format, and what to do about it.
#[must_use]
pub fn what_else(bytes: &[u8]) -> Foreign {
    sniff::name(bytes)
}

/// Reads a picture's header and holds it against the limits. No pixel is decoded.
///
/// # Errors
/// Any [`ImageError`]; a decoder's panic is the caller's to catch.
pub fn inspect(bytes: &[u8], limits: &ImageLimits) -> Result<Header, ImageError> {
    decode::inspect(bytes, limits)
}

/// Decodes a picture, turns it upright (EXIF), composites alpha on white, converts to RGB and resizes.
///
/// Synchronous and CPU-bound: call it on the [`crate::cpu_pool`]. Limits are checked from the header before
/// any pixel is decoded.
///
/// # Errors
/// Any [`ImageError`]; a decoder's panic is the caller's to catch.
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

/// The same for an image of which there are several views: they are one below the other, see [`Tiling::split`].
///
/// * `spec`: how they are resized; its size does not count
/// * `tiling`: made for the size that [`inspect`] says
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
