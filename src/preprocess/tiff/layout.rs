//! Reads an image's size, its samples and their places from the tags. Anything that is not understood is
//! refused.

use image::metadata::Orientation;

use super::{
    Result,
    directory::{ByteOrder, Directory, Values, tag},
    samples::{self, Alpha, Colour},
};
use crate::preprocess::reason::Reason;

/// Maximum number of pixels of tiles outside the image, in addition to four times the image's own pixels.
const MOST_PADDING: usize = 1 << 22;

/// How samples are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    /// Huffman codes of run lengths; each row begins at a whole byte.
    FaxRuns,
    /// ITU-T T.4, with rows that refer to the one above (two-dimensional) or not.
    FaxGroup3 {
        two_dimensional: bool,
    },
    FaxGroup4,
    Lzw,
    Jpeg,
    Deflate,
    PackBits,
}

/// How a row was changed before compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Predictor {
    None,
    /// Differences between neighbours.
    Horizontal,
    /// Differences between neighbouring bytes of floats.
    Float,
}

/// An image in a file.
#[derive(Debug)]
pub(super) struct Layout<'b> {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) orientation: Orientation,
    pub(super) order: ByteOrder,
    /// Bits of each sample: 1, 2, 4, 8, 16, or 32 for floats.
    pub(super) bits: usize,
    /// Samples of each pixel, including those that are not shown.
    pub(super) samples: usize,
    pub(super) colour: Colour,
    pub(super) alpha: Alpha,
    pub(super) compression: Compression,
    pub(super) predictor: Predictor,
    /// Whether the bits of each byte are reversed.
    pub(super) reversed: bool,
    /// Whether each sample has its own strips or tiles.
    pub(super) planar: bool,
    pub(super) chunks: Chunks<'b>,
    /// Whether JPEG streams hold luma and chroma, which become RGB.
    pub(super) jpeg_luma: bool,
    /// Tables that all JPEG streams share.
    pub(super) jpeg_tables: Option<&'b [u8]>,
}

impl<'b> Layout<'b> {
    pub(super) fn read(directory: &Directory<'b>) -> Result<Self> {
        let side = |tag, name| {
            let side = directory.number(tag).and_then(|side| usize::try_from(side).ok());
            side.filter(|side| (1..=1 << 30).contains(side))
                .ok_or_else(|| Reason::new(format!("the TIFF has no {name}")))
        };
        let width = side(tag::IMAGE_WIDTH, "width")?;
        let height = side(tag::IMAGE_LENGTH, "height")?;
        let compression = compression(directory)?;
        let samples = directory.number(tag::SAMPLES_PER_PIXEL).unwrap_or(1);
        let samples = usize::try_from(samples).ok().filter(|samples| (1..=16).contains(samples));
        let samples = samples.ok_or_else(|| Reason::new("the TIFF has too many samples"))?;
        let bits = samples::bits(directory, samples)?;
        let mut colour = samples::colour(directory, bits)?;
        let planar = match directory.number(tag::PLANAR_CONFIGURATION) {
            None | Some(1) => false,
            Some(2) => samples > 1,
            Some(_) => return Err(Reason::new("the TIFF has an unknown planar configuration")),
        };
        let planes = if planar { samples } else { 1 };
        let alpha = samples::alpha(directory, &colour, [samples, planes])?;
        let predictor = match directory.number(tag::PREDICTOR) {
            None | Some(1) => Predictor::None,
            _ if !matches!(compression, Compression::Lzw | Compression::Deflate) => Predictor::None,
            Some(2) => Predictor::Horizontal,
            Some(3) => Predictor::Float,
            Some(_) => return Err(Reason::new("the TIFF has an unknown predictor")),
        };
        samples::check(directory, bits, &colour, alpha)?;
        if (predictor == Predictor::Horizontal && bits < 8)
            || ((predictor == Predictor::Float) != (bits == 32) && predictor != Predictor::None)
        {
            return Err(Reason::new(format!(
                "the TIFF has a predictor for samples of {bits} bits"
            )));
        }
        let reversed = match directory.number(tag::FILL_ORDER) {
            None | Some(1) => false,
            Some(2) if bits > 8 && compression == Compression::None => {
                return Err(Reason::new("the TIFF has reversed bits in samples of 16 bits"));
            }
            Some(2) => compression != Compression::Jpeg,
            Some(_) => return Err(Reason::new("the TIFF has an unknown fill order")),
        };
        let jpeg_luma =
            matches!(colour, Colour::YCbCr { .. }) && compression == Compression::Jpeg && !planar;
        if jpeg_luma {
            colour = Colour::Rgb;
        } else if let Colour::YCbCr { columns, rows } = colour {
            samples::check_ycbcr(directory)?;
            if (planar || predictor != Predictor::None) && (columns, rows) != (1, 1) {
                return Err(Reason::new("the TIFF has subsampled chroma in planes of its own"));
            }
        }
        let is_fax = matches!(
            compression,
            Compression::FaxRuns | Compression::FaxGroup3 { .. } | Compression::FaxGroup4
        );
        if (is_fax && (bits, samples) != (1, 1)) || (compression == Compression::Jpeg && bits != 8)
        {
            return Err(Reason::new("the TIFF has samples that its compression does not know"));
        }
        let orientation = directory.number(tag::ORIENTATION).unwrap_or(1).min(255) as u8;
        let chunks = Chunks::read(directory, [width, height])?;
        Ok(Self {
            width,
            height,
            orientation: Orientation::from_exif(orientation).unwrap_or(Orientation::NoTransforms),
            order: directory.order,
            bits,
            samples,
            colour,
            alpha,
            compression,
            predictor,
            reversed,
            planar,
            chunks,
            jpeg_luma,
            jpeg_tables: directory.values(tag::JPEG_TABLES).map(Values::bytes),
        })
    }
}

