//! What `embed --out` has done so far, on disk: a run that is interrupted goes on where it stopped, and no row is lost
//! or doubled.
//!
//! The journal stands beside the output as `FILE.part`: a line that says by what the vectors are made, then a line for
//! each row, in order. Each block of rows is on disk before the next one begins; half a line at the end, of a process
//! that was killed, is cut off.

use std::{
    fs::{File, OpenOptions},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, BufRead as _, BufReader, BufWriter, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use crate::small_file;

/// What vectors depend on. Those of different stamps must not be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub(super) model: String,
    pub(super) revision: String,
    pub(super) dtype: String,
    pub(super) preprocessing_version: String,
    pub(super) dimensions: usize,
}

impl Stamp {
    /// The fields with their names, as output files have them.
    pub(super) fn fields(&self) -> [(&'static str, String); 5] {
        [
            ("model", self.model.clone()),
            ("revision", self.revision.clone()),
            ("dtype", self.dtype.clone()),
            ("preprocessing_version", self.preprocessing_version.clone()),
            ("dimensions", self.dimensions.to_string()),
        ]
    }
}

/// Why a row has no vector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) code: String,
    pub(super) detail: String,
}

/// A row that is done.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Done {
    pub(super) id: String,
    pub(super) truncated: bool,
    pub(super) outcome: Result<Vec<f32>, Failure>,
}

/// A row as the journal has it.
#[derive(Serialize, Deserialize)]
struct Line {
    id: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    /// 32-bit floats, little-endian, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    vector: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

/// The journal of one output file.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: BufWriter<File>,
    /// The ids of the rows that were there, hashed, in order.
    pub(super) done: Vec<u64>,
}

/// What is compared of an id.
pub(super) fn fingerprint(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

impl Journal {
    /// Opens the journal of an output, or begins one.
    ///
    /// # Errors
    /// Fails if it was begun by another model or with other options, or if it is no journal.
    pub(super) fn open(output: &Path, stamp: &Stamp) -> anyhow::Result<Self> {
        let path = beside(output, ".part");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).with_context(|| path.display().to_string())?;
        ensure!(file.metadata()?.is_file(), "{}: it is not a regular file", path.display());
        let mut done = Vec::new();
        let mut whole = 0;
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
            if whole == 0 {
                let found: Stamp = serde_json::from_slice(&line)
                    .with_context(|| format!("{} is not a journal of `embed`", path.display()))?;
                if found != *stamp {
                    bail!(
                        "{} was begun with {found:?}, and this is {stamp:?}: delete it to begin anew",
                        path.display()
                    );
                }
            } else {
                let read: Line = serde_json::from_slice(&line)
                    .with_context(|| format!("{}: a line is damaged", path.display()))?;
                done.push(fingerprint(&read.id));
            }
            whole += line.len() as u64;
            line.clear();
        }
        // What was cut off is done again.
        file.set_len(whole)?;
        file.seek(SeekFrom::End(0))?;
        let mut journal = Self { path, file: BufWriter::new(file), done };
        if whole == 0 {
            serde_json::to_writer(&mut journal.file, stamp)?;
            journal.file.write_all(b"\n")?;
        }
        Ok(journal)
    }

    /// Adds rows; they are on disk when this returns.
    pub(super) fn add(&mut self, rows: &[Done]) -> io::Result<()> {
        for row in rows {
            let bytes = |vector: &Vec<f32>| {
                let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                STANDARD.encode(bytes)
            };
            let line = Line {
                id: row.id.clone(),
                truncated: row.truncated,
                vector: row.outcome.as_ref().ok().map(bytes),
                error: row.outcome.as_ref().err().cloned(),
            };
            serde_json::to_writer(&mut self.file, &line)?;
            self.file.write_all(b"\n")?;
        }
        self.file.flush()?;
        self.file.get_ref().sync_data()
    }

    /// Calls for each row from the first.
    ///
    /// # Errors
    /// Those of the file, and of the callback.
    pub(super) fn each(
        &self,
        mut visit: impl FnMut(Done) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let reader = BufReader::new(small_file::open_regular(&self.path)?);
        for line in reader.lines().skip(1) {
            let line: Line = serde_json::from_str(&line?)?;
            let outcome = match (line.vector, line.error) {
                (Some(vector), None) => Ok(floats(&STANDARD.decode(vector)?)),
                (None, Some(failure)) => Err(failure),
                _ => bail!("{}: a line has neither a vector nor an error", self.path.display()),
            };
            visit(Done { id: line.id, truncated: line.truncated, outcome })?;
        }
        Ok(())
    }

    /// Takes the journal away: its output is whole.
    pub(super) fn remove(self) -> io::Result<()> {
        drop(self.file);
        std::fs::remove_file(self.path)
    }
}

/// Little-endian bytes as 32-bit floats.
pub(super) fn floats(bytes: &[u8]) -> Vec<f32> {
    let (chunks, _) = bytes.as_chunks::<4>();
    chunks.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect()
}

/// The file beside another whose name is that one's and this ending.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp {
        Stamp {
            model: "demo".into(),
            revision: "r".into(),
            dtype: "f32".into(),
            preprocessing_version: "3".into(),
            dimensions: 2,
        }
    }

    fn row(id: &str) -> Done {
        Done { id: id.into(), truncated: id == "b", outcome: Ok(vec![0.5, -1.25]) }
    }

    fn rows(journal: &Journal) -> Vec<Done> {
        let mut rows = Vec::new();
        let visit = |row| {
            rows.push(row);
            Ok(())
        };
        journal.each(visit).expect("reads");
        rows
    }

    #[test]
    fn an_interrupted_run_goes_on_after_its_last_whole_row() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = folder.path().join("v.npy");
        let failed = Done {
            outcome: Err(Failure { code: "undecodable_image".into(), detail: "no".into() }),
            ..row("x\ny")
        };
        let mut journal = Journal::open(&output, &stamp()).expect("begins");
        journal.add(&[row("a"), failed.clone()]).expect("written");
        drop(journal);
        // A process that was killed amid a line.
        let path = folder.path().join("v.npy.part");
        let whole = std::fs::read(&path).expect("there");
        std::fs::write(&path, [&whole[..], b"{\"id\":\"b\",\"vec"].concat()).expect("written");

        let mut journal = Journal::open(&output, &stamp()).expect("goes on");
        assert_eq!(journal.done, [fingerprint("a"), fingerprint("x\ny")]);
        journal.add(&[row("b")]).expect("written");
        assert_eq!(rows(&journal), [row("a"), failed, row("b")]);
        journal.remove().expect("removed");
        assert!(!path.exists());
    }

    #[test]
    fn vectors_of_another_model_are_not_mixed_in() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = folder.path().join("v.npy");
        drop(Journal::open(&output, &stamp()).expect("begins"));
        let other = Stamp { revision: "s".into(), ..stamp() };
        let error = Journal::open(&output, &other).expect_err("another revision").to_string();
        assert!(error.contains("delete it to begin anew"), "{error}");
        std::fs::write(folder.path().join("v.npy.part"), "hello\n").expect("written");
        assert!(Journal::open(&output, &stamp()).is_err());
    }
}
