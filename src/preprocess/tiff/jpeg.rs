//! JPEG streams within a TIFF, each of one strip or tile.

use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use super::Result;
use crate::preprocess::reason::Reason;

/// Most scans of a progressive stream: each is a pass over all pixels, and costs a few bytes.
const MOST_SCANS: usize = 100;

/// What a strip or tile must be for the file to be right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    pub(super) columns: usize,
    /// Rows that are shown, and rows that a whole strip has: the last one may have either.
    pub(super) rows: [usize; 2],
    pub(super) components: usize,
}

/// Decodes a strip or tile: rows of `components` bytes a pixel, in the colours of the TIFF's tags.
///
/// The tags say what the components are, whatever the stream's own markers say; only luma and chroma become RGB.
///
/// * `luma`: whether three components are luma and chroma
/// * `tables`: a stream without an image, whose tables are put before
pub(super) fn unpack(
    stream: &[u8],
    tables: Option<&[u8]>,
    luma: bool,
    expected: Expected,
) -> Result<Vec<u8>> {
    let mut joined = vec![0xFF, 0xD8];
    if let Some(tables) = tables {
        copy_segments(tables, &mut joined)?;
    }
    let frame = copy_segments(stream, &mut joined)?;
    let frame = frame.ok_or_else(|| Reason::new("a JPEG stream of the TIFF has no image"))?;
    frame.check(expected)?;
    // A decoder fills what is missing with grey and says nothing.
    if memchr::memmem::rfind(stream, &[0xFF, 0xD9]).is_none_or(|end| end < frame.scan) {
        return Err(Reason::new("a JPEG stream of the TIFF ends early"));
    }
    let output = match (luma, expected.components) {
        (_, 1) => ColorSpace::Luma,
        (true, 3) => ColorSpace::RGB,
        // As they are: the decoder takes components for what they are called, and others for luma and chroma.
        (_, 3) if frame.is_rgb => ColorSpace::RGB,
        (_, 3) => ColorSpace::YCbCr,
        _ => ColorSpace::CMYK,
    };
    let options = DecoderOptions::default()
        .set_max_width(expected.columns)
        .set_max_height(expected.rows[1])
        .jpeg_set_max_scans(MOST_SCANS)
        .jpeg_set_out_colorspace(output);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(joined), options);
    let damaged = |_| Reason::new("a JPEG stream of the TIFF is damaged");
    let pixels = decoder.decode().map_err(damaged)?;
    let agreed = match decoder.input_colorspace() {
        Some(ColorSpace::Luma) => expected.components == 1,
        Some(ColorSpace::YCbCr) => expected.components == 3,
        Some(ColorSpace::RGB) => expected.components == 3 && !luma,
        Some(ColorSpace::CMYK) => expected.components == 4,
        _ => false,
    };
    if agreed && pixels.len() == frame.columns * frame.rows * expected.components {
        return Ok(pixels);
    }
    Err(Reason::new("a JPEG stream of the TIFF has colours that its tags do not go with"))
}

/// What the header of a stream says.
#[derive(Debug)]
struct Frame {
    columns: usize,
    rows: usize,
    /// Sampling factors of each component, columns and rows.
    factors: Vec<[u8; 2]>,
    /// Whether the components are called R, G and B.
    is_rgb: bool,
    progressive: bool,
    /// Components of the first scan.
    scanned: usize,
    /// Where the first scan begins, in the stream.
    scan: usize,
}

impl Frame {
    /// Before any pixel is decoded, of which there may be a thousand times as many as the tags say.
    fn check(&self, expected: Expected) -> Result<()> {
        let [shown, whole] = expected.rows;
        if self.columns != expected.columns || !(shown..=whole).contains(&self.rows) {
            return Err(Reason::new(format!(
                "a JPEG stream of the TIFF has {} x {} pixels where the tags say {} x {shown}",
                self.columns, self.rows, expected.columns
            )));
        }
        let components = expected.components;
        let plain = matches!(components, 1 | 3 | 4) && self.factors.len() == components;
        let fine = match *self.factors {
            // A single component has no other to be coarser than.
            [_] => true,
            [[1 | 2, 1 | 2], ref others @ ..] => others.iter().all(|factors| *factors == [1, 1]),
            _ => false,
        };
        if !plain || !fine || (!self.progressive && self.scanned != components) {
            return Err(Reason::new("a JPEG stream of the TIFF has an unusual layout"));
        }
        Ok(())
    }
}

/// Copies a stream without its first marker and without what applications have put into it: those segments could
/// contradict the TIFF's tags. Gives what the header says, where there is an image.
fn copy_segments(stream: &[u8], joined: &mut Vec<u8>) -> Result<Option<Frame>> {
    let damaged = || Reason::new("a JPEG stream of the TIFF is damaged");
    let mut rest = stream.strip_prefix(&[0xFF, 0xD8]).ok_or_else(damaged)?;
    let mut frame = None;
    loop {
        match rest {
            // Fill bytes may stand before a marker.
            [0xFF, 0xFF, ..] => rest = &rest[1..],
            // The end of tables.
            [0xFF, 0xD9, ..] | [] => return Ok(None),
            [0xFF, marker, high, low, ..] => {
                let length = 2 + usize::from(u16::from_be_bytes([*high, *low]));
                let segment = rest.get(..length).ok_or_else(damaged)?;
                let body = segment.get(4..).ok_or_else(damaged)?;
                match marker {
                    0xC0..=0xC2 => {
                        if frame.is_some() {
                            return Err(damaged());
                        }
                        frame = Some(header(*marker, body).ok_or_else(damaged)?);
                    }
                    // Scans.
                    0xDA => {
                        let mut frame: Frame = frame.ok_or_else(damaged)?;
                        frame.scanned = usize::from(*body.first().ok_or_else(damaged)?);
                        frame.scan = stream.len() - rest.len();
                        joined.extend_from_slice(rest);
                        return Ok(Some(frame));
                    }
                    0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                        return Err(Reason::new("a JPEG stream of the TIFF has a rare coding"));
                    }
                    _ => {}
                }
                if !matches!(marker, 0xE0..=0xEF | 0xFE) {
                    joined.extend_from_slice(segment);
                }
                rest = &rest[length..];
            }
            _ => return Err(damaged()),
        }
    }
}

/// The frame header, of samples of eight bits.
fn header(marker: u8, body: &[u8]) -> Option<Frame> {
    let [8, high, low, left, right, count, components @ ..] = body else { return None };
    let components = components.get(..usize::from(*count) * 3)?;
    let factors = components.chunks_exact(3).map(|part| [part[1] >> 4, part[1] & 15]).collect();
    Some(Frame {
        columns: u16::from_be_bytes([*left, *right]).into(),
        rows: u16::from_be_bytes([*high, *low]).into(),
        factors,
        is_rgb: components.iter().step_by(3).eq(b"RGB"),
        progressive: marker == 0xC2,
        scanned: 0,
        scan: 0,
    })
}
