//! Files of vectors: how `embed --out` writes them, and how `search` reads them again.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use super::journal::{Done, Journal, Stamp, beside, floats};
use crate::small_file;

/// Maximum number of bytes of an index that is read, and of its head.
const MAX_INDEX: u64 = 64 << 30;
const MAX_HEAD: u64 = 16 << 20;

/// The form of a file, by its ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Npy,
    Safetensors,
    Ndjson,
}

impl Format {
    /// # Errors
    /// Fails for an ending that is not written.
    pub(super) fn of(path: &Path) -> anyhow::Result<Self> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("npy") => Ok(Self::Npy),
            Some("safetensors") => Ok(Self::Safetensors),
            Some("ndjson" | "jsonl") => Ok(Self::Ndjson),
            _ => bail!("{}: the ending is one of .npy, .safetensors and .ndjson", path.display()),
        }
    }
}

/// Rows with a vector, and rows without.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) embedded: usize,
    pub(super) failed: usize,
}

/// Writes what the journal holds: vectors and ids of the rows that have one, and a list of those that failed. Each file
/// gets its name once it is whole.
///
/// # Errors
/// Those of the files.
pub(super) fn write(path: &Path, journal: &Journal, stamp: &Stamp) -> anyhow::Result<Counts> {
    let format = Format::of(path)?;
    let mut counts = Counts::default();
    journal.each(|row| {
        match row.outcome {
            Ok(_) => counts.embedded += 1,
            Err(_) => counts.failed += 1,
        }
        Ok(())
    })?;
    let shape = [counts.embedded, stamp.dimensions];
    let mut vectors = Whole::create(path)?;
    match format {
        Format::Npy => vectors.out.write_all(&npy_head(shape))?,
        Format::Safetensors => vectors.out.write_all(&safetensors_head(shape, stamp)?)?,
        Format::Ndjson => {}
    }
    let mut ids = (format != Format::Ndjson).then(|| Whole::create(&ids_path(path))).transpose()?;
    let errors = beside(path, ".errors.ndjson");
    let mut failed = (counts.failed > 0).then(|| Whole::create(&errors)).transpose()?;
    journal.each(|row| put(row, stamp, (&mut vectors, &mut ids, &mut failed)))?;
    if format == Format::Npy {
        let mut beside_it = Whole::create(&beside(path, ".json"))?;
        writeln!(beside_it.out, "{:#}", object(stamp))?;
        beside_it.finish()?;
    }
    vectors.finish()?;
    for other in [ids, failed].into_iter().flatten() {
        other.finish()?;
    }
    if counts.failed == 0 && errors.exists() {
        // Of a run before this one.
        std::fs::remove_file(errors)?;
    }
    Ok(counts)
}

fn put(
    row: Done,
    stamp: &Stamp,
    (vectors, ids, failed): (&mut Whole, &mut Option<Whole>, &mut Option<Whole>),
) -> anyhow::Result<()> {
    match (row.outcome, ids) {
        (Ok(vector), Some(ids)) => {
            for value in vector {
                vectors.out.write_all(&value.to_le_bytes())?;
            }
            writeln!(ids.out, "{}", one_line(&row.id))?;
        }
        (Ok(vector), None) => {
            let mut line = object(stamp);
            (line["id"], line["embedding"]) = (json!(row.id), json!(vector));
            if row.truncated {
                line["truncated"] = json!(true);
            }
            writeln!(vectors.out, "{line}")?;
        }
        (Err(failure), _) => {
            if let Some(failed) = failed {
                writeln!(failed.out, "{}", json!({"id": row.id, "error": failure}))?;
            }
        }
    }
    Ok(())
}

/// An id as a line of a file.
fn one_line(id: &str) -> String {
    id.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")
}

/// The stamp as JSON.
fn object(stamp: &Stamp) -> Value {
    let mut object = json!({});
    for (name, value) in stamp.fields() {
        object[name] = json!(value);
    }
    object["dimensions"] = json!(stamp.dimensions);
    object
}

/// `v.ids.txt` beside `v.npy`.
pub(super) fn ids_path(path: &Path) -> PathBuf {
    path.with_extension("ids.txt")
}

/// A file that gets its name when it is whole.
struct Whole {
    out: BufWriter<File>,
    half: PathBuf,
    path: PathBuf,
}

