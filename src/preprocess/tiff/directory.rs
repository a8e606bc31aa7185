//! Reads the header and the first directory of a TIFF: its tags and their values, without copies.

use crate::preprocess::reason::Reason;

use super::Result;

/// Tags that are read. Other tags are ignored.
pub(super) mod tag {
    pub(in super::super) const IMAGE_WIDTH: u16 = 256;
    pub(in super::super) const IMAGE_LENGTH: u16 = 257;
    pub(in super::super) const BITS_PER_SAMPLE: u16 = 258;
    pub(in super::super) const COMPRESSION: u16 = 259;
    pub(in super::super) const PHOTOMETRIC: u16 = 262;
    pub(in super::super) const FILL_ORDER: u16 = 266;
    pub(in super::super) const STRIP_OFFSETS: u16 = 273;
    pub(in super::super) const ORIENTATION: u16 = 274;
    pub(in super::super) const SAMPLES_PER_PIXEL: u16 = 277;
    pub(in super::super) const ROWS_PER_STRIP: u16 = 278;
    pub(in super::super) const STRIP_BYTE_COUNTS: u16 = 279;
    pub(in super::super) const PLANAR_CONFIGURATION: u16 = 284;
    pub(in super::super) const T4_OPTIONS: u16 = 292;
    pub(in super::super) const PREDICTOR: u16 = 317;
    pub(in super::super) const COLOR_MAP: u16 = 320;
    pub(in super::super) const TILE_WIDTH: u16 = 322;
    pub(in super::super) const TILE_LENGTH: u16 = 323;
    pub(in super::super) const TILE_OFFSETS: u16 = 324;
    pub(in super::super) const TILE_BYTE_COUNTS: u16 = 325;
    pub(in super::super) const INK_SET: u16 = 332;
    pub(in super::super) const EXTRA_SAMPLES: u16 = 338;
    pub(in super::super) const SAMPLE_FORMAT: u16 = 339;
    pub(in super::super) const JPEG_TABLES: u16 = 347;
    pub(in super::super) const YCBCR_COEFFICIENTS: u16 = 529;
    pub(in super::super) const YCBCR_SUBSAMPLING: u16 = 530;
    pub(in super::super) const REFERENCE_BLACK_WHITE: u16 = 532;
}

/// Byte order of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    pub(super) fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    /// A number of up to eight bytes.
    fn number(self, bytes: &[u8]) -> u64 {
        let add = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
        match self {
            Self::Little => bytes.iter().rev().fold(0, add),
            Self::Big => bytes.iter().fold(0, add),
        }
    }
}

/// The first directory of a file.
#[derive(Debug)]
pub(super) struct Directory<'b> {
    pub(super) order: ByteOrder,
    tags: Vec<(u16, Values<'b>)>,
}

/// The values of a tag, as a slice of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Values<'b> {
    order: ByteOrder,
    kind: Kind,
    bytes: &'b [u8],
}

/// The types of values that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Unsigned integers of this many bytes.
    Number(usize),
    /// Two integers of four bytes, a numerator and a denominator.
    Fraction,
}

impl Kind {
    /// The type of a code: BYTE and UNDEFINED, SHORT, LONG and IFD, LONG8 and IFD8, RATIONAL.
    fn new(code: u16) -> Option<Self> {
        match code {
            1 | 7 => Some(Self::Number(1)),
            3 => Some(Self::Number(2)),
            4 | 13 => Some(Self::Number(4)),
            16 | 18 => Some(Self::Number(8)),
            5 => Some(Self::Fraction),
            _ => None,
        }
    }

    fn size(self) -> usize {
        match self {
            Self::Number(size) => size,
            Self::Fraction => 8,
        }
    }
}

impl<'b> Values<'b> {
    pub(super) fn len(self) -> usize {
        self.bytes.len() / self.kind.size()
    }

    pub(super) fn bytes(self) -> &'b [u8] {
        self.bytes
    }

    /// One value; none after the end, or if the values are fractions.
    pub(super) fn get(self, index: usize) -> Option<u64> {
        let Kind::Number(size) = self.kind else { return None };
        let start = index.checked_mul(size)?;
        Some(self.order.number(self.bytes.get(start..start + size)?))
    }

    pub(super) fn iter(self) -> impl Iterator<Item = u64> {
        (0..self.len()).map_while(move |index| self.get(index))
    }

    /// The values as floating-point numbers; fractions are divided.
    pub(super) fn fractions(self) -> impl Iterator<Item = f64> {
        self.bytes.chunks_exact(self.kind.size()).map(move |bytes| match self.kind {
            Kind::Number(_) => self.order.number(bytes) as f64,
            Kind::Fraction => {
                self.order.number(&bytes[..4]) as f64 / self.order.number(&bytes[4..]) as f64
            }
        })
    }
}

