//! Parquet files: rows that `embed` and `eval` read, and the vectors that `embed --out` writes and `search` reads.
//!
//! A file is read page by page and a few rows at a time, so that memory does not grow with its row groups. What its
//! headers claim is checked before memory is taken for it: see [`pages`].

mod pages;
mod rows;
mod vectors;

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, Field};
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{
        ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
        ParquetRecordBatchReaderBuilder,
    },
};

pub(in crate::cli) use self::rows::{Record, Records, Stored};
pub(super) use self::vectors::{Writer, read};
use crate::small_file;

/// Maximum number of bytes of a footer.
const MAX_FOOTER: u32 = 64 << 20;
/// What a Parquet file ends with.
const MAGIC: &[u8; 4] = b"PAR1";

/// An open file with the content of its footer.
#[derive(Debug)]
struct Opened {
    path: PathBuf,
    file: File,
    metadata: ArrowReaderMetadata,
}

impl Opened {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let open = || {
            let mut file = small_file::open_regular(path)?;
            let mut end = [0; 8];
            let length = file.seek(SeekFrom::End(0))?;
            ensure!(length > 12, "it is not a Parquet file");
            file.seek(SeekFrom::End(-8))?;
            file.read_exact(&mut end)?;
            let [a, b, c, d, magic @ ..] = end;
            ensure!(&magic != b"PARE", "it is encrypted");
            ensure!(&magic == MAGIC, "it is not a Parquet file");
            let footer = u32::from_le_bytes([a, b, c, d]);
            ensure!(
                footer <= MAX_FOOTER,
                "its footer has {footer} bytes; at most {MAX_FOOTER} are read"
            );
            // A library of columns may have noted wider types for its own use. Parquet's own types are enough here.
            let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
            let metadata = ArrowReaderMetadata::load(&file, options)?;
            let of_groups = metadata
                .metadata()
                .row_groups()
                .iter()
                .try_fold(0_i64, |sum, it| sum.checked_add(it.num_rows()));
            ensure!(
                of_groups == Some(metadata.metadata().file_metadata().num_rows()),
                "its row groups have another number of rows than it says"
            );
            anyhow::Ok((file, metadata))
        };
        let (file, metadata) = open().with_context(|| path.display().to_string())?;
        Ok(Self { path: path.to_owned(), file, metadata })
    }

    /// The columns of the file's first level, in order.
    fn fields(&self) -> impl ExactSizeIterator<Item = &Field> {
        self.metadata.schema().fields().iter().map(AsRef::as_ref)
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.fields().position(|field| field.name() == name)
    }

    /// The columns with their types, for messages.
    fn described(&self) -> String {
        let fields = self.fields().map(|it| format!("`{}` ({})", it.name(), kind(it.data_type())));
        format!("its columns are {}", fields.collect::<Vec<_>>().join(", "))
    }

    fn rows(&self) -> u64 {
        u64::try_from(self.metadata.metadata().file_metadata().num_rows()).unwrap_or_default()
    }

    /// A value that was written beside the columns.
    fn note(&self, key: &str) -> Option<&str> {
        let notes = self.metadata.metadata().file_metadata().key_value_metadata()?;
        notes.iter().find(|note| note.key == key)?.value.as_deref()
    }
}

/// A type in a word.
fn kind(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 => "text".to_owned(),
        DataType::Binary => "bytes".to_owned(),
        DataType::Boolean => "yes or no".to_owned(),
        DataType::Float16 | DataType::Float32 | DataType::Float64 => "floats".to_owned(),
        other if other.is_integer() => "integers".to_owned(),
        DataType::List(item) => format!("lists of {}", kind(item.data_type())),
        DataType::Struct(fields) => {
            let fields: Vec<_> = fields.iter().map(|it| format!("`{}`", it.name())).collect();
            format!("structs of {}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

/// Rows of some columns, a few at a time.
struct Batches {
    opened: Opened,
    /// Numbers of columns of the first level, ascending.
    roots: Vec<usize>,
    rows_at_once: usize,
    max_page_bytes: u64,
    group: usize,
    reader: Option<ParquetRecordBatchReader>,
    /// Rows of the row group that are still to come.
    left: u64,
}

impl Batches {
    /// * `roots`: numbers of columns of the first level
    /// * `max_page_bytes`: a page of more bytes, uncompressed, is refused
    fn new(
        opened: Opened,
        mut roots: Vec<usize>,
        rows_at_once: usize,
        max_page_bytes: u64,
    ) -> Self {
        roots.sort_unstable();
        roots.dedup();
        Self { opened, roots, rows_at_once, max_page_bytes, group: 0, reader: None, left: 0 }
    }

    /// Where a column of the file stands among those that are read.
    fn place(&self, root: usize) -> usize {
        self.roots.partition_point(|&it| it < root)
    }

    /// The next rows; none at the end.
    fn next(&mut self) -> anyhow::Result<Option<RecordBatch>> {
        let name = self.opened.path.display().to_string();
        self.read().with_context(|| name)
    }

    fn read(&mut self) -> anyhow::Result<Option<RecordBatch>> {
        loop {
            if let Some(reader) = &mut self.reader {
                if let Some(batch) = reader.next().transpose()? {
                    let rows = batch.num_rows() as u64;
                    let left = self.left.checked_sub(rows);
                    self.left = left.context("a row group has more rows than it says")?;
                    return Ok(Some(batch));
                }
                // A column that ends early would be taken for the end of the rows.
                ensure!(self.left == 0, "a row group lacks {} of its rows", self.left);
                self.reader = None;
                self.group += 1;
            }
            if self.group == self.opened.metadata.metadata().num_row_groups() {
                return Ok(None);
            }
            self.open_group()?;
        }
    }

    fn open_group(&mut self) -> anyhow::Result<()> {
        let metadata = &self.opened.metadata;
        let group = metadata.metadata().row_group(self.group);
        let schema = metadata.parquet_schema();
        for (leaf, column) in group.columns().iter().enumerate() {
            if self.roots.contains(&schema.get_column_root_idx(leaf)) {
                pages::check(&self.opened.file, column, self.max_page_bytes)
                    .with_context(|| format!("the column `{}`", column.column_path()))?;
            }
        }
        self.left = u64::try_from(group.num_rows())?;
        let mask = ProjectionMask::roots(schema, self.roots.iter().copied());
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(
            self.opened.file.try_clone()?,
            metadata.clone(),
        );
        let builder = builder.with_row_groups(vec![self.group]).with_projection(mask);
        self.reader = Some(builder.with_batch_size(self.rows_at_once).build()?);
        Ok(())
    }
}

/// The bytes of a value that is a text or bytes; none if it is null or has another type.
fn bytes(column: &dyn Array, row: usize) -> Option<&[u8]> {
    use arrow_array::cast::AsArray as _;
    if !column.is_valid(row) {
        return None;
    }
    let text = column.as_string_opt::<i32>().map(|it| it.value(row).as_bytes());
    text.or_else(|| Some(column.as_binary_opt::<i32>()?.value(row)))
}

#[cfg(test)]
mod tests;
