//! Decodes the first image of a TIFF file.
//!
//! This module reads the tags, because they decide the colours, and leaves decompression to libraries. It holds
//! a few rows in addition to the output, or one strip or tile if that is decompressed as a whole. No byte of
//! the file is read much more than twice.

mod directory;
mod fax;
mod jpeg;
mod layout;
mod lzw;
mod pixels;
mod samples;
mod source;

use std::borrow::Cow;

use image::{
    ColorType, ImageDecoder, ImageError, ImageFormat, ImageResult, Limits,
    error::{LimitError, LimitErrorKind},
    metadata::Orientation,
};

use self::{
    directory::Directory,
    jpeg::Expected,
    layout::{Compression, Layout},
    lzw::Lzw,
    samples::Colour,
    source::Source,
};
use super::reason::Reason;

pub(super) use directory::is_big;

type Result<T> = std::result::Result<T, Reason>;

/// Bytes that strips and tiles may have together, in addition to twice the bytes of the file. Some writers let
/// several blank strips share the same bytes; without a limit, a small file could take hours.
const MOST_SHARED_BYTES: u64 = 1 << 16;

/// A TIFF whose tags were read and understood.
pub(super) struct TiffDecoder<'b> {
    bytes: &'b [u8],
    layout: Layout<'b>,
}

/// The place of a strip or tile in the image.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Its index within a plane.
    index: usize,
    left: usize,
    top: usize,
    /// Columns and rows that lie within the image.
    columns: usize,
    rows: usize,
}

impl<'b> TiffDecoder<'b> {
    /// Reads the tags of the first image.
    ///
    /// # Errors
    /// Fails with a plain reason for everything that is not understood.
    pub(super) fn new(bytes: &'b [u8]) -> ImageResult<Self> {
        let read = || {
            let layout = Layout::read(&Directory::read(bytes)?)?;
            let decoder = Self { bytes, layout };
            decoder.check_chunks()?;
            Ok(decoder)
        };
        read().map_err(|reason: Reason| reason.of(ImageFormat::Tiff))
    }

    /// Bytes that decoding takes in addition to the image.
    pub(super) fn extra_bytes(&self) -> u64 {
        self.layout.unpacked_bytes()
    }

    /// Strips or tiles of a plane.
    fn chunks_per_plane(&self) -> usize {
        let Layout { width, height, chunks, .. } = &self.layout;
        width.div_ceil(chunks.columns) * height.div_ceil(chunks.rows)
    }

    /// Planes that are read. Planes that are not shown may be missing.
    fn planes(&self) -> usize {
        if self.layout.planar { self.layout.shown_samples() } else { 1 }
    }

    /// Limits the work by the length of the file.
    fn check_chunks(&self) -> Result<()> {
        let Layout { chunks, compression, .. } = &self.layout;
        let per_plane = self.chunks_per_plane();
        let planes = if self.layout.planar { self.layout.samples } else { 1 };
        if chunks.offsets.len() != per_plane * planes {
            return Err(Reason::new(
                "the TIFF has strips or tiles of another number than its size needs",
            ));
        }
        if *compression == Compression::None {
            return Ok(());
        }
        let counts = chunks.byte_counts.filter(|counts| counts.len() == chunks.offsets.len());
        let counts =
            counts.ok_or_else(|| Reason::new("the TIFF does not say how long its strips are"))?;
        let sum = counts.iter().fold(0, u64::saturating_add);
        let file = self.bytes.len() as u64;
        // Bytes after the end of the file cannot be read.
        let read = if counts.len() == 1 { sum.min(file) } else { sum };
        if read > file.saturating_mul(2).saturating_add(MOST_SHARED_BYTES) {
            return Err(Reason::new("the TIFF has strips or tiles that share the same bytes"));
        }
        // A JPEG stream costs more time than its bytes suggest: it may have only thirty.
        if *compression == Compression::Jpeg && per_plane > 1 && chunks.rows % 8 != 0 {
            return Err(Reason::new(
                "the TIFF has JPEG strips of a number of rows that is no multiple of 8",
            ));
        }
        Ok(())
    }

