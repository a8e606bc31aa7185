//! Files of vectors as `search` reads them.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    path::Path,
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::{
    formats::{Format, ids_path, unescaped},
    journal::{beside, floats},
    parquet_file,
};
use crate::small_file;

/// Maximum number of bytes of an index that is read, and of its head.
const MAX_INDEX: u64 = 64 << 30;
const MAX_HEAD: u64 = 16 << 20;

/// Vectors with their ids, and what they were made by where the file says so.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) dim: usize,
    pub(super) vectors: Vec<f32>,
    pub(super) ids: Vec<String>,
    pub(super) revision: Option<String>,
    pub(super) preprocessing_version: Option<String>,
}

impl Index {
    /// Reads a file that `embed --out` wrote, or one of the same form.
    ///
    /// # Errors
    /// Fails if it has another form.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let index = match Format::of(path)? {
            Format::Npy => Self::of_npy(path),
            Format::Safetensors => Self::of_safetensors(path),
            Format::Ndjson => Self::of_ndjson(path),
            Format::Parquet => parquet_file::read(path),
        };
        let index = index.with_context(|| path.display().to_string())?;
        ensure!(index.dim > 0 && !index.ids.is_empty(), "{}: it has no vector", path.display());
        ensure!(
            index.vectors.len() == index.ids.len() * index.dim,
            "{}: there are {} ids for {} vectors",
            path.display(),
            index.ids.len(),
            index.vectors.len() / index.dim
        );
        Ok(index)
    }

    pub(super) fn new(dim: usize, vectors: Vec<f32>, ids: Vec<String>) -> Self {
        Self { dim, vectors, ids, revision: None, preprocessing_version: None }
    }

    fn of_npy(path: &Path) -> anyhow::Result<Self> {
        let mut file = BufReader::new(small_file::open_regular(path)?);
        let mut start = [0; 10];
        file.read_exact(&mut start)?;
        ensure!(start.starts_with(b"\x93NUMPY\x01"), "it is not an .npy file of version 1");
        let mut head = vec![0; usize::from(u16::from_le_bytes([start[8], start[9]]))];
        file.read_exact(&mut head)?;
        let head = String::from_utf8(head)?.replace(' ', "");
        ensure!(
            head.contains("'descr':'<f4'") && head.contains("'fortran_order':False"),
            "it holds no 32-bit floats row by row: {head}"
        );
        let shape = head.split("'shape':(").nth(1).and_then(|rest| rest.split(')').next());
        let shape: Vec<usize> = shape
            .unwrap_or_default()
            .split(',')
            .filter(|part| !part.is_empty())
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let &[_, dim] = &*shape else { bail!("its shape is {shape:?}, not rows and columns") };
        let stamp = small_file::read(&beside(path, ".json"), MAX_HEAD).unwrap_or_default();
        let stamp: Value = serde_json::from_slice(&stamp).unwrap_or_default();
        Ok(Self::new(dim, rest(file)?, ids(path)?).stamped(&stamp))
    }

    fn of_safetensors(path: &Path) -> anyhow::Result<Self> {
        let mut file = BufReader::new(small_file::open_regular(path)?);
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        ensure!(length <= MAX_HEAD, "it is not a safetensors file");
        let mut head = Vec::new();
        (&mut file).take(length).read_to_end(&mut head)?;
        let head: Value = serde_json::from_slice(&head)?;
        let tensor = &head["embeddings"];
        let dim = tensor["shape"][1].as_u64().and_then(|dim| usize::try_from(dim).ok());
        let (Some(dim), "F32") = (dim, tensor["dtype"].as_str().unwrap_or_default()) else {
            bail!("it has no tensor `embeddings` of 32-bit floats with rows and columns");
        };
        ensure!(tensor["data_offsets"][0] == 0, "`embeddings` is not its first tensor");
        let mut vectors = rest(file)?;
        let bytes = tensor["data_offsets"][1].as_u64().unwrap_or_default();
        vectors.truncate(usize::try_from(bytes / 4)?);
        Ok(Self::new(dim, vectors, ids(path)?).stamped(&head["__metadata__"]))
    }

    fn of_ndjson(path: &Path) -> anyhow::Result<Self> {
        let file = BufReader::new(small_file::open_regular(path)?.take(MAX_INDEX));
        let mut index = Self::new(0, Vec::new(), Vec::new());
        for (number, line) in file.lines().enumerate() {
            let line: Value = serde_json::from_str(&line?)?;
            let Some(values) = line["embedding"].as_array() else { continue };
            let values = values.iter().filter_map(Value::as_f64).map(|value| value as f32);
            let before = index.vectors.len();
            index.vectors.extend(values);
            let dim = index.vectors.len() - before;
            ensure!(index.dim == 0 || dim == index.dim, "line {} has {dim} values", number + 1);
            index.dim = dim;
            // What `embed` writes to standard output has no id.
            let id = ["id", "image", "text"].iter().find_map(|key| line[key].as_str());
            index.ids.push(id.map_or_else(|| (number + 1).to_string(), str::to_owned));
            if number == 0 {
                index = index.stamped(&line);
            }
        }
        Ok(index)
    }

    /// Sets the revision and the preprocessing version from a stamp.
    pub(super) fn stamped(mut self, stamp: &Value) -> Self {
        let text = |key: &str| stamp[key].as_str().map(str::to_owned);
        (self.revision, self.preprocessing_version) =
            (text("revision"), text("preprocessing_version"));
        self
    }

    pub(super) fn row(&self, index: usize) -> &[f32] {
        &self.vectors[index * self.dim..(index + 1) * self.dim]
    }
}

fn rest(file: BufReader<File>) -> anyhow::Result<Vec<f32>> {
    let mut bytes = Vec::new();
    file.take(MAX_INDEX).read_to_end(&mut bytes)?;
    Ok(floats(&bytes))
}

fn ids(path: &Path) -> anyhow::Result<Vec<String>> {
    let path = ids_path(path);
    let file = small_file::open_regular(&path).with_context(|| path.display().to_string())?;
    let lines = BufReader::new(file).lines();
    Ok(lines.map(|line| line.map(|line| unescaped(&line))).collect::<io::Result<_>>()?)
}
