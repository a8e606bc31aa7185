//! Decompresses black and white rows in the codings of fax machines.

use hayro_ccitt::{DecodeSettings, Decoder, DecoderContext, EncodingMode, decode};

use super::{Result, layout::Compression};
use crate::preprocess::reason::Reason;

/// Rows of bits, 1 where black.
struct Rows {
    bits: Vec<u8>,
    columns: usize,
    rows: usize,
}

/// Decompresses rows of bits; each row begins at a whole byte.
///
/// * `size`: columns and rows
pub(super) fn unpack(
    input: &[u8],
    compression: Compression,
    [columns, rows]: [usize; 2],
) -> Result<Vec<u8>> {
    let encoding = match compression {
        Compression::FaxGroup4 => EncodingMode::Group4,
        Compression::FaxGroup3 { two_dimensional: true } => EncodingMode::Group3_2D,
        _ => EncodingMode::Group3_1D,
    };
    let settings = DecodeSettings {
        columns: columns as u32,
        rows: rows as u32,
        end_of_block: compression != Compression::FaxRuns,
        end_of_line: false,
        rows_are_byte_aligned: compression == Compression::FaxRuns,
        encoding,
        // Otherwise data that was damaged in transmission would give another image.
        strict: true,
    };
    let bits = Vec::with_capacity(columns.div_ceil(8) * rows);
    let mut sink = Rows { bits, columns, rows };
    let outcome = decode(input, &mut sink, &mut DecoderContext::new(settings));
    let whole = sink.bits.len() == columns.div_ceil(8) * rows;
    // Data after the last row is ignored.
    match outcome {
        _ if whole => Ok(sink.bits),
        Ok(_) => Err(Reason::new("the fax data of the TIFF ends early")),
        Err(_) => Err(Reason::new("the fax data of the TIFF is damaged")),
    }
}

impl Decoder for Rows {
    fn push_row(&mut self, changes: &[u32]) {
        let stride = self.columns.div_ceil(8);
        let start = self.bits.len();
        if start >= stride * self.rows {
            return;
        }
        self.bits.resize(start + stride, 0);
        let row = &mut self.bits[start..];
        for run in changes.chunks(2) {
            let end = run.get(1).map_or(self.columns, |&end| end as usize);
            blacken(row, run[0] as usize, end);
        }
    }
}

/// Sets the bits from `start` to before `end`.
fn blacken(row: &mut [u8], start: usize, end: usize) {
    let (first, last) = (start / 8, end / 8);
    let (head, tail) = (0xFF >> (start % 8), !(0xFF >> (end % 8)));
    if first == last {
        row[first] |= head & tail;
        return;
    }
    row[first] |= head;
    row[first + 1..last].fill(0xFF);
    if tail != 0 {
        row[last] |= tail;
    }
}
