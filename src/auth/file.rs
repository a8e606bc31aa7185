//! Reads the file of keys: TOML with one table per key, whose name appears in logs and metrics.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use super::Digest;
use crate::small_file;

/// Shorter keys could be guessed.
const MIN_KEY_CHARS: usize = 16;
/// Maximum size of a file of keys: enough for thousands of keys.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// One key of the file, hashed.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) digest: Digest,
    pub(super) max_concurrent: Option<usize>,
}

/// Why the keys could not be read. It never quotes the file, which contains secrets.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read.
    #[error("cannot read the API keys in {path}")]
    Read {
        /// The file's path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The content of the file is wrong.
    #[error("the API keys in {path} are not usable: {reason}")]
    Content {
        /// The file's path.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
}

/// A table of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    key: SecretString,
    max_concurrent: Option<usize>,
}

/// Reads a file of keys.
pub(super) fn read(path: &Path) -> Result<Vec<Entry>, KeyFileError> {
    let unreadable = |source| KeyFileError::Read { path: path.to_owned(), source };
    let text = small_file::read(path, MAX_FILE_BYTES).and_then(|bytes| {
        String::from_utf8(bytes)
            .map(SecretString::from)
            .map_err(|_| io::ErrorKind::InvalidData.into())
    });
    let text = text.map_err(unreadable)?;
    parse(text.expose_secret())
        .map_err(|reason| KeyFileError::Content { path: path.to_owned(), reason })
}

/// # Errors
/// Says what is wrong, without a quotation.
pub(super) fn parse(text: &str) -> Result<Vec<Entry>, String> {
    let tables: BTreeMap<String, Table> = toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| 1 + text[..span.start].matches('\n').count());
        let place = line.map_or_else(String::new, |line| format!("line {line}: "));
        // The message may quote a value; its first words do not.
        let what = error.message().split([':', ',', '`', '"']).next().unwrap_or_default();
        format!("{place}{what}; expected is `[NAME]` and below it `key = \"...\"`")
    })?;
    if tables.is_empty() {
        return Err("there is none".to_owned());
    }
    let mut seen = HashSet::new();
    tables.into_iter().map(|(name, table)| entry(name, &table, &mut seen)).collect()
}

fn entry(name: String, table: &Table, seen: &mut HashSet<Digest>) -> Result<Entry, String> {
    let usable = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > 64 || !name.bytes().all(usable) {
        return Err(
            "a name must have 1 to 64 letters, digits, dots, dashes or underscores".to_owned()
        );
    }
    let key = table.key.expose_secret();
    if key.len() < MIN_KEY_CHARS || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "the key of `{name}` must have {MIN_KEY_CHARS} printable ASCII characters or more"
        ));
    }
    if table.max_concurrent == Some(0) {
        return Err(format!("`max_concurrent` of `{name}` must be 1 or more"));
    }
    let digest = super::digest(key.as_bytes());
    if !seen.insert(digest) {
        return Err(format!("the key of `{name}` has another name as well"));
    }
    Ok(Entry { name, digest, max_concurrent: table.max_concurrent })
}
