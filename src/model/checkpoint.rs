//! The files of a checkpoint: a folder in Hugging Face layout, or the embedded demo.

mod weight_file;

use std::{borrow::Cow, fs, io, path::Path};

pub(super) use self::weight_file::WeightFile;
use super::{LoadError, demo, open_clip};
use crate::{
    checkpoint::{
        CONFIG, MAX_SMALL_BYTES, OPEN_CLIP_CONFIG, PREPROCESSOR, PROCESSOR, SMALL_FILES, WEIGHTS,
        WEIGHTS_INDEX,
        layout::{self, Layout},
    },
    small_file,
};

/// A checkpoint's files, by role. Each name is what an error shows.
pub(super) struct Checkpoint {
    /// Small files, by name.
    files: Vec<(&'static str, Cow<'static, [u8]>)>,
    /// The safetensors files, in the order of their names.
    pub(super) weights: Vec<(String, WeightFile)>,
    /// Whether open_clip's files describe it, rather than transformers'.
    pub(super) is_open_clip: bool,
}

impl Checkpoint {
    /// * `source`: `demo`, or a folder
    ///
    /// # Errors
    /// Names the file that is missing or cannot be read.
    pub(super) fn open(source: &str) -> Result<Self, LoadError> {
        if source == demo::NAME {
            let embedded = |(name, bytes): (_, &'static [u8])| (name, Cow::Borrowed(bytes));
            return Ok(Self {
                files: demo::FILES.map(embedded).into(),
                weights: vec![(WEIGHTS.to_owned(), WeightFile::Embedded(demo::WEIGHTS))],
                is_open_clip: false,
            });
        }
        let folder = Path::new(source);
        if !folder.is_dir() {
            return Err(LoadError::new(not_a_folder(source, folder)));
        }
        let mut files = Vec::new();
        for name in SMALL_FILES {
            let path = folder.join(name);
            match small_file::read(&path, MAX_SMALL_BYTES) {
                Ok(bytes) => files.push((name, Cow::Owned(bytes))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at_fault(&path, error)),
            }
        }
        let mut checkpoint = Self { files, weights: Vec::new(), is_open_clip: false };
        let has_open_clip = checkpoint.file(OPEN_CLIP_CONFIG).is_some();
        let layout = Layout::of(checkpoint.file(CONFIG), has_open_clip);
        let layout = layout.map_err(|error| at_fault(folder, error))?;
        checkpoint.is_open_clip = layout == Layout::OpenClip;
        checkpoint.weights = weights(folder, layout)?
            .into_iter()
            .map(|name| {
                let path = folder.join(&name);
                let file = WeightFile::at(&path).map_err(|error| at_fault(&path, error))?;
                Ok((name, file))
            })
            .collect::<Result<_, LoadError>>()?;
        Ok(checkpoint)
    }

    /// Puts a description in transformers' words in the place of open_clip's.
    pub(super) fn describe(&mut self, described: open_clip::Described) {
        for (name, json) in [(CONFIG, described.config), (PREPROCESSOR, described.preprocessor)] {
            self.files.retain(|(known, _)| *known != name);
            self.files.push((name, Cow::Owned(json)));
        }
    }

    /// The file that describes the architecture, for errors.
    pub(super) fn config_name(&self) -> &'static str {
        if self.is_open_clip { OPEN_CLIP_CONFIG } else { CONFIG }
    }

