//! The formats that are read. Messages, `/info` and the documents take their list from here.

use std::fmt;

use image::ImageFormat;

use super::tiff;

/// Names and formats, in the order in which they are listed. The content decides, never a file name or a
/// media type.
const FORMATS: [(&str, ImageFormat); 6] = [
    ("PNG", ImageFormat::Png),
    ("JPEG", ImageFormat::Jpeg),
    ("WebP", ImageFormat::WebP),
    ("GIF", ImageFormat::Gif),
    ("BMP", ImageFormat::Bmp),
    ("TIFF", ImageFormat::Tiff),
];

/// The format, by the first bytes, where it is one that is read.
pub(super) fn format(bytes: &[u8]) -> Option<ImageFormat> {
    // The library does not know the mark of TIFF files with long offsets.
    let format = match bytes {
        _ if tiff::is_big(bytes) => ImageFormat::Tiff,
        _ => image::guess_format(bytes).ok()?,
    };
    FORMATS.iter().find(|(_, read)| *read == format).map(|(_, read)| *read)
}

/// What a format is called in messages.
pub(super) fn name(format: ImageFormat) -> &'static str {
    FORMATS.iter().find(|(_, read)| *read == format).map_or("image", |(name, _)| name)
}

/// The names of the formats that this build reads.
pub fn formats() -> impl Iterator<Item = &'static str> {
    FORMATS.iter().map(|(name, _)| *name)
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
