//! A Parquet file of vectors: the columns `id`, `embedding` and `truncated`.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, bail, ensure};
use arrow_array::{
    Array as _, ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, RecordBatch, StringArray,
    cast::AsArray as _, types,
};
use arrow_schema::{DataType, Field, Schema};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
    },
    schema::types::ColumnPath,
};
use serde_json::json;

use super::{
    super::{formats::Whole, index::Index, journal::Stamp},
    Batches, Opened, kind, pages, rows,
};

/// Rows that are written together, and those of a row group.
const ROWS_AT_ONCE: usize = 1024;
const ROWS_OF_A_GROUP: usize = 16 * ROWS_AT_ONCE;
/// Rows that are read together.
const ROWS_READ: usize = 16;
/// Maximum number of bytes of a page of vectors or ids, uncompressed.
const MAX_PAGE: u64 = 64 << 20;
/// The vectors and the ids of a file may take this many times its size in memory, and the bytes below on top. Vectors hardly
/// compress, so a file that claims more was made to take memory.
const MAX_EXPANSION: u64 = 16;
const FREE_BYTES: u64 = 16 << 20;

/// A file of vectors that is being written.
pub(in crate::cli::offline) struct Writer {
    inner: ArrowWriter<Whole>,
    schema: Arc<Schema>,
    dim: usize,
    ids: Vec<String>,
    values: Vec<f32>,
    truncated: Vec<bool>,
}

impl Writer {
    /// # Errors
    /// Those of the file.
    pub(in crate::cli::offline) fn new(file: Whole, stamp: &Stamp) -> anyhow::Result<Self> {
        let length = i32::try_from(stamp.dimensions).context("the vectors are too long")?;
        let element = Arc::new(Field::new("element", DataType::Float32, false));
        let fields = vec![
            Field::new("id", DataType::Utf8, false),
            Field::new("embedding", DataType::FixedSizeList(element, length), false),
            Field::new("truncated", DataType::Boolean, false),
        ];
        // pyarrow shows the metadata of its own schema, and other programs show that of the file.
        let of_schema = stamp.fields().map(|(key, value)| (key.to_owned(), value));
        let schema = Arc::new(Schema::new_with_metadata(fields, of_schema));
        let notes = stamp.fields().into_iter();
        let notes = notes.map(|(key, value)| KeyValue::new(key.to_owned(), value)).collect();
        let properties = WriterProperties::builder()
            .set_key_value_metadata(Some(notes))
            .set_max_row_group_row_count(Some(ROWS_OF_A_GROUP))
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_column_compression(ColumnPath::from("id"), Compression::ZSTD(ZstdLevel::default()))
            .build();
        let inner = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties))?;
        let (ids, values, truncated) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { inner, schema, dim: stamp.dimensions, ids, values, truncated })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// Those of the file; also fails for a vector of another length.
    pub(in crate::cli::offline) fn put(
        &mut self,
        id: String,
        vector: &[f32],
        truncated: bool,
    ) -> anyhow::Result<()> {
        ensure!(vector.len() == self.dim, "{id}: the vector has {} values", vector.len());
        self.ids.push(id);
        self.values.extend_from_slice(vector);
        self.truncated.push(truncated);
        if self.ids.len() == ROWS_AT_ONCE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let DataType::FixedSizeList(element, length) = self.schema.field(1).data_type() else {
            bail!("the vectors are of another type");
        };
        let values = Arc::new(Float32Array::from(std::mem::take(&mut self.values)));
        let vectors = FixedSizeListArray::try_new(Arc::clone(element), *length, values, None)?;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(self.ids.drain(..))),
            Arc::new(vectors),
            Arc::new(BooleanArray::from(std::mem::take(&mut self.truncated))),
        ];
        self.inner.write(&RecordBatch::try_new(Arc::clone(&self.schema), columns)?)?;
        Ok(())
    }

    /// Writes the remaining rows. The file then gets its name.
    ///
    /// # Errors
    /// Those of the file.
    pub(in crate::cli::offline) fn finish(mut self) -> anyhow::Result<()> {
        if !self.ids.is_empty() {
            self.flush()?;
        }
        Ok(self.inner.into_inner()?.finish()?)
    }
}