impl Whole {
    fn create(path: &Path) -> anyhow::Result<Self> {
        let half = beside(path, ".half");
        let file = File::create(&half).with_context(|| half.display().to_string())?;
        Ok(Self { out: BufWriter::new(file), half, path: path.to_owned() })
    }

    fn finish(self) -> io::Result<()> {
        self.out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(self.half, self.path)
    }
}

/// The head of NumPy's format, version 1.0, filled up to a multiple of 64 bytes.
fn npy_head([rows, columns]: [usize; 2]) -> Vec<u8> {
    let mut head =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let filled = (10 + head.len() + 1).next_multiple_of(64) - 10;
    head.extend(std::iter::repeat_n(' ', filled - head.len() - 1));
    head.push('\n');
    let length = u16::try_from(head.len()).unwrap_or(u16::MAX);
    [b"\x93NUMPY\x01\x00", &length.to_le_bytes()[..], head.as_bytes()].concat()
}

/// The head of a safetensors file with the one tensor `embeddings`.
fn safetensors_head([rows, columns]: [usize; 2], stamp: &Stamp) -> anyhow::Result<Vec<u8>> {
    let metadata: HashMap<_, _> = stamp.fields().into();
    let head = json!({
        "__metadata__": metadata,
        "embeddings": {"dtype": "F32", "shape": [rows, columns], "data_offsets": [0, rows * columns * 4]},
    });
    let mut head = serde_json::to_vec(&head)?;
    // Tensors begin at a multiple of eight bytes.
    head.resize(head.len().next_multiple_of(8), b' ');
    Ok([&(head.len() as u64).to_le_bytes()[..], &head].concat())
}

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

    fn new(dim: usize, vectors: Vec<f32>, ids: Vec<String>) -> Self {
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

    fn stamped(mut self, stamp: &Value) -> Self {
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

/// An id out of its line: see [`one_line`].
fn unescaped(line: &str) -> String {
    let mut id = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(next) = rest.next() {
        id.push(match next {
            '\\' => match rest.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some(other) => other,
                None => '\\',
            },
            other => other,
        });
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_line() {
        for id in ["plain", "a\nb\r", "C:\\new\\r", "\\\\n"] {
            let line = one_line(id);
            assert!(!line.contains(['\n', '\r']));
            assert_eq!(unescaped(&line), id);
        }
    }

    #[test]
    fn each_form_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let stamp = Stamp {
            model: "demo".into(),
            revision: "r1".into(),
            dtype: "f32".into(),
            preprocessing_version: "3".into(),
            dimensions: 3,
        };
        let failure = super::super::journal::Failure { code: "c".into(), detail: "d".into() };
        let row = |id: &str, outcome| Done { id: id.into(), truncated: false, outcome };
        for ending in ["npy", "safetensors", "ndjson"] {
            let path = folder.path().join(format!("v.{ending}"));
            let mut journal = Journal::open(&path, &stamp).expect("begins");
            let rows = [
                row("a\nb", Ok(vec![1.0, -2.5, 0.125])),
                row("bad", Err(failure.clone())),
                row("c", Ok(vec![0.0, 3.0, f32::MIN_POSITIVE])),
            ];
            journal.add(&rows).expect("written");
            let counts = write(&path, &journal, &stamp).expect("written");
            assert_eq!(counts, Counts { embedded: 2, failed: 1 });
            let index = Index::read(&path).expect(ending);
            assert_eq!((index.dim, &*index.ids), (3, &["a\nb".to_owned(), "c".to_owned()][..]));
            assert_eq!(index.row(0), [1.0, -2.5, 0.125]);
            assert_eq!(index.row(1), [0.0, 3.0, f32::MIN_POSITIVE]);
            assert_eq!(index.revision.as_deref(), Some("r1"), "{ending}");
            assert_eq!(index.preprocessing_version.as_deref(), Some("3"));
            let errors = std::fs::read_to_string(beside(&path, ".errors.ndjson")).expect("there");
            assert_eq!(errors, "{\"error\":{\"code\":\"c\",\"detail\":\"d\"},\"id\":\"bad\"}\n");
        }
        assert_eq!(npy_head([2, 3]).len() % 64, 0);
        assert!(Format::of(Path::new("v.bin")).is_err());
    }
}
