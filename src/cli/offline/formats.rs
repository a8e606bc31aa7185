//! Files of vectors as `embed --out` writes them.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::{
    journal::{Failure, Journal, Stamp, beside},
    parquet_file,
};

/// The form of a file, by its ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Npy,
    Safetensors,
    Ndjson,
    Parquet,
}

impl Format {
    /// # Errors
    /// Fails for an ending that is not written.
    pub(super) fn of(path: &Path) -> anyhow::Result<Self> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("npy") => Ok(Self::Npy),
            Some("safetensors") => Ok(Self::Safetensors),
            Some("ndjson" | "jsonl") => Ok(Self::Ndjson),
            Some("parquet") if cfg!(feature = "parquet") => Ok(Self::Parquet),
            Some("parquet") => bail!(
                "{}: this build reads and writes no Parquet files: build it with the feature `parquet`",
                path.display()
            ),
            _ => bail!(
                "{}: the ending is one of .npy, .safetensors, .ndjson and .parquet",
                path.display()
            ),
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
    let mut rows = Rows::create(path, counts.embedded, stamp)?;
    let errors = beside(path, ".errors.ndjson");
    let mut failed = (counts.failed > 0).then(|| Whole::create(&errors)).transpose()?;
    journal.each(|row| match (row.outcome, &mut failed) {
        (Ok(vector), _) => rows.put(row.id, &vector, row.truncated),
        (Err(failure), Some(failed)) => Ok(put_failure(failed, &row.id, &failure)?),
        (Err(_), None) => bail!("the journal has changed"),
    })?;
    if format == Format::Npy {
        let mut beside_it = Whole::create(&beside(path, ".json"))?;
        writeln!(beside_it, "{:#}", object(stamp))?;
        beside_it.finish()?;
    }
    rows.finish()?;
    match failed {
        Some(failed) => failed.finish()?,
        // Of a run before this one.
        None if errors.exists() => std::fs::remove_file(errors)?,
        None => {}
    }
    Ok(counts)
}

fn put_failure(out: &mut Whole, id: &str, failure: &Failure) -> io::Result<()> {
    writeln!(out, "{}", json!({"id": id, "error": failure}))
}

/// A file that takes the rows with a vector.
enum Rows {
    /// The values alone, with the ids in a file beside it.
    Values {
        vectors: Whole,
        ids: Whole,
    },
    /// An object a line, which begins with the stamp.
    Lines {
        out: Whole,
        stamp: Value,
    },
    Parquet(Box<parquet_file::Writer>),
}

impl Rows {
    fn create(path: &Path, count: usize, stamp: &Stamp) -> anyhow::Result<Self> {
        let shape = [count, stamp.dimensions];
        let head = match Format::of(path)? {
            Format::Npy => npy_head(shape),
            Format::Safetensors => safetensors_head(shape, stamp)?,
            Format::Ndjson => {
                return Ok(Self::Lines { out: Whole::create(path)?, stamp: object(stamp) });
            }
            Format::Parquet => {
                let writer = parquet_file::Writer::new(Whole::create(path)?, stamp)?;
                return Ok(Self::Parquet(Box::new(writer)));
            }
        };
        let (mut vectors, ids) = (Whole::create(path)?, Whole::create(&ids_path(path))?);
        vectors.write_all(&head)?;
        Ok(Self::Values { vectors, ids })
    }

    fn put(&mut self, id: String, vector: &[f32], truncated: bool) -> anyhow::Result<()> {
        match self {
            Self::Values { vectors, ids } => {
                for value in vector {
                    vectors.write_all(&value.to_le_bytes())?;
                }
                writeln!(ids, "{}", one_line(&id))?;
            }
            Self::Lines { out, stamp } => {
                let mut line = stamp.clone();
                (line["id"], line["embedding"]) = (json!(id), json!(vector));
                if truncated {
                    line["truncated"] = json!(true);
                }
                writeln!(out, "{line}")?;
            }
            Self::Parquet(writer) => writer.put(id, vector, truncated)?,
        }
        Ok(())
    }

    fn finish(self) -> anyhow::Result<()> {
        match self {
            Self::Values { vectors, ids } => {
                vectors.finish()?;
                ids.finish()?;
            }
            Self::Lines { out, .. } => out.finish()?,
            Self::Parquet(writer) => writer.finish()?,
        }
        Ok(())
    }
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
pub(super) struct Whole {
    out: BufWriter<File>,
    half: PathBuf,
    path: PathBuf,
}

impl Whole {
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let half = beside(path, ".half");
        let file = File::create(&half).with_context(|| half.display().to_string())?;
        Ok(Self { out: BufWriter::new(file), half, path: path.to_owned() })
    }

    /// Gives the file its name, once it is on disk.
    pub(super) fn finish(self) -> io::Result<()> {
        self.out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(self.half, self.path)
    }
}

impl Write for Whole {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
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

/// An id out of its line: see [`one_line`].
pub(super) fn unescaped(line: &str) -> String {
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
    use super::{
        super::{index::Index, journal::Done},
        *,
    };

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
        let failure = Failure { code: "c".into(), detail: "d".into() };
        let row = |id: &str, outcome| Done { id: id.into(), truncated: false, outcome };
        for ending in ["npy", "safetensors", "ndjson", "parquet"] {
            if ending == "parquet" && !cfg!(feature = "parquet") {
                continue;
            }
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
