//! The headers of a column's pages, read before the pages are.
//!
//! A page says how many bytes it has uncompressed, and that much memory is taken for it at once. A column with a page
//! of too many bytes is refused, whether the page is as large as that or only says so.

use std::{
    fs::File,
    io::{BufReader, Read, Seek as _, SeekFrom},
};

use anyhow::{Context as _, bail, ensure};
use parquet::file::metadata::ColumnChunkMetaData;

/// Maximum number of bytes of a page's header.
const MAX_HEADER: u64 = 16 << 20;
/// Maximum number of structures within each other in a header.
const MAX_DEPTH: usize = 16;

/// Refuses a column of a row group with a page that is too large.
///
/// Returns the number of values that the pages say they have: the elements of lists count each on its own.
///
/// # Errors
/// Fails for a page of more than `max_bytes`, and for headers that are damaged.
pub(super) fn check(
    file: &File,
    column: &ColumnChunkMetaData,
    max_bytes: u64,
) -> anyhow::Result<u64> {
    let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
    let (start, mut left) =
        (u64::try_from(start)?, u64::try_from(column.compressed_size()).context("its size")?);
    let end = start.checked_add(left).context("its end")?;
    ensure!(end <= file.metadata()?.len(), "it ends behind the file");
    let mut input = BufReader::new(file.try_clone()?);
    input.seek(SeekFrom::Start(start))?;
    let mut values = 0_u64;
    while left > 0 {
        let mut header = Compact { input: (&mut input).take(left.min(MAX_HEADER)), read: 0 };
        let page = header.page().context("a page's header is damaged")?;
        let read = header.read;
        ensure!(
            page.bytes <= max_bytes,
            "a page has {} bytes, and at most {max_bytes} are read at once: write the file with smaller row groups",
            page.bytes
        );
        // A dictionary has four bytes or more for each of its values.
        ensure!(
            page.data || page.values <= max_bytes / 4,
            "a dictionary says it has {} values",
            page.values
        );
        if page.data {
            values = values.checked_add(page.values).context("its number of values")?;
        }
        let whole = read.checked_add(page.stored).filter(|&whole| whole <= left);
        left -= whole.context("a page ends behind its column")?;
        input.seek_relative(i64::try_from(page.stored)?)?;
    }
    Ok(values)
}

/// What a header says.
#[derive(Debug, Default)]
struct Page {
    /// Uncompressed.
    bytes: u64,
    /// In the file.
    stored: u64,
    values: u64,
    /// Whether it has rows, and is no dictionary.
    data: bool,
}

/// A reader of Thrift's compact protocol, in which headers are written.
struct Compact<R> {
    input: R,
    read: u64,
}

/// The types of the protocol.
mod of {
    pub(super) const STOP: u8 = 0;
    pub(super) const TRUE: u8 = 1;
    pub(super) const FALSE: u8 = 2;
    pub(super) const BYTE: u8 = 3;
    pub(super) const I16: u8 = 4;
    pub(super) const I64: u8 = 6;
    pub(super) const DOUBLE: u8 = 7;
    pub(super) const BINARY: u8 = 8;
    pub(super) const LIST: u8 = 9;
    pub(super) const SET: u8 = 10;
    pub(super) const MAP: u8 = 11;
    pub(super) const STRUCT: u8 = 12;
    pub(super) const UUID: u8 = 13;
}

impl<R: Read> Compact<R> {
    /// `PageHeader`: 2 and 3 are sizes, 5, 7 and 8 describe a page of data, a dictionary, and a page of data.
    fn page(&mut self) -> anyhow::Result<Page> {
        let mut page = Page::default();
        let mut id = 0;
        while let Some(kind) = self.field(&mut id)? {
            match (id, kind) {
                (2 | 3, of::I16..=of::I64) => {
                    let size = u64::try_from(self.signed()?).context("a size")?;
                    *(if id == 2 { &mut page.bytes } else { &mut page.stored }) = size;
                }
                (5 | 7 | 8, of::STRUCT) => {
                    page.data |= id != 7;
                    let mut inner = 0;
                    while let Some(kind) = self.field(&mut inner)? {
                        match (inner, kind) {
                            (1, of::I16..=of::I64) => {
                                page.values = u64::try_from(self.signed()?).context("a number")?;
                            }
                            _ => self.skip(kind, 0)?,
                        }
                    }
                }
                _ => self.skip(kind, 0)?,
            }
        }
        Ok(page)
    }

    /// The type of the next field, with its number; none at the end of the structure.
    fn field(&mut self, id: &mut i64) -> anyhow::Result<Option<u8>> {
        let head = self.byte()?;
        if head == of::STOP {
            return Ok(None);
        }
        let step = i64::from(head >> 4);
        *id = if step == 0 { self.signed()? } else { *id + step };
        Ok(Some(head & 15))
    }

    fn byte(&mut self) -> anyhow::Result<u8> {
        let mut byte = [0];
        self.input.read_exact(&mut byte)?;
        self.read += 1;
        Ok(byte[0])
    }

    fn unsigned(&mut self) -> anyhow::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        bail!("a number has too many bytes")
    }

    fn signed(&mut self) -> anyhow::Result<i64> {
        let value = self.unsigned()?;
        Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    fn pass(&mut self, count: u64) -> anyhow::Result<()> {
        let passed = std::io::copy(&mut (&mut self.input).take(count), &mut std::io::sink())?;
        ensure!(passed == count, "it ends early");
        self.read += count;
        Ok(())
    }

    fn skip(&mut self, kind: u8, depth: usize) -> anyhow::Result<()> {
        ensure!(depth < MAX_DEPTH, "it is too deep");
        match kind {
            of::TRUE | of::FALSE => {}
            of::BYTE => self.pass(1)?,
            of::I16..=of::I64 => drop(self.unsigned()?),
            of::DOUBLE => self.pass(8)?,
            of::UUID => self.pass(16)?,
            of::BINARY => {
                let length = self.unsigned()?;
                self.pass(length)?;
            }
            of::LIST | of::SET => {
                let head = self.byte()?;
                let long = head >> 4 == 15;
                let count = if long { self.unsigned()? } else { u64::from(head >> 4) };
                (0..count).try_for_each(|_| self.element(head & 15, depth))?;
            }
            of::MAP => {
                let count = self.unsigned()?;
                let kinds = if count == 0 { 0 } else { self.byte()? };
                for _ in 0..count {
                    self.element(kinds >> 4, depth)?;
                    self.element(kinds & 15, depth)?;
                }
            }
            of::STRUCT => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, depth + 1)?;
                }
            }
            _ => bail!("it has an unknown type"),
        }
        Ok(())
    }

    /// An element of a list has a byte for a truth value, which a field has in its head.
    fn element(&mut self, kind: u8, depth: usize) -> anyhow::Result<()> {
        match kind {
            of::TRUE | of::FALSE => self.pass(1),
            _ => self.skip(kind, depth + 1),
        }
    }
}