/// Whether the first bytes are those of a BigTIFF, whose offsets have eight bytes.
pub(in crate::preprocess) fn is_big(head: &[u8]) -> bool {
    head.starts_with(b"II+\0\x08\0\0\0") || head.starts_with(b"MM\0+\0\x08\0\0")
}

impl<'b> Directory<'b> {
    /// Reads the first directory.
    pub(super) fn read(bytes: &'b [u8]) -> Result<Self> {
        let early = || Reason::new("the TIFF data ends early");
        let order = if bytes.starts_with(b"II") { ByteOrder::Little } else { ByteOrder::Big };
        let big = is_big(bytes);
        let (start, offset_size) = if big { (8, 8) } else { (4, 4) };
        let part = |start: u64, length: u64| {
            let start = usize::try_from(start).ok()?;
            bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)
        };
        let number = |start, length| part(start, length).map(|bytes| order.number(bytes));
        let at = number(start, offset_size).ok_or_else(early)?;
        let (count_size, entry_size) = if big { (8, 20) } else { (2, 12) };
        let count = number(at, count_size).ok_or_else(early)?;
        let length = count.checked_mul(entry_size).ok_or_else(early)?;
        let entries = part(at.saturating_add(count_size), length).ok_or_else(early)?;
        let mut tags: Vec<(u16, Values<'b>)> = Vec::new();
        for entry in entries.chunks_exact(entry_size as usize) {
            let tag = order.number(&entry[..2]) as u16;
            if !is_read(tag) {
                continue;
            }
            let Some(kind) = Kind::new(order.number(&entry[2..4]) as u16) else {
                return Err(Reason::new(format!("TIFF tag {tag} has values of another type")));
            };
            let (count, value) = entry[4..].split_at(offset_size as usize);
            let length = order.number(count).checked_mul(kind.size() as u64).ok_or_else(early)?;
            let values = match value.get(..usize::try_from(length).unwrap_or(usize::MAX)) {
                // Values that fit are stored in the entry itself.
                Some(inside) => inside,
                None => part(order.number(value), length).ok_or_else(|| {
                    Reason::new(format!("the values of TIFF tag {tag} lie beyond the end"))
                })?,
            };
            if tags.iter().any(|(other, _)| *other == tag) {
                return Err(Reason::new(format!("TIFF tag {tag} occurs twice")));
            }
            tags.push((tag, Values { order, kind, bytes: values }));
        }
        Ok(Self { order, tags })
    }

    pub(super) fn values(&self, tag: u16) -> Option<Values<'b>> {
        let found = self.tags.iter().find(|(other, _)| *other == tag);
        found.map(|(_, values)| *values).filter(|values| values.len() > 0)
    }

    /// The first value of a tag.
    pub(super) fn number(&self, tag: u16) -> Option<u64> {
        self.values(tag)?.get(0)
    }
}

fn is_read(tag: u16) -> bool {
    use tag::*;
    matches!(
        tag,
        IMAGE_WIDTH
            | IMAGE_LENGTH
            | BITS_PER_SAMPLE
            | COMPRESSION
            | PHOTOMETRIC
            | FILL_ORDER
            | STRIP_OFFSETS
            | ORIENTATION
            | SAMPLES_PER_PIXEL
            | ROWS_PER_STRIP
            | STRIP_BYTE_COUNTS
            | PLANAR_CONFIGURATION
            | T4_OPTIONS
            | PREDICTOR
            | COLOR_MAP
            | TILE_WIDTH
            | TILE_LENGTH
            | TILE_OFFSETS
            | TILE_BYTE_COUNTS
            | INK_SET
            | EXTRA_SAMPLES
            | SAMPLE_FORMAT
            | JPEG_TABLES
            | YCBCR_COEFFICIENTS
            | YCBCR_SUBSAMPLING
            | REFERENCE_BLACK_WHITE
    )
}
