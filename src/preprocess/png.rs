//! PNG files that have every row but no end, or wrong checksums. Browsers show them, so they are read.

use std::{borrow::Cow, io::Cursor};

use flate2::{Decompress, FlushDecompress, Status};
use image::{ColorType, ImageDecoder, ImageError, ImageFormat, ImageResult, Limits, codecs::png};
use tracing::debug;

use super::reason::Reason;

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
/// An empty last chunk with its checksum.
const END: [u8; 12] = *b"\0\0\0\0IEND\xAE\x42\x60\x82";

/// A chunk, which may be incomplete.
#[derive(Debug, Clone, Copy)]
struct Chunk<'b> {
    kind: [u8; 4],
    data: &'b [u8],
    /// Whether the data has the length that the chunk says.
    is_whole: bool,
    /// The checksum after the data, if it is there.
    stored: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checksum {
    Right,
    Wrong,
    Missing,
}

/// A PNG whose header was read. If its end or its checksums turn out to be wrong, the rows are read from a
/// corrected copy.
pub(super) struct PngDecoder<'b> {
    bytes: &'b [u8],
    limits: Limits,
    inner: png::PngDecoder<Cursor<Cow<'b, [u8]>>>,
}

impl<'b> PngDecoder<'b> {
    /// Reads the header.
    ///
    /// # Errors
    /// Fails if the header is damaged or exceeds the limits.
    pub(super) fn new(bytes: &'b [u8], limits: Limits) -> ImageResult<Self> {
        // The library stops reading metadata at the first row, but Pillow also finds an orientation after the
        // last row.
        let source = if turns_late(bytes) { copy(bytes).into() } else { Cow::Borrowed(bytes) };
        let inner = match png::PngDecoder::with_limits(Cursor::new(source), limits.clone()) {
            Err(error) if is_damage(&error) => inner_of_copy(bytes, error, limits.clone())?,
            inner => inner?,
        };
        Ok(Self { bytes, limits, inner })
    }
}

impl ImageDecoder for PngDecoder<'_> {
    fn dimensions(&self) -> (u32, u32) {
        self.inner.dimensions()
    }

    fn color_type(&self) -> ColorType {
        self.inner.color_type()
    }

    fn exif_metadata(&mut self) -> ImageResult<Option<Vec<u8>>> {
        self.inner.exif_metadata()
    }

    fn set_limits(&mut self, limits: Limits) -> ImageResult<()> {
        self.limits = limits.clone();
        self.inner.set_limits(limits)
    }

    fn read_image(self, buf: &mut [u8]) -> ImageResult<()> {
        let shape = (self.inner.dimensions(), self.inner.color_type());
        match self.inner.read_image(buf) {
            Err(error) if is_damage(&error) => {
                let mut inner = inner_of_copy(self.bytes, error, self.limits.clone())?;
                if (inner.dimensions(), inner.color_type()) != shape {
                    return Err(
                        Reason::new("the header of the PNG is damaged").of(ImageFormat::Png)
                    );
                }
                inner.set_limits(self.limits)?;
                inner.read_image(buf)
            }
            outcome => outcome,
        }
    }

    fn read_image_boxed(self: Box<Self>, buf: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(buf)
    }
}

/// An upper estimate of the bytes of the colour profile, which the library decompresses and keeps. Deflate
/// expands a byte to at most 1032, and a vector that grows by doubling is copied.
pub(super) fn profile_bytes(bytes: &[u8]) -> u64 {
    let profiles = chunks(bytes).take_while(|chunk| chunk.kind != *b"IDAT");
    let profiles = profiles.filter(|chunk| chunk.kind == *b"iCCP");
    profiles.map(|chunk| chunk.data.len() as u64 * 1032 * 3 / 2).sum()
}

/// Whether an error can come from a wrong checksum or a missing end.
fn is_damage(error: &ImageError) -> bool {
    matches!(error, ImageError::Decoding(_) | ImageError::IoError(_))
}

/// A decoder of a corrected copy, if every row is there.
///
/// * `error`: the error of the decoder of the file itself, for the log
fn inner_of_copy<'b>(
    bytes: &[u8],
    error: ImageError,
    limits: Limits,
) -> ImageResult<png::PngDecoder<Cursor<Cow<'b, [u8]>>>> {
    debug!(error = &error as &dyn std::error::Error, "a PNG is damaged");
    check(bytes).map_err(|reason| reason.of(ImageFormat::Png))?;
    png::PngDecoder::with_limits(Cursor::new(copy(bytes).into()), limits)
}

/// Whether the file has an orientation after the rows.
fn turns_late(bytes: &[u8]) -> bool {
    let mut kinds = chunks(bytes).map(|chunk| chunk.kind);
    kinds.any(|kind| kind == *b"IDAT") && kinds.any(|kind| kind == *b"eXIf")
}

