//! The cache folder, in the layout of `huggingface_hub`:
//!
//! ```text
//! models--ORG--NAME/refs/main                        the commit that the branch stood for last
//! models--ORG--NAME/snapshots/COMMIT/config.json     a link to its blob
//! models--ORG--NAME/blobs/HASH                       the bytes; HASH.incomplete until they are checked
//! models--ORG--NAME/.no_exist/COMMIT/spiece.model    the commit has no such file
//! .locks/models--ORG--NAME/HASH.lock                 held while a blob is written
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    HubError, RepoId, Snapshot,
    select::{self, SMALL_FILES, WEIGHTS, WEIGHTS_INDEX},
};

/// The longest name that file systems take, and longer than any branch.
const MAX_REVISION_BYTES: usize = 200;

/// Whether a text can name a branch, a tag or a commit, and a file below `refs`.
pub(super) fn is_revision(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/+".contains(c);
    text.len() <= MAX_REVISION_BYTES
        && text.chars().all(plain)
        && text.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
}

/// Whether a text is a whole commit hash.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// One model's part of the cache.
pub(super) struct Repo {
    folder: PathBuf,
    locks: PathBuf,
}

impl Repo {
    pub(super) fn new(cache: &Path, id: &RepoId) -> Self {
        let name = format!("models--{}", id.to_string().replace('/', "--"));
        Self { folder: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The commit that a revision stands for as far as the cache knows; a commit stands for itself.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let commit = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    pub(super) fn snapshot(&self, commit: &str) -> Snapshot {
        Snapshot { folder: self.files(commit), commit: commit.to_owned() }
    }

    fn files(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    fn absent(&self, commit: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit)
    }

    /// Where the bytes of a file lie.
    pub(super) fn blob(&self, hash: &str) -> PathBuf {
        self.folder.join("blobs").join(hash)
    }

    /// Where they are gathered until they are checked.
    pub(super) fn partial(&self, hash: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{hash}.incomplete"))
    }

    /// What is locked while a blob is written.
    pub(super) fn lock(&self, hash: &str) -> PathBuf {
        self.locks.join(format!("{hash}.lock"))
    }

    /// Whether the weights are there, and a configuration: enough to try, where nobody can be asked.
    pub(super) fn is_usable(&self, commit: &str) -> bool {
        let files = self.files(commit);
        let has = |name: &str| files.join(name).is_file();
        let sharded = || {
            let names = fs::read(files.join(WEIGHTS_INDEX)).ok();
            let names = names.and_then(|json| select::shard_names(&json).ok());
            names.is_some_and(|names| names.iter().all(|name| has(name)))
        };
        (has(select::CONFIG) || has(select::OPEN_CLIP_CONFIG))
            && (has(WEIGHTS) || has(select::OPEN_CLIP_WEIGHTS) || sharded())
    }

    /// Whether nothing is missing: each small file is there, or is known not to exist. A cache that
    /// another program filled may hold the weights and no tokenizer.
    pub(super) fn is_whole(&self, commit: &str) -> bool {
        let (files, absent) = (self.files(commit), self.absent(commit));
        let known = |name: &&str| files.join(name).is_file() || absent.join(name).is_file();
        SMALL_FILES.iter().all(known) && self.is_usable(commit)
    }

    /// Notes that a commit has no such file.
    pub(super) fn mark_absent(&self, commit: &str, name: &str) -> Result<(), HubError> {
        write(&self.absent(commit).join(name), "")
    }

    /// Notes which commit a branch or a tag stands for.
    pub(super) fn write_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit || self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        write(&self.folder.join("refs").join(revision), commit)
    }

    /// Puts a blob into a snapshot under its name, and returns the path.
    pub(super) fn link(&self, commit: &str, name: &str, hash: &str) -> Result<PathBuf, HubError> {
        let path = self.files(commit).join(name);
        let target = Path::new("../../blobs").join(hash);
        if fs::read_link(&path).is_ok_and(|found| found == target) {
            return Ok(path);
        }
        let fresh = beside(&path)?;
        link(&target, &self.blob(hash), &fresh)
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(|source| HubError::io(&path, source))?;
        Ok(path)
    }
}

/// A small file, whole or not at all.
fn write(path: &Path, text: &str) -> Result<(), HubError> {
    let fresh = beside(path)?;
    fs::write(&fresh, text)
        .and_then(|()| fs::rename(&fresh, path))
        .map_err(|source| HubError::io(path, source))
}

/// A name next to `path` that nobody uses, in a folder that exists.
fn beside(path: &Path) -> Result<PathBuf, HubError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let fresh = path.with_file_name(name);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|source| HubError::io(folder, source))?;
    }
    match fs::remove_file(&fresh) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(HubError::io(&fresh, source))
        }
        _ => Ok(fresh),
    }
}

#[cfg(unix)]
fn link(target: &Path, _blob: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

/// Links need a privilege elsewhere.
#[cfg(not(unix))]
fn link(_target: &Path, blob: &Path, path: &Path) -> io::Result<()> {
    fs::hard_link(blob, path).or_else(|_| fs::copy(blob, path).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_stays_below_refs() {
        for text in ["main", "refs/pr/1", "v1.0", "feature/a-b"] {
            assert!(is_revision(text), "{text}");
        }
        let long = "x".repeat(201);
        for text in ["", "..", "a/../b", "/etc", "a//b", "a b", ".hidden", "a\\b", "é", &long] {
            assert!(!is_revision(text), "{text}");
        }
        assert!(is_commit("0123456789abcdef0123456789abcdef01234567"));
        assert!(!is_commit("0123456789ABCDEF0123456789abcdef01234567"));
    }

    #[test]
    fn a_snapshot_is_whole_once_every_file_is_accounted_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let id = RepoId::parse("org/name").expect("an id");
        let repo = Repo::new(folder.path(), &id);
        let commit = "0".repeat(40);
        let put = |name: &str| {
            write(&repo.blob(name), "{}").expect("writes");
            let path = repo.link(&commit, name, name).expect("links");
            assert_eq!(fs::read_to_string(path).expect("leads to the blob"), "{}");
        };
        put("config.json");
        assert!(!repo.is_usable(&commit));
        put(WEIGHTS);
        assert!(repo.is_usable(&commit) && !repo.is_whole(&commit));
        for name in SMALL_FILES.into_iter().filter(|name| *name != "config.json") {
            repo.mark_absent(&commit, name).expect("writes");
        }
        assert!(repo.is_whole(&commit));
        // A link whose blob was deleted is no file.
        fs::remove_file(repo.blob(WEIGHTS)).expect("deletes");
        assert!(!repo.is_usable(&commit));
    }

    #[test]
    fn refs_are_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let repo = Repo::new(folder.path(), &RepoId::parse("org/name").expect("an id"));
        let commit = "a".repeat(40);
        assert_eq!(repo.commit_of("main"), None);
        repo.write_ref("refs/pr/1", &commit).expect("writes");
        assert_eq!(repo.commit_of("refs/pr/1"), Some(commit.clone()));
        let path = folder.path().join("models--org--name/refs/refs/pr/1");
        assert_eq!(fs::read_to_string(&path).expect("as Python has it"), commit);
        fs::write(path, "../../elsewhere").expect("writes");
        assert_eq!(repo.commit_of("refs/pr/1"), None);
    }
}
