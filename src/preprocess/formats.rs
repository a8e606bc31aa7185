//! The formats that are read. Messages, `/info` and the documents take their list from here.

use std::fmt;

use image::ImageFormat;

#[cfg(any(feature = "heic", feature = "avif", feature = "jxl"))]
use super::sniff;
use super::tiff;

/// A format that this build reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// A format of the `image` crate.
    Library(ImageFormat),
    #[cfg(feature = "heic")]
    Heic,
    #[cfg(feature = "avif")]
    Avif,
    #[cfg(feature = "jxl")]
    Jxl,
}

impl PartialEq<ImageFormat> for Format {
    fn eq(&self, other: &ImageFormat) -> bool {
        *self == Self::Library(*other)
    }
}

/// Names and formats, in the order in which they are listed. The content decides, never a file name or a
/// media type.
const FORMATS: &[(&str, Format)] = &[
    ("PNG", Format::Library(ImageFormat::Png)),
    ("JPEG", Format::Library(ImageFormat::Jpeg)),
    ("WebP", Format::Library(ImageFormat::WebP)),
    ("GIF", Format::Library(ImageFormat::Gif)),
    ("BMP", Format::Library(ImageFormat::Bmp)),
    ("TIFF", Format::Library(ImageFormat::Tiff)),
    #[cfg(feature = "heic")]
    ("HEIC", Format::Heic),
    #[cfg(feature = "avif")]
    ("AVIF", Format::Avif),
    #[cfg(feature = "jxl")]
    ("JPEG XL", Format::Jxl),
];

/// The format by the first bytes, if this build reads it.
pub(super) fn format(bytes: &[u8]) -> Option<Format> {
    #[cfg(feature = "jxl")]
    if sniff::is_jxl(bytes) {
        return Some(Format::Jxl);
    }
    #[cfg(any(feature = "heic", feature = "avif"))]
    match sniff::heif(bytes) {
        #[cfg(feature = "avif")]
        Some(sniff::Heif::Avif) => return Some(Format::Avif),
        #[cfg(feature = "heic")]
        Some(sniff::Heif::Heic | sniff::Heif::Other) => return Some(Format::Heic),
        // The refusal names a format that this build does not read.
        _ => {}
    }
    // The `image` crate does not know the signature of TIFF files with long offsets.
    let format = match bytes {
        _ if tiff::is_big(bytes) => ImageFormat::Tiff,
        _ => image::guess_format(bytes).ok()?,
    };
    let format = Format::Library(format);
    FORMATS.iter().find(|(_, read)| *read == format).map(|(_, read)| *read)
}

/// Whether the format's decoder can end the process that it runs in instead of returning an error.
pub(super) fn may_abort(format: Format) -> bool {
    // Its inner functions have C's calling convention, so a panic in them cannot be caught.
    #[cfg(feature = "avif")]
    return format == Format::Avif;
    #[cfg(not(feature = "avif"))]
    {
        let _ = format;
        false
    }
}

/// The format's name in messages.
pub(super) fn name(format: Format) -> &'static str {
    FORMATS.iter().find(|(_, read)| *read == format).map_or("image", |(name, _)| name)
}

/// The names of the formats that this build reads.
pub fn formats() -> impl Iterator<Item = &'static str> {
    FORMATS.iter().map(|(name, _)| *name)
}

/// The names of those formats whose decoders cannot end the process that they run in.
pub fn formats_for_threads() -> impl Iterator<Item = &'static str> {
    FORMATS.iter().filter(|(_, format)| !may_abort(*format)).map(|(name, _)| *name)
}

/// Writes the list of [`formats`], with commas between them.
pub(super) struct Listed;

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in formats().enumerate() {
            f.write_str(if index == 0 { "" } else { ", " })?;
            f.write_str(name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