    /// A small file's bytes, where the checkpoint has it.
    pub(super) fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|(known, _)| *known == name).map(|(_, bytes)| &**bytes)
    }

    /// The file that says how images are prepared, and its name: `preprocessor_config.json`, else the
    /// `processor_config.json` that holds an image processor, else nothing but the family's defaults.
    pub(super) fn preprocessor(&self) -> (&'static str, &[u8]) {
        [PREPROCESSOR, PROCESSOR]
            .into_iter()
            .find_map(|file| Some((file, self.file(file)?)))
            .unwrap_or((PREPROCESSOR, b"{}"))
    }

    /// `config.json`; empty where open_clip's file is all there is.
    pub(super) fn config(&self) -> &[u8] {
        self.file(CONFIG).unwrap_or_default()
    }

    /// Identifies the checkpoint: 16 hexadecimal digits of a hash over its files.
    ///
    /// Small files count whole. Of the weights, the header counts (names, types, shapes), the size,
    /// and evenly spread samples: fine-tunes of one model have equal headers, and reading gigabytes
    /// would double the time to load.
    ///
    /// # Errors
    /// Names the file that cannot be read.
    pub(super) fn revision(&self) -> Result<String, LoadError> {
        let mut hasher = blake3::Hasher::new();
        for (name, bytes) in &self.files {
            begin_part(&mut hasher, name, bytes.len());
            hasher.update(bytes);
        }
        for (name, file) in &self.weights {
            let hashed = hash_weights(&mut hasher, name, file);
            hashed.map_err(|error| LoadError::new(format!("{name}: {error}")))?;
        }
        Ok(hasher.finalize().to_hex()[..16].to_owned())
    }
}

/// Every part of the hash begins with its name and its length, so that no two lists of parts give the same bytes.
fn begin_part(hasher: &mut blake3::Hasher, name: &str, length: usize) {
    hasher.update(name.as_bytes());
    hasher.update(&(length as u64).to_le_bytes());
}

/// Hashes the header, the size and samples of a file of weights.
fn hash_weights(hasher: &mut blake3::Hasher, name: &str, file: &WeightFile) -> io::Result<()> {
    const SAMPLES: usize = 256;
    const SAMPLE_BYTES: usize = 4096;
    let size = file.len();
    let length = file.read(0..size.min(8))?;
    let header = length.first_chunk().map_or(0, |&length| u64::from_le_bytes(length));
    let header = usize::try_from(header).unwrap_or(usize::MAX).saturating_add(8).min(size);
    begin_part(hasher, name, header);
    file.pieces::<io::Error>(0..header, |piece| {
        hasher.update(piece);
        Ok(())
    })?;
    begin_part(hasher, "size", 8);
    hasher.update(&(size as u64).to_le_bytes());
    let step = ((size - header) / SAMPLES).max(SAMPLE_BYTES);
    for start in (header..size).step_by(step) {
        let sample = file.read(start..size.min(start + SAMPLE_BYTES))?;
        begin_part(hasher, "sample", sample.len());
        hasher.update(&sample);
    }
    Ok(())
}

fn at_fault(path: &Path, error: impl std::fmt::Display) -> LoadError {
    LoadError::new(format!("{}: {error}", path.display()))
}

/// What is said of a source that is no checkpoint, with what is easily overlooked.
fn not_a_folder(source: &str, folder: &Path) -> String {
    let hint = if folder.is_file() {
        "; it is a file, and the folder that holds it is asked for"
    } else if source.starts_with('~') {
        "; `~` is the shell's word for the home directory, which it puts in only at the beginning of a word"
    } else {
        ""
    };
    format!(
        "the model `{source}` is neither `{}`, nor a folder, nor a hub id (ORG/NAME){hint}",
        demo::NAME
    )
}

/// The names of the safetensors files of a folder that belong to its layout.
fn weights(folder: &Path, layout: Layout) -> Result<Vec<String>, LoadError> {
    let entries = fs::read_dir(folder).map_err(|error| at_fault(folder, error))?;
    // A link that leads nowhere counts as there: it is then named as what cannot be opened.
    let names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !folder.join(name).is_dir())
        .collect();
    let chosen = layout.weights(names.iter().map(String::as_str));
    match chosen.map_err(|error| at_fault(folder, error))? {
        layout::Weights::Single(name) => Ok(vec![name.to_owned()]),
        layout::Weights::Sharded => {
            let path = folder.join(WEIGHTS_INDEX);
            let index = small_file::read(&path, MAX_SMALL_BYTES);
            let index = index.map_err(|error| at_fault(&path, error))?;
            let shards = layout::shards(&index).map_err(|error| at_fault(&path, error))?;
            match shards.iter().find(|shard| !names.contains(shard)) {
                Some(shard) => {
                    Err(at_fault(&path, format!("it names `{shard}`, which is not in the folder")))
                }
                None => Ok(shards),
            }
        }
    }
}

#[cfg(test)]
mod tests;