    /// The compressed bytes of a strip or tile.
    fn packed(&self, index: usize) -> Result<&'b [u8]> {
        let outside = || Reason::new("the TIFF data ends early");
        let number = |value: Option<u64>| value.and_then(|value| usize::try_from(value).ok());
        let chunks = &self.layout.chunks;
        let start = number(chunks.offsets.get(index)).ok_or_else(outside)?;
        let behind = self.bytes.get(start..).ok_or_else(outside)?;
        if self.layout.compression == Compression::None {
            // Their length follows from the size, because the tag of writers is often wrong.
            return Ok(behind);
        }
        let length = chunks.byte_counts.and_then(|counts| number(counts.get(index)));
        Ok(&behind[..length.unwrap_or(0).min(behind.len())])
    }

    /// Starts to read a strip or tile of a plane.
    fn start(
        &self,
        (source, lzw): (&mut Source<'b>, &mut Lzw),
        plane: usize,
        place: Place,
    ) -> Result<()> {
        let layout = &self.layout;
        let packed = self.packed(plane * self.chunks_per_plane() + place.index)?;
        let packed = match layout.compression {
            // Only the bytes that are read.
            Compression::None if layout.reversed => {
                &packed[..packed.len().min(layout.packed_length(place.rows))]
            }
            _ => packed,
        };
        let packed = if layout.reversed {
            Cow::Owned(packed.iter().map(|byte| byte.reverse_bits()).collect())
        } else {
            Cow::Borrowed(packed)
        };
        let [columns, rows] = [layout.chunks.columns, layout.chunks.rows];
        let unpacked = match layout.compression {
            Compression::FaxRuns | Compression::FaxGroup3 { .. } | Compression::FaxGroup4 => {
                let rows = if layout.chunks.tiled { rows } else { place.rows };
                fax::unpack(&packed, layout.compression, [columns, rows])?.into()
            }
            Compression::Jpeg => {
                let components = if layout.planar { 1 } else { layout.samples };
                let expected = Expected { columns, rows: [place.rows, rows], components };
                let tables = layout.jpeg_tables;
                jpeg::unpack(&packed, tables, layout.jpeg_luma, expected)?.into()
            }
            Compression::Lzw => lzw.unpack(&packed, layout.packed_length(place.rows)).into(),
            _ => packed,
        };
        source.start(unpacked);
        Ok(())
    }

    fn read(&self, out: &mut [u8]) -> Result<()> {
        let layout = &self.layout;
        let chunks = &layout.chunks;
        let mut sources: Vec<_> = (0..self.planes()).map(|_| Source::new(layout)).collect();
        let mut lzw = Lzw::default();
        let across = layout.width.div_ceil(chunks.columns);
        for index in 0..self.chunks_per_plane() {
            let left = index % across * chunks.columns;
            let top = index / across * chunks.rows;
            let columns = chunks.columns.min(layout.width - left);
            let rows = chunks.rows.min(layout.height - top);
            let place = Place { index, left, top, columns, rows };
            for (plane, source) in sources.iter_mut().enumerate() {
                self.start((source, &mut lzw), plane, place)?;
            }
            match layout.colour {
                Colour::YCbCr { columns, rows } if (columns, rows) != (1, 1) => {
                    self.read_blocks(&mut sources[0], place, out)?;
                }
                _ => self.read_rows(&mut sources, place, out)?,
            }
        }
        Ok(())
    }

    /// Reads rows whose pixels have all their samples.
    fn read_rows(&self, sources: &mut [Source<'b>], place: Place, out: &mut [u8]) -> Result<()> {
        let layout = &self.layout;
        let in_row = if layout.planar { 1 } else { layout.samples };
        let mut bytes = vec![0; layout.row_length()];
        let mut plane = vec![0_u16; layout.chunks.columns * in_row];
        let mut samples = vec![0_u16; place.columns * layout.samples];
        for row in place.top..place.top + place.rows {
            for (index, source) in sources.iter_mut().enumerate() {
                source.fill(&mut bytes)?;
                pixels::spread(layout, &mut bytes, in_row, &mut plane);
                if layout.planar {
                    let sample = samples[index..].iter_mut().step_by(layout.samples);
                    sample.zip(&plane).for_each(|(to, &from)| *to = from);
                } else {
                    let shown = samples.len();
                    samples.copy_from_slice(&plane[..shown]);
                }
            }
            pixels::write(layout, &samples, self.line(place, row, out));
        }
        Ok(())
    }

    /// Reads luma and subsampled chroma: blocks of pixels, whose luma samples come first.
    fn read_blocks(&self, source: &mut Source<'b>, place: Place, out: &mut [u8]) -> Result<()> {
        let Colour::YCbCr { columns, rows } = self.layout.colour else { return Ok(()) };
        let across = self.layout.chunks.columns.div_ceil(columns);
        let mut blocks = vec![0; across * (columns * rows + 2)];
        let tiled = self.layout.chunks.tiled;
        let stored = if tiled { self.layout.chunks.rows } else { place.rows };
        for top in (0..stored.div_ceil(rows)).map(|row| row * rows) {
            source.fill(&mut blocks)?;
            for row in top..(top + rows).min(place.rows) {
                let line = self.line(place, place.top + row, out);
                for (column, pixel) in line.chunks_exact_mut(3).enumerate() {
                    let block = &blocks[column / columns * (columns * rows + 2)..];
                    let luma = block[(row - top) * columns + column % columns];
                    let [blue, red] = [block[columns * rows], block[columns * rows + 1]];
                    pixel.copy_from_slice(&pixels::rgb(luma, blue, red));
                }
            }
        }
        Ok(())
    }

    /// The pixels of a row that a strip or tile covers.
    fn line<'o>(&self, place: Place, row: usize, out: &'o mut [u8]) -> &'o mut [u8] {
        let channels = self.layout.channels();
        let start = (row * self.layout.width + place.left) * channels;
        &mut out[start..start + place.columns * channels]
    }
}

impl ImageDecoder for TiffDecoder<'_> {
    fn dimensions(&self) -> (u32, u32) {
        (self.layout.width as u32, self.layout.height as u32)
    }

    fn color_type(&self) -> ColorType {
        match self.layout.channels() {
            1 => ColorType::L8,
            2 => ColorType::La8,
            3 => ColorType::Rgb8,
            _ => ColorType::Rgba8,
        }
    }

    fn orientation(&mut self) -> ImageResult<Orientation> {
        Ok(self.layout.orientation)
    }

    fn set_limits(&mut self, limits: Limits) -> ImageResult<()> {
        let whole = self.total_bytes().saturating_add(self.extra_bytes());
        if limits.max_alloc.is_some_and(|most| whole > most) {
            let kind = LimitErrorKind::InsufficientMemory;
            return Err(ImageError::Limits(LimitError::from_kind(kind)));
        }
        Ok(())
    }

    fn read_image(self, buf: &mut [u8]) -> ImageResult<()> {
        self.read(buf).map_err(|reason| reason.of(ImageFormat::Tiff))
    }

    fn read_image_boxed(self: Box<Self>, buf: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(buf)
    }
}

#[cfg(test)]
mod tests;
