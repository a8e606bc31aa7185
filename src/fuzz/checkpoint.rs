//! Loads a checkpoint with arbitrary bytes in one file.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use crate::{config, model};

/// The files that may have arbitrary bytes. The first byte of the input selects one.
const FILES: [&str; 10] = [
    "config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "model.safetensors",
    "tokenizer.json",
    "spiece.model",
    "open_clip_config.json",
    "processor_config.json",
    "model.safetensors.index.json",
];

/// A small valid checkpoint of the tests.
const SOUND: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tiny");

/// A folder of this process with a copy of the valid checkpoint. Fuzzing ends by killing the process, so the
/// folder is not removed.
#[expect(clippy::expect_used, reason = "nothing can be fuzzed without it")]
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("siglip-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    for name in FILES {
        restore(&folder, name).expect("a copy");
    }
    folder
});

/// Restores a file of the valid checkpoint, or removes it if the checkpoint does not have it.
fn restore(folder: &Path, name: &str) -> io::Result<()> {
    let (from, to) = (Path::new(SOUND).join(name), folder.join(name));
    match fs::copy(from, &to) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::remove_file(to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
        Err(error) => Err(error),
    }
}

/// Loads a checkpoint in which one file has the bytes of the input after its first byte.
///
/// # Panics
/// If the folder cannot be written, or loading panics.
#[expect(clippy::expect_used, reason = "nothing can be fuzzed without it")]
pub fn checkpoint(bytes: &[u8]) {
    let Some((&which, content)) = bytes.split_first() else { return };
    let name = FILES[usize::from(which) % FILES.len()];
    fs::write(FOLDER.join(name), content).expect("written");
    let source = FOLDER.display().to_string();
    let config = config::Model { source, threads: 1, ..config::Model::default() };
    let loaded = model::load(&config);
    restore(&FOLDER, name).expect("restored");
    match loaded {
        Ok(loaded) => assert!(loaded.card.embedding_dim > 0),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