impl Layout<'_> {
    /// The number of samples of a pixel that make up its colour and alpha. They come first.
    pub(super) fn shown_samples(&self) -> usize {
        self.colour.samples() + usize::from(self.alpha != Alpha::None)
    }

    /// Bytes of an output pixel.
    pub(super) fn channels(&self) -> usize {
        let colours = if matches!(self.colour, Colour::Grey { .. }) { 1 } else { 3 };
        colours + usize::from(self.alpha != Alpha::None)
    }

    /// Bytes of a row of a strip or tile, of one plane.
    pub(super) fn row_length(&self) -> usize {
        let samples = if self.planar { 1 } else { self.samples };
        (self.chunks.columns * samples * self.bits).div_ceil(8)
    }

    /// Bytes that are held in addition to the output: a strip or tile that is decompressed as a whole, and a
    /// row.
    pub(super) fn unpacked_bytes(&self) -> u64 {
        let planes = if self.planar { self.shown_samples() } else { 1 };
        let row = self.row_length() as u64;
        let rows = self.chunks.rows.next_multiple_of(4) as u64;
        let bytes = row.saturating_mul(rows).saturating_mul(planes as u64);
        let whole = match self.compression {
            Compression::None | Compression::Deflate | Compression::PackBits => 0,
            Compression::Jpeg => {
                let [columns, rows] = [self.chunks.columns, self.chunks.rows]
                    .map(|side| (side as u64).next_multiple_of(JPEG_UNIT));
                let row = columns.saturating_mul(self.samples as u64);
                row.saturating_mul(rows * JPEG_BYTES + JPEG_ROW_BYTES).saturating_add(JPEG_TABLES)
            }
            _ => bytes,
        };
        let samples = self.chunks.columns.saturating_mul(self.samples) as u64;
        whole.saturating_add(row).saturating_add(samples.saturating_mul(SAMPLE_BYTES))
    }

    /// Bytes of this many uncompressed rows; more if chroma is subsampled.
    pub(super) fn packed_length(&self, rows: usize) -> usize {
        self.row_length() * rows.next_multiple_of(4)
    }
}

