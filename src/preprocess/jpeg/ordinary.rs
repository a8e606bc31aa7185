//! JPEG files as cameras and programs write them, through the decoder of the `image` crate.
//!
//! It is faster than libjpeg-turbo without assembly, but of many layouts that the standard allows it makes another
//! image without a word. So it gets what is known to come out right, and libjpeg-turbo has the rest.

use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::JpegDecoder;

use super::layout::Layout;

/// Fewest pixels of a side: where a row of units has one of them, this decoder widens some chroma wrongly.
const MIN_SIDE: u16 = 17;

/// Whether a file has a layout that this decoder reads rightly.
///
/// Progressive files are not among them: where a scan ends early it fills up what is missing and does not say so.
/// Nor are files with restart markers, of which it makes another image at some intervals.
pub(super) fn is_ordinary(layout: &Layout) -> bool {
    let samplings = layout.components.iter().map(|component| component.sampling);
    let usual = match samplings.collect::<Vec<_>>()[..] {
        [[1, 1]] => matches!(layout.adobe, None | Some(0)),
        // Of JFIF and Adobe's marker this decoder believes the latter, Pillow the former.
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

/// Decodes into `pixels`, RGB; none where there is any flaw.
pub(super) fn decode(bytes: &[u8], layout: &Layout, pixels: &mut [u8]) -> Option<()> {
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    // Behind an end marker it would go on with zeros. Where the data ends in its stead, it says so.
    let bytes = bytes.get(..layout.end?)?;
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_into(pixels).ok()
}