/// A copy of the file with correct checksums and an end. It has only the chunks that are needed, the rows last.
fn copy(bytes: &[u8]) -> Vec<u8> {
    let mut copy = Vec::with_capacity(bytes.len() + 2 * END.len());
    copy.extend_from_slice(SIGNATURE);
    for chunk in chunks(bytes) {
        if matches!(&chunk.kind, b"IHDR" | b"PLTE" | b"tRNS" | b"eXIf") {
            write(&mut copy, chunk.kind, chunk.data);
        }
    }
    for chunk in chunks(bytes).filter(|chunk| chunk.kind == *b"IDAT") {
        write(&mut copy, chunk.kind, chunk.data);
    }
    copy.extend_from_slice(&END);
    copy
}

/// The chunks of a file. The last one may be incomplete.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    let mut rest = bytes.strip_prefix(SIGNATURE).unwrap_or_default();
    std::iter::from_fn(move || {
        let (length, behind) = rest.split_first_chunk::<4>()?;
        let (kind, behind) = behind.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        let data = &behind[..length.min(behind.len())];
        let (stored, behind) = behind[data.len()..].split_first_chunk::<4>().unzip();
        rest = behind.unwrap_or_default();
        let stored = stored.map(|stored| u32::from_be_bytes(*stored));
        // Bytes after the end chunk are not part of the file.
        if *kind == *b"IEND" {
            rest = &[];
        }
        Some(Chunk { kind: *kind, data, is_whole: data.len() == length, stored })
    })
}

impl Chunk<'_> {
    fn checksum(&self) -> Checksum {
        let mut computed = crc32fast::Hasher::new();
        computed.update(&self.kind);
        computed.update(self.data);
        match self.stored {
            None => Checksum::Missing,
            Some(stored) if stored == computed.finalize() => Checksum::Right,
            Some(_) => Checksum::Wrong,
        }
    }
}

fn write(copy: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    let start = copy.len() + 4;
    copy.extend((data.len() as u32).to_be_bytes());
    copy.extend_from_slice(&kind);
    copy.extend_from_slice(data);
    copy.extend(crc32fast::hash(&copy[start..]).to_be_bytes());
}

/// Checks that every row is there and that no damage is visible.
fn check(bytes: &[u8]) -> Result<(), Reason> {
    let wrong = |kind: &[u8; 4]| {
        let chunk = chunks(bytes).find(|chunk| chunk.kind == *kind);
        chunk.is_some_and(|chunk| !chunk.is_whole || chunk.checksum() != Checksum::Right)
    };
    // If no checksum is right, the writer never computed any.
    let computed = chunks(bytes).any(|chunk| chunk.checksum() == Checksum::Right);
    if computed && (wrong(b"PLTE") || wrong(b"tRNS")) {
        return Err(Reason::new("the colours of the PNG are damaged: their checksum is wrong"));
    }
    let expected = chunks(bytes).find(|chunk| chunk.kind == *b"IHDR");
    let expected = expected.and_then(|chunk| unpacked_length(chunk.data));
    let expected = expected.ok_or_else(|| Reason::new("the header of the PNG is damaged"))?;
    let mut inflater = Decompress::new(true);
    let mut room = vec![0; 1 << 15];
    let mut ended = false;
    for chunk in chunks(bytes).filter(|chunk| chunk.kind == *b"IDAT") {
        let mut input = chunk.data;
        while !ended {
            let (read, written) = (inflater.total_in(), inflater.total_out());
            // The compressed stream has its own checksum, which is wrong if the rows are damaged.
            let status = inflater.decompress(input, &mut room, FlushDecompress::None);
            let status = status.map_err(|_| Reason::new("the rows of the PNG are damaged"))?;
            input = &input[(inflater.total_in() - read) as usize..];
            ended = status == Status::StreamEnd || inflater.total_out() > expected;
            if inflater.total_in() == read && inflater.total_out() == written {
                break;
            }
        }
    }
    let unharmed = ended || chunks(bytes).all(|chunk| chunk.checksum() != Checksum::Wrong);
    match inflater.total_out() {
        length if length == expected && unharmed => Ok(()),
        length if length < expected => Err(Reason::new("the PNG data ends early")),
        _ => Err(Reason::new("the PNG has rows of another length than its header says")),
    }
}

