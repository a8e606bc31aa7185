//! Values out of the files: sliced, joined or turned as the names say, and widened or rounded.

use std::{io, ops::Range};

use safetensors::{SafeTensorError, SafeTensors, tensor::Metadata};
use serde_json::Value;

use super::{
    LoadError, WeightFile, Weights,
    element::Element,
    names::{Rows, Source},
};
use crate::checkpoint::content;

/// The longest header that is read; the longest that the library takes.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Reads a file's header: where its data begins, and the place of each tensor in the data.
///
/// # Errors
/// Says what is wrong with the file.
pub(super) fn header(file: &WeightFile) -> Result<(usize, Metadata), String> {
    let read = |end: u64| {
        let end = usize::try_from(end).unwrap_or(usize::MAX).min(file.len());
        file.read(0..end).map_err(|error| error.to_string())
    };
    let length = read(8)?.first_chunk().map_or(0, |&length| u64::from_le_bytes(length));
    let head = read(length.min(MAX_HEADER_BYTES).saturating_add(8))?;
    match SafeTensors::read_metadata(&head) {
        // The header is right, and what it describes is not in these bytes.
        Ok(_) | Err(SafeTensorError::MetadataIncompleteBuffer) => {}
        Err(error) => return Err(fault(&head, file.len(), &error)),
    }
    let metadata: Metadata =
        serde_json::from_slice(&head[8..]).map_err(|error| error.to_string())?;
    let data = metadata.tensors().values().map(|info| info.data_offsets.1).max().unwrap_or(0);
    if head.len().checked_add(data) != Some(file.len()) {
        return Err(fault(&head, file.len(), &SafeTensorError::MetadataIncompleteBuffer));
    }
    Ok((head.len(), metadata))
}

/// Why a file is not safetensors: what it is instead, or how much of it is missing.
///
/// * `bytes`: its beginning, as far as its header reaches
fn fault(bytes: &[u8], file_length: usize, error: &SafeTensorError) -> String {
    if let Err(found) = content::check(bytes) {
        return found.to_string();
    }
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\x80\x02") {
        return "this is a pickle, which is not read, because it can run code; convert it to safetensors"
            .to_owned();
    }
    let cut = |whole: u64| {
        format!("the file is cut short: it has {} of {whole} bytes; fetch it again", file_length)
    };
    let Some(&length) = bytes.first_chunk() else { return cut(8) };
    let (header, length) = (&bytes[8..], u64::from_le_bytes(length));
    match error {
        SafeTensorError::InvalidHeaderLength => return cut(length.saturating_add(8)),
        SafeTensorError::MetadataIncompleteBuffer => {
            let header = header.get(..usize::try_from(length).unwrap_or(usize::MAX));
            let header = header.and_then(|json| serde_json::from_slice::<Value>(json).ok());
            let end = |tensor: &Value| tensor.get("data_offsets")?.get(1)?.as_u64();
            let ends = header
                .as_ref()
                .and_then(Value::as_object)
                .map(|tensors| tensors.values().filter_map(end));
            let end = ends.and_then(Iterator::max).unwrap_or_default();
            let whole = length.saturating_add(8).saturating_add(end);
            if whole > file_length as u64 {
                return cut(whole);
            }
            return format!("the file has {file_length} bytes, but its header describes {whole}");
        }
        _ => {}
    }
    format!("this is not a safetensors file that can be read: {error}")
}

