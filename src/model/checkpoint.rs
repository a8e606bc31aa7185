//! The files of a checkpoint: a folder in Hugging Face layout, or the embedded demo.

use std::{
    fs::{self, File},
    io,
    ops::{Deref, Range},
    path::{Component, Path},
};

use serde::Deserialize;

use super::{LoadError, demo, open_clip};

const CONFIG: &str = "config.json";
const PREPROCESSOR: &str = "preprocessor_config.json";
const WEIGHTS: &str = "model.safetensors";
const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
const OPEN_CLIP_WEIGHTS: &str = "open_clip_model.safetensors";

/// The bytes of one file: embedded, mapped or read.
pub(super) enum FileBytes {
    Embedded(&'static [u8]),
    Mapped(memmap2::Mmap),
    Read(Vec<u8>),
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Embedded(bytes) => bytes,
            Self::Mapped(map) => map,
            Self::Read(bytes) => bytes,
        }
    }
}

impl FileBytes {
    /// Takes a range that was read out of the process's memory; it comes back when it is read again.
    pub(super) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: of a file that is mapped for reading the pages are dropped, and read again from the file by
            // whoever looks there next.
            let advised = unsafe { map.unchecked_advise_range(advice, range.start, range.len()) };
            if let Err(error) = advised {
                tracing::debug!(%error, "the pages of a weight file stay in memory");
            }
        }
        #[cfg(not(unix))]
        drop(range);
    }
}

/// A checkpoint's files, by role. Each name is what an error shows.
pub(super) struct Checkpoint {
    /// Small files, by name.
    files: Vec<(&'static str, FileBytes)>,
    /// The safetensors files, in the order of their names.
    pub(super) weights: Vec<(String, FileBytes)>,
    /// Whether open_clip's files describe it, rather than transformers'.
    pub(super) is_open_clip: bool,
}

/// Everything that is read beside the weights. Only the configuration must be there.
const SMALL_FILES: [&str; 8] = [
    CONFIG,
    open_clip::CONFIG,
    PREPROCESSOR,
    // What transformers 5 writes in place of the former.
    "processor_config.json",
    "tokenizer.json",
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
];

impl Checkpoint {
    /// * `source`: `demo`, or a folder
    ///
    /// # Errors
    /// Names the file that is missing or cannot be read.
    pub(super) fn open(source: &str) -> Result<Self, LoadError> {
        if source == demo::NAME {
            let embedded = |(name, bytes)| (name, FileBytes::Embedded(bytes));
            return Ok(Self {
                files: demo::FILES.map(embedded).into(),
                weights: vec![(WEIGHTS.to_owned(), FileBytes::Embedded(demo::WEIGHTS))],
                is_open_clip: false,
            });
        }
        let folder = Path::new(source);
        if !folder.is_dir() {
            return Err(LoadError::new(format!(
                "the model `{source}` is neither `{}`, nor a folder, nor a hub id (ORG/NAME)",
                demo::NAME
            )));
        }
        let mut files = Vec::new();
        for name in SMALL_FILES {
            let path = folder.join(name);
            match fs::read(&path) {
                Ok(bytes) => files.push((name, FileBytes::Read(bytes))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(LoadError::new(format!("{}: {error}", path.display())));
                }
            }
        }
        let mut checkpoint = Self { files, weights: Vec::new(), is_open_clip: false };
        if checkpoint.file(CONFIG).or(checkpoint.file(open_clip::CONFIG)).is_none() {
            let path = folder.join(CONFIG);
            return Err(LoadError::new(format!("{}: there is no such file", path.display())));
        }
        checkpoint.is_open_clip = checkpoint.file(open_clip::CONFIG).is_some()
            && (!checkpoint.transformers_reads_it() || !has_weights(folder));
        checkpoint.weights = shards(folder, checkpoint.is_open_clip)?
            .into_iter()
            .map(|name| {
                let bytes = map(&folder.join(&name))?;
                Ok((name, bytes))
            })
            .collect::<Result<_, LoadError>>()?;
        Ok(checkpoint)
    }

    /// Whether `config.json` is one that transformers reads by itself. One with an `auto_map` brings code
    /// along, and where open_clip's files lie beside it that code wraps open_clip; one without a model type
    /// is timm's.
    fn transformers_reads_it(&self) -> bool {
        #[derive(Deserialize)]
        struct Head {
            model_type: Option<String>,
            auto_map: Option<serde::de::IgnoredAny>,
            open_clip_model_name: Option<serde::de::IgnoredAny>,
        }
        let head = serde_json::from_slice::<Head>(self.config());
        head.is_ok_and(|head| {
            head.model_type.is_some()
                && head.auto_map.is_none()
                && head.open_clip_model_name.is_none()
        })
    }

