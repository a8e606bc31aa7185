//! Decodes JPEG files as cameras and programs usually write them, with the decoder of the `image` crate.
//!
//! It is faster than libjpeg-turbo without assembly, but decodes many layouts of the standard wrongly without
//! an error. So it gets only layouts that are known to be right, and libjpeg-turbo decodes the others.

use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::JpegDecoder;

use super::layout::Layout;

/// Minimum number of pixels of a side. If a row has a single unit, this decoder upsamples some chroma wrongly.
const MIN_SIDE: u16 = 17;

/// Whether this decoder decodes the file's layout correctly.
///
/// Progressive files are excluded, because the decoder silently fills up missing data if a scan ends early.
/// Files with restart markers are excluded, because it decodes some intervals wrongly.
pub(super) fn is_ordinary(layout: &Layout) -> bool {
    let samplings = layout.components.iter().map(|component| component.sampling);
    let usual = match samplings.collect::<Vec<_>>()[..] {
        [[1, 1]] => matches!(layout.adobe, None | Some(0)),
        // If a file has both a JFIF and an Adobe marker, this decoder follows Adobe's and Pillow follows
        // JFIF's.
        [[1 | 2, 1 | 2], [1, 1], [1, 1]] => {
            !layout.is_rgb() && matches!(layout.adobe, None | Some(1))
        }
        _ => false,
    };
    usual
        && layout.regular
        && layout.end.is_some()
        && layout.is_one_pass()
        && layout.interleaved
        && !layout.arithmetic
        && !layout.restarts
        && layout.width.min(layout.height) >= MIN_SIDE
}

/// Decodes to RGB in `pixels`; none if the decoder reports any flaw.
pub(super) fn decode(bytes: &[u8], layout: &Layout, pixels: &mut [u8]) -> Option<()> {
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    // After an end marker the decoder would continue with zeros. If the data ends there, it reports an error.
    let bytes = bytes.get(..layout.end?)?;
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_into(pixels).ok()
}