/// Bytes that a JPEG decoder takes for each sample: the sample, and a coefficient of two bytes.
const JPEG_BYTES: u64 = 3;
/// Columns and rows of the largest unit of a JPEG.
const JPEG_UNIT: u64 = 32;
/// Bytes for each sample of a row: rows before and after chroma is upsampled, with the rows above and below.
const JPEG_ROW_BYTES: u64 = 112;
/// Bytes of tables.
const JPEG_TABLES: u64 = 64 << 10;

/// Bytes that a sample of a row takes: two bytes in the order of the strip or tile, two in that of the output,
/// and the positions of colour changes of a fax.
const SAMPLE_BYTES: u64 = 12;

/// The strips or tiles of an image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunks<'b> {
    /// Columns of each strip or tile. The last tile of a row may extend beyond the image.
    pub(super) columns: usize,
    /// Rows of each strip or tile. The last strip has only the remaining rows; a tile always has all.
    pub(super) rows: usize,
    pub(super) tiled: bool,
    pub(super) offsets: Values<'b>,
    pub(super) byte_counts: Option<Values<'b>>,
}

impl<'b> Chunks<'b> {
    fn read(directory: &Directory<'b>, [width, height]: [usize; 2]) -> Result<Self> {
        let side = |tag| directory.number(tag).and_then(|side| usize::try_from(side).ok());
        if let Some(offsets) = directory.values(tag::STRIP_OFFSETS) {
            let rows = side(tag::ROWS_PER_STRIP).unwrap_or(height).min(height);
            if rows == 0 {
                return Err(Reason::new("the TIFF has strips without rows"));
            }
            let byte_counts = directory.values(tag::STRIP_BYTE_COUNTS);
            return Ok(Self { columns: width, rows, tiled: false, offsets, byte_counts });
        }
        let offsets = directory.values(tag::TILE_OFFSETS);
        let offsets =
            offsets.ok_or_else(|| Reason::new("the TIFF has neither strips nor tiles"))?;
        let sides = [side(tag::TILE_WIDTH), side(tag::TILE_LENGTH)];
        let [Some(columns @ 1..), Some(rows @ 1..)] = sides else {
            return Err(Reason::new("the TIFF has tiles without a size"));
        };
        // The part of a tile outside the image is decoded too, so it is limited: it must not be most of the
        // work.
        let padded = |side: usize, tile: usize| side.div_ceil(tile).saturating_mul(tile);
        let area = padded(width, columns).saturating_mul(padded(height, rows));
        if area > (width * height).saturating_mul(4).saturating_add(MOST_PADDING) {
            return Err(Reason::new("the TIFF has tiles that are much larger than the image"));
        }
        let byte_counts = directory.values(tag::TILE_BYTE_COUNTS);
        Ok(Self { columns, rows, tiled: true, offsets, byte_counts })
    }
}

fn compression(directory: &Directory<'_>) -> Result<Compression> {
    let name = match directory.number(tag::COMPRESSION).unwrap_or(1) {
        1 => return Ok(Compression::None),
        2 => return Ok(Compression::FaxRuns),
        3 => {
            let options = directory.number(tag::T4_OPTIONS).unwrap_or(0);
            if options & 2 != 0 {
                return Err(Reason::new("the TIFF is a fax that switches to no compression"));
            }
            return Ok(Compression::FaxGroup3 { two_dimensional: options & 1 != 0 });
        }
        4 => return Ok(Compression::FaxGroup4),
        5 => return Ok(Compression::Lzw),
        7 => return Ok(Compression::Jpeg),
        8 | 32946 => return Ok(Compression::Deflate),
        32773 => return Ok(Compression::PackBits),
        6 => "JPEG as in TIFF 6.0 (old-style JPEG)".to_owned(),
        34676 | 34677 => "SGI LogLuv".to_owned(),
        34712 | 33003 | 33005 => "JPEG 2000".to_owned(),
        34925 => "LZMA".to_owned(),
        50000 => "Zstandard".to_owned(),
        50001 => "WebP".to_owned(),
        50002 => "JPEG XL".to_owned(),
        other => format!("method {other}"),
    };
    let reason = format!("the TIFF is compressed with {name}, which is not read here");
    Err(Reason::new(reason))
}
