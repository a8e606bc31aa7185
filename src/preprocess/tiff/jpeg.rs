//! Decodes JPEG streams within a TIFF, each of one strip or tile.

use super::Result;
use crate::preprocess::{
    jpeg::{Refusal, Stream},
    reason::Reason,
};

/// The size that a strip or tile must have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    pub(super) columns: usize,
    /// Rows that are shown, and rows of a full strip. The last strip may have either number.
    pub(super) rows: [usize; 2],
    pub(super) components: usize,
}

/// Decodes a strip or tile to rows with `components` bytes per pixel, in the colours of the TIFF's tags.
///
/// The tags decide the meaning of the components, not the stream's markers. Only luma and chroma are converted
/// to RGB.
///
/// * `luma`: whether three components are luma and chroma
/// * `tables`: a stream without an image, whose tables are put before the strip's stream
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
    copy_segments(stream, &mut joined)?;
    let stream = Stream::read(&joined).map_err(reason)?;
    check(&stream, expected)?;
    stream.decode(luma && expected.components == 3).map_err(reason)
}

fn reason(refusal: Refusal) -> Reason {
    Reason::new(match refusal {
        Refusal::Damaged => "a JPEG stream of the TIFF is damaged",
        Refusal::EndsEarly => "a JPEG stream of the TIFF ends early",
        Refusal::Unsupported => "a JPEG stream of the TIFF has a rare coding",
        Refusal::TooManyScans => "a JPEG stream of the TIFF has too many scans",
        Refusal::TooMuchMemory => "a JPEG stream of the TIFF takes too much memory",
    })
}

/// Checks the stream's size before any pixel is decoded: it could have a thousand times as many pixels as the
/// tags say.
fn check(stream: &Stream<'_>, expected: Expected) -> Result<()> {
    let [shown, whole] = expected.rows;
    let [columns, rows] = stream.size();
    if columns != expected.columns || !(shown..=whole).contains(&rows) {
        return Err(Reason::new(format!(
            "a JPEG stream of the TIFF has {columns} x {rows} pixels where the tags say {} x {shown}",
            expected.columns
        )));
    }
    if stream.components() != expected.components {
        let reason = "a JPEG stream of the TIFF has colours that its tags do not go with";
        return Err(Reason::new(reason));
    }
    Ok(())
}

/// Copies a stream without its first marker and without application segments, which could contradict the TIFF's
/// tags.
fn copy_segments(stream: &[u8], joined: &mut Vec<u8>) -> Result<()> {
    let damaged = || reason(Refusal::Damaged);
    let mut rest = stream.strip_prefix(&[0xFF, 0xD8]).ok_or_else(damaged)?;
    loop {
        match rest {
            // Fill bytes may precede a marker.
            [0xFF, 0xFF, ..] => rest = &rest[1..],
            // The end of tables.
            [0xFF, 0xD9, ..] | [] => return Ok(()),
            // A scan and everything after it.
            [0xFF, 0xDA, ..] => {
                joined.extend_from_slice(rest);
                return Ok(());
            }
            [0xFF, marker, high, low, ..] => {
                let length = 2 + usize::from(u16::from_be_bytes([*high, *low]));
                let segment = rest.get(..length).filter(|segment| segment.len() >= 4);
                let segment = segment.ok_or_else(damaged)?;
                if !matches!(marker, 0xE0..=0xEF | 0xFE) {
                    joined.extend_from_slice(segment);
                }
                rest = &rest[length..];
            }
            _ => return Err(damaged()),
        }
    }
}