/// Bytes of all rows, each with its filter byte.
fn unpacked_length(header: &[u8]) -> Option<u64> {
    let (width, rest) = header.split_first_chunk::<4>()?;
    let (height, rest) = rest.split_first_chunk::<4>()?;
    let &[depth, colour, 0, 0, interlace] = rest else { return None };
    let [width, height] = [width, height].map(|side| u64::from(u32::from_be_bytes(*side)));
    let samples = match colour {
        0 | 3 => 1,
        2 => 3,
        4 => 2,
        6 => 4,
        _ => return None,
    };
    let bits = samples * u64::from(depth);
    let pass = |columns: u64, rows: u64| {
        if columns == 0 {
            Some(0)
        } else {
            rows.checked_mul(1 + columns.checked_mul(bits)?.div_ceil(8))
        }
    };
    match interlace {
        0 => pass(width, height),
        // First column and row of each pass, and the steps to the next ones.
        1 => [
            [0, 0, 8, 8],
            [4, 0, 8, 8],
            [0, 4, 4, 8],
            [2, 0, 4, 4],
            [0, 2, 2, 4],
            [1, 0, 2, 2],
            [0, 1, 1, 2],
        ]
        .into_iter()
        .map(|[left, top, right, down]: [u64; 4]| {
            let columns = width.saturating_sub(left).div_ceil(right);
            pass(columns, height.saturating_sub(top).div_ceil(down))
        })
        .sum(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows of two grey pixels: each chunk with its data.
    fn parts() -> Vec<([u8; 4], Vec<u8>)> {
        let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut packed, &[0, 1, 2, 0, 3, 4]).expect("to memory");
        vec![
            (*b"IHDR", vec![0, 0, 0, 2, 0, 0, 0, 2, 8, 0, 0, 0, 0]),
            (*b"tEXt", b"Comment\0hello".to_vec()),
            (*b"IDAT", packed.finish().expect("to memory")),
            (*b"IEND", Vec::new()),
        ]
    }

    /// The file, with wrong checksums in some chunks.
    fn file(parts: &[([u8; 4], Vec<u8>)], wrong: impl Fn([u8; 4]) -> bool) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        for (kind, data) in parts {
            write(&mut bytes, *kind, data);
            if wrong(*kind)
                && let Some(last) = bytes.last_mut()
            {
                *last ^= 1;
            }
        }
        bytes
    }

    fn decoded(bytes: &[u8]) -> Result<Vec<u8>, String> {
        let decoder = PngDecoder::new(bytes, Limits::default()).map_err(|e| e.to_string())?;
        let mut pixels = vec![0; decoder.total_bytes() as usize];
        decoder.read_image(&mut pixels).map_err(|error| error.to_string())?;
        Ok(pixels)
    }

    #[test]
    fn wrong_checksums_and_a_missing_end_do_not_matter_where_rows_are_whole() {
        let right = vec![1, 2, 3, 4];
        assert_eq!(decoded(&file(&parts(), |_| false)), Ok(right.clone()));
        for kind in [*b"IHDR", *b"tEXt", *b"IDAT", *b"IEND"] {
            assert_eq!(
                decoded(&file(&parts(), |other| other == kind)),
                Ok(right.clone()),
                "{kind:?}"
            );
        }
        assert_eq!(decoded(&file(&parts(), |_| true)), Ok(right.clone()));
        let whole = file(&parts(), |_| false);
        // The end, and the checksum of the rows before it.
        for cut in 1..=16 {
            assert_eq!(decoded(&whole[..whole.len() - cut]), Ok(right.clone()), "{cut}");
        }
    }

    #[test]
    fn rows_that_are_missing_or_changed_are_refused() {
        let mut parts = parts();
        // Both checksums are wrong: that of the chunk, and the one at the end of the rows.
        parts[2].1.last_mut().into_iter().for_each(|byte| *byte ^= 1);
        let error = decoded(&file(&parts, |kind| kind == *b"IDAT")).expect_err("damaged");
        assert!(error.contains("rows of the PNG are damaged"), "{error}");
        // A header with another number of columns than the rows have.
        let mut parts = super::tests::parts();
        parts[0].1[3] = 3;
        let error = decoded(&file(&parts, |kind| kind == *b"IHDR")).expect_err("damaged");
        assert!(error.contains("ends early"), "{error}");
        let mut parts = super::tests::parts();
        parts[2].1.truncate(5);
        assert!(decoded(&file(&parts[..3], |_| false)).is_err());
    }

    #[test]
    fn colours_with_a_wrong_checksum_are_refused() {
        let mut parts = parts();
        parts[0].1[9] = 3;
        parts.insert(1, (*b"PLTE", vec![7; 15]));
        assert!(decoded(&file(&parts, |_| false)).is_ok());
        let error = decoded(&file(&parts, |kind| kind == *b"PLTE")).expect_err("damaged");
        assert!(error.contains("colours of the PNG are damaged"), "{error}");
        // A file without any right checksum is accepted.
        assert!(decoded(&file(&parts, |_| true)).is_ok());
    }
}