/// Why the values of a tensor cannot be read.
enum Fault {
    Type,
    Changed,
    File(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

impl Weights {
    /// Appends a tensor's values to `values`, widened or rounded to its element type. Layer scale is multiplied into
    /// the projection whose outputs it scales: the sums are the same.
    pub(super) fn read<T: Element>(
        &self,
        name: &str,
        shape: &[usize],
        values: &mut Vec<T>,
    ) -> Result<(), LoadError> {
        let start = values.len();
        self.read_unscaled(name, shape, values)?;
        let Some(scale) = self.names.layer_scale(name).filter(|scale| self.contains(scale)) else {
            return Ok(());
        };
        let (outputs, inputs) = match shape {
            [outputs, inputs @ ..] => (*outputs, inputs.iter().product::<usize>()),
            [] => (1, 1),
        };
        let mut factors = Vec::<f32>::with_capacity(outputs);
        for stored in self.source(&scale).stored() {
            self.read_stored(stored, &[outputs], 0..outputs, &mut factors)?;
        }
        if shape.len() > 1 {
            // The bias is scaled by the same parameters.
            self.parameters.set(self.parameters.get() + outputs as u64);
        }
        for (row, factor) in values[start..].chunks_exact_mut(inputs.max(1)).zip(factors) {
            for value in row {
                *value = T::from_f32(value.to_f64() as f32 * factor);
            }
        }
        Ok(())
    }

    fn read_unscaled<T: Element>(
        &self,
        name: &str,
        shape: &[usize],
        values: &mut Vec<T>,
    ) -> Result<(), LoadError> {
        let count = shape.iter().product::<usize>();
        let (height, rest) = shape.split_first().map_or((1, &[][..]), |(&rows, rest)| (rows, rest));
        match self.source(name) {
            Source::Stored(parts) => {
                for (stored, rows) in parts {
                    let (stored_rows, from) = match rows {
                        Rows::All => (height, 0),
                        Rows::Third(third) => (3 * height, third * height),
                        Rows::Thirds(thirds) => (height / 3 * thirds, 0),
                    };
                    let taken = height.min(stored_rows);
                    let width = rest.iter().product::<usize>();
                    let stored_shape: Vec<_> = shape
                        .first()
                        .map(|_| stored_rows)
                        .into_iter()
                        .chain(rest.iter().copied())
                        .collect();
                    self.read_stored(
                        &stored,
                        &stored_shape,
                        from * width..(from + taken) * width,
                        values,
                    )?;
                }
            }
            Source::Transposed(stored) => {
                let mut columns = Vec::<T>::with_capacity(count);
                let width = rest.iter().product::<usize>();
                self.read_stored(&stored, &[width, height], 0..count, &mut columns)?;
                values.extend((0..count).map(|at| columns[at % width * height + at / width]));
            }
            Source::Identity => {
                let width = rest.iter().product::<usize>();
                let one = |at| f32::from(u8::from(at / width == at % width));
                values.extend((0..count).map(|at| T::from_f32(one(at))));
                return Ok(());
            }
            Source::Zeros => {
                values.extend((0..count).map(|_| T::from_f32(0.0)));
                return Ok(());
            }
        }
        self.parameters.set(self.parameters.get() + count as u64);
        Ok(())
    }

    /// Appends some of the values of a stored tensor.
    ///
    /// * `shape`: the whole tensor's
    fn read_stored<T: Element>(
        &self,
        stored: &str,
        shape: &[usize],
        range: Range<usize>,
        values: &mut Vec<T>,
    ) -> Result<(), LoadError> {
        let Some((shard, info)) = self.find(stored) else {
            let files: Vec<_> = self.shards.iter().map(|shard| shard.file.as_str()).collect();
            return Err(LoadError::new(format!(
                "tensor `{stored}` is missing from {}",
                files.join(", ")
            )));
        };
        // A scalar may be stored as [] or [1], and a table of positions with a batch of one before it.
        let trimmed = |shape: &[usize]| -> Vec<usize> {
            shape.iter().copied().skip_while(|&side| side == 1).collect()
        };
        if trimmed(&info.shape) != trimmed(shape) {
            return Err(LoadError::new(format!(
                "{}: tensor `{stored}` has the shape {:?}, the configuration asks for {shape:?}",
                shard.file, info.shape
            )));
        }
        let (start, end) = info.data_offsets;
        let size = info.dtype.bitsize() / 8;
        let first = shard.data_start + start + range.start * size;
        let bytes = first..first + range.len() * size;
        if bytes.end > shard.data_start + end {
            return Err(LoadError::new(format!("{}: tensor `{stored}` ends early", shard.file)));
        }
        let read = shard
            .bytes
            .pieces(bytes, |piece| T::extend(values, info.dtype, piece).map_err(|()| Fault::Type));
        let read = read.and_then(|()| match shard.bytes.is_unchanged()? {
            true => Ok(()),
            false => Err(Fault::Changed),
        });
        read.map_err(|fault| {
            LoadError::new(match fault {
                Fault::Type => format!(
                    "{}: tensor `{stored}` is {:?}; f32, f16 and bf16 are read",
                    shard.file, info.dtype
                ),
                Fault::Changed => format!("{}: the file changed while it was read", shard.file),
                Fault::File(error) => {
                    format!("{}: tensor `{stored}` cannot be read: {error}", shard.file)
                }
            })
        })?;
        self.taken.borrow_mut().insert(stored.to_owned());
        Ok(())
    }
}