/// Reads vectors with their ids.
///
/// # Errors
/// Fails if the file has no column `id`, or not one column of vectors of one length, and if a value is null.
pub(in crate::cli::offline) fn read(path: &Path) -> anyhow::Result<Index> {
    let opened = Opened::open(path)?;
    let id = opened.position("id");
    let id = id.with_context(|| format!("there is no column `id`: {}", opened.described()))?;
    let vector = vector_column(&opened)?;
    let allowed = opened.file.metadata()?.len().saturating_mul(MAX_EXPANSION) + FREE_BYTES;
    refuse_expansion(&opened, vector, allowed)?;
    let stamp = json!({
        "revision": opened.note("revision"), "preprocessing_version": opened.note("preprocessing_version"),
    });
    let mut batches = Batches::new(opened, vec![id, vector], ROWS_READ, MAX_PAGE);
    let (mut ids, mut id_bytes, mut vectors, mut dim) = (Vec::new(), 0, Vec::new(), None);
    while let Some(batch) = batches.next()? {
        let named = batch.column(batches.place(id));
        let lists = batch.column(batches.place(vector)).as_list_opt::<i32>();
        let lists = lists.context("the vectors are no lists")?;
        for row in 0..batch.num_rows() {
            let number = ids.len() + 1;
            let key = rows::key(named, row).with_context(|| format!("row {number} has no id"))?;
            id_bytes += (key.len() + size_of::<String>()) as u64;
            ensure!(id_bytes <= allowed, "its ids are longer than a file of its size can hold");
            ids.push(key);
            ensure!(lists.is_valid(row), "row {number} has no vector");
            let before = vectors.len();
            append(&mut vectors, &lists.value(row)).with_context(|| format!("row {number}"))?;
            let length = vectors.len() - before;
            let dim = *dim.get_or_insert(length);
            ensure!(length == dim, "row {number} has {length} values, and those before it {dim}");
        }
    }
    Ok(Index::new(dim.unwrap_or_default(), vectors, ids).stamped(&stamp))
}

/// `embedding`, or the only column of lists of floats.
fn vector_column(opened: &Opened) -> anyhow::Result<usize> {
    let is_vector = |data_type: &DataType| match data_type {
        DataType::List(item) => item.data_type().is_floating(),
        _ => false,
    };
    let fields = opened.fields().enumerate().filter(|(_, it)| is_vector(it.data_type()));
    let found: Vec<_> = fields.map(|(position, it)| (position, it.name() == "embedding")).collect();
    let named = found.iter().find(|(_, named)| *named);
    match (named, &*found) {
        (Some(&(position, _)), _) | (None, &[(position, _)]) => Ok(position),
        _ => bail!("there is no column `embedding` of lists of floats: {}", opened.described()),
    }
}

/// Refuses a file whose vectors take much more memory than the file has bytes.
fn refuse_expansion(opened: &Opened, vector: usize, allowed: u64) -> anyhow::Result<()> {
    let schema = opened.metadata.parquet_schema();
    let mut values = 0_u64;
    for group in opened.metadata.metadata().row_groups() {
        for (leaf, column) in group.columns().iter().enumerate() {
            if schema.get_column_root_idx(leaf) == vector {
                values = values.saturating_add(pages::check(&opened.file, column, MAX_PAGE)?);
            }
        }
    }
    ensure!(
        values.saturating_mul(size_of::<f32>() as u64) <= allowed,
        "it says that it has {values} values, more than a file of its size holds"
    );
    Ok(())
}

/// Appends the values of a vector as 32-bit floats.
fn append(vectors: &mut Vec<f32>, values: &ArrayRef) -> anyhow::Result<()> {
    ensure!(values.null_count() == 0, "a value of the vector is null");
    if let Some(values) = values.as_primitive_opt::<types::Float32Type>() {
        vectors.extend_from_slice(values.values());
    } else if let Some(values) = values.as_primitive_opt::<types::Float64Type>() {
        vectors.extend(values.values().iter().map(|&value| value as f32));
    } else if let Some(values) = values.as_primitive_opt::<types::Float16Type>() {
        vectors.extend(values.values().iter().map(|value| value.to_f32()));
    } else {
        bail!("the vectors have {}", kind(values.data_type()));
    }
    Ok(())
}