    /// Puts a description in transformers' words in the place of open_clip's.
    pub(super) fn describe(&mut self, described: open_clip::Described) {
        for (name, json) in [(CONFIG, described.config), (PREPROCESSOR, described.preprocessor)] {
            self.files.retain(|(known, _)| *known != name);
            self.files.push((name, FileBytes::Read(json)));
        }
    }

    /// The file that describes the architecture, for errors.
    pub(super) fn config_name(&self) -> &'static str {
        if self.is_open_clip { open_clip::CONFIG } else { CONFIG }
    }

    /// A small file's bytes, where the checkpoint has it.
    pub(super) fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|(known, _)| *known == name).map(|(_, bytes)| &**bytes)
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
    pub(super) fn revision(&self) -> String {
        const SAMPLES: usize = 256;
        const SAMPLE_BYTES: usize = 4096;
        let mut hasher = blake3::Hasher::new();
        let mut part = |name: &str, bytes: &[u8]| {
            hasher.update(name.as_bytes());
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for (name, bytes) in &self.files {
            part(name, bytes);
        }
        for (name, bytes) in &self.weights {
            let header = bytes.first_chunk().map_or(0, |&length| u64::from_le_bytes(length));
            let header = usize::try_from(header).unwrap_or(usize::MAX).saturating_add(8);
            let (header, values) = bytes.split_at(header.min(bytes.len()));
            part(name, header);
            part("size", &(bytes.len() as u64).to_le_bytes());
            let step = (values.len() / SAMPLES).max(SAMPLE_BYTES);
            for sample in values.chunks(step) {
                part("sample", &sample[..sample.len().min(SAMPLE_BYTES)]);
            }
        }
        hasher.finalize().to_hex()[..16].to_owned()
    }
}

/// The part of `model.safetensors.index.json` that is read: tensor name to file name.
#[derive(Deserialize)]
struct Index {
    weight_map: std::collections::BTreeMap<String, String>,
}

/// Whether a folder has weights under transformers' file names.
fn has_weights(folder: &Path) -> bool {
    folder.join(WEIGHTS).is_file() || folder.join(WEIGHTS_INDEX).is_file()
}

/// The safetensors files of a folder: the single one, else those that the index names.
fn shards(folder: &Path, is_open_clip: bool) -> Result<Vec<String>, LoadError> {
    let single = [OPEN_CLIP_WEIGHTS, WEIGHTS];
    for name in if is_open_clip { &single[..] } else { &single[1..] } {
        if folder.join(name).is_file() {
            return Ok(vec![(*name).to_owned()]);
        }
    }
    let path = folder.join(WEIGHTS_INDEX);
    let at_fault = |message: String| LoadError::new(format!("{}: {message}", path.display()));
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let reason = pickled(folder).map_or_else(String::new, |name| {
                format!(
                    "; {name} is not read, because a pickle can run code: convert it to safetensors"
                )
            });
            return Err(LoadError::new(format!(
                "{}: there is neither {WEIGHTS} nor {WEIGHTS_INDEX}{reason}",
                folder.display(),
            )));
        }
        Err(error) => return Err(at_fault(error.to_string())),
    };
    let index: Index =
        serde_json::from_slice(&bytes).map_err(|error| at_fault(error.to_string()))?;
    let mut names: Vec<String> = index.weight_map.into_values().collect();
    names.sort_unstable();
    names.dedup();
    for name in &names {
        // The index is data from elsewhere; it may not lead out of the folder.
        let mut parts = Path::new(name).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(at_fault(format!("`{name}` is not a file name")));
        }
    }
    if names.is_empty() {
        return Err(at_fault("weight_map is empty".to_owned()));
    }
    Ok(names)
}

/// The first file of a folder that holds pickled weights, by its name.
fn pickled(folder: &Path) -> Option<String> {
    let names =
        fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let extension = |name: &String| Path::new(name).extension().map(|it| it.to_ascii_lowercase());
    let pickles = ["bin", "pt", "pth", "ckpt", "pkl"];
    names
        .filter(|name| extension(name).is_some_and(|it| pickles.iter().any(|&known| it == known)))
        .min()
}

fn map(path: &Path) -> Result<FileBytes, LoadError> {
    let at_fault = |error: io::Error| LoadError::new(format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(at_fault)?;
    // SAFETY: the map is read-only and lives until the weights are converted. Whoever truncates the
    // file meanwhile ends the process, which has not started serving then.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(at_fault)?;
    Ok(FileBytes::Mapped(map))
}

#[cfg(test)]
mod tests;
