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

use super::{HubError, RepoId, Snapshot};
use crate::{
    checkpoint::{
        CONFIG, MAX_SMALL_BYTES, OPEN_CLIP_CONFIG, SMALL_FILES, WEIGHTS_INDEX,
        layout::{self, Layout, LayoutError, Weights},
    },
    small_file,
};

/// Maximum size of a file that names the commit of a revision.
const MAX_REF_BYTES: u64 = 1024;

/// Maximum length of a revision: file systems allow not much longer names, and branches are shorter.
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
    symlinks: bool,
}

impl Repo {
    pub(super) fn new(cache: &Path, id: &RepoId) -> Self {
        let name = format!("models--{}", id.to_string().replace('/', "--"));
        Self { folder: cache.join(&name), locks: cache.join(".locks").join(name), symlinks: true }
    }

    /// Sets whether snapshots have symbolic links.
    pub(super) fn with_symlinks(self, symlinks: bool) -> Self {
        Self { symlinks, ..self }
    }

    /// The commit of a revision according to the cache. The commit of a commit is itself.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let file = self.refs().join(revision);
        let commit = small_file::read_to_string(&file, MAX_REF_BYTES).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// The model's folder.
    pub(super) fn root(&self) -> &Path {
        &self.folder
    }

    /// Where branches and tags are noted.
    pub(super) fn refs(&self) -> PathBuf {
        self.folder.join("refs")
    }

    /// Where each commit has a folder.
    pub(super) fn snapshots(&self) -> PathBuf {
        self.folder.join("snapshots")
    }

    pub(super) fn snapshot(&self, commit: &str) -> Snapshot {
        Snapshot { folder: self.files(commit), commit: commit.to_owned() }
    }

    fn files(&self, commit: &str) -> PathBuf {
        self.snapshots().join(commit)
    }

    fn absent(&self, commit: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit)
    }

    /// The path of a file's bytes.
    pub(super) fn blob(&self, hash: &str) -> PathBuf {
        self.folder.join("blobs").join(hash)
    }

    /// The path of a file's bytes until they are complete and checked.
    pub(super) fn partial(&self, hash: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{hash}.incomplete"))
    }

    /// The lock file of a blob.
    pub(super) fn lock(&self, hash: &str) -> PathBuf {
        self.locks.join(format!("{hash}.lock"))
    }

    /// Checks that the configuration and its weights are there. This is enough to try to load them if the hub
    /// cannot be asked.
    ///
    /// # Errors
    /// Says what is missing.
    pub(super) fn check_usable(&self, commit: &str) -> Result<(), String> {
        self.chosen(commit).map(drop)
    }

    /// The layout of the cached files, and its weights.
    fn chosen(&self, commit: &str) -> Result<(Layout, Weights), String> {
        let files = self.files(commit);
        let has = |name: &str| files.join(name).is_file();
        let entries =
            fs::read_dir(&files).map_err(|_| "nothing of that commit is there".to_owned())?;
        let names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| has(name))
            .collect();
        let config = small_file::read(&files.join(CONFIG), MAX_SMALL_BYTES).ok();
        let refused = |error: LayoutError| error.to_string();
        let layout = Layout::of(config.as_deref(), has(OPEN_CLIP_CONFIG)).map_err(refused)?;
        let weights = layout.weights(names.iter().map(String::as_str)).map_err(refused)?;
        if weights == Weights::Sharded {
            let index = small_file::read(&files.join(WEIGHTS_INDEX), MAX_SMALL_BYTES);
            let index = index.unwrap_or_default();
            let shards =
                layout::shards(&index).map_err(|error| format!("{WEIGHTS_INDEX}: {error}"))?;
            if let Some(shard) = shards.iter().find(|shard| !has(shard)) {
                return Err(format!("{shard} is missing"));
            }
        }
        Ok((layout, weights))
    }

    /// Whether the snapshot is complete: each small file is there, or is known not to exist. If another program
    /// filled the cache, it may have the weights without a tokenizer, or the weights of another layout.
    pub(super) fn is_whole(&self, commit: &str) -> bool {
        let (files, absent) = (self.files(commit), self.absent(commit));
        let known = |name: &&str| files.join(name).is_file() || absent.join(name).is_file();
        let weights = self.chosen(commit).is_ok_and(|(layout, weights)| {
            let better = layout.candidates().iter().take_while(|name| **name != weights.first());
            better.copied().all(|name| absent.join(name).is_file())
        });
        weights && SMALL_FILES.iter().all(known)
    }

    /// Records that a commit has no such file.
    pub(super) fn mark_absent(&self, commit: &str, name: &str) -> Result<(), HubError> {
        write(&self.absent(commit).join(name), "")
    }

    /// Records the commit of a branch or a tag.
    pub(super) fn write_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit || self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        write(&self.refs().join(revision), commit)
    }

    /// Links a blob into a snapshot under the file's name, and returns the path.
    pub(super) fn link(&self, commit: &str, name: &str, hash: &str) -> Result<PathBuf, HubError> {
        let path = self.files(commit).join(name);
        let (target, blob) = (Path::new("../../blobs").join(hash), self.blob(hash));
        let length = |file: io::Result<fs::Metadata>| {
            file.ok().filter(fs::Metadata::is_file).map(|it| it.len())
        };
        let is_there = if self.symlinks {
            fs::read_link(&path).is_ok_and(|found| found == target)
        } else {
            // The file of a commit never changes, so a file with the blob's size is a copy of it.
            let found = length(fs::symlink_metadata(&path));
            found.is_some() && found == length(fs::metadata(&blob))
        };
        if is_there {
            return Ok(path);
        }
        let fresh = beside(&path)?;
        let linked = if self.symlinks {
            symlink(&target, &fresh)
        } else {
            Err(io::ErrorKind::Unsupported.into())
        };
        linked
            // Some file systems have no symbolic links, and some systems require a privilege for them.
            .or_else(|_| fs::hard_link(&blob, &fresh))
            .or_else(|_| fs::copy(&blob, &fresh).map(drop))
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(|source| HubError::io(&path, source))?;
        Ok(path)
    }
}

/// Writes a small file atomically.
fn write(path: &Path, text: &str) -> Result<(), HubError> {
    let fresh = beside(path)?;
    fs::write(&fresh, text)
        .and_then(|()| fs::rename(&fresh, path))
        .map_err(|source| HubError::io(path, source))
}

/// An unused name next to `path`, in a folder that exists.
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
fn symlink(target: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::WEIGHTS;

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
        let refused = repo.check_usable(&commit).expect_err("no weights");
        assert!(refused.contains("none of the files of weights"), "{refused}");
        put(WEIGHTS);
        assert!(repo.check_usable(&commit).is_ok() && !repo.is_whole(&commit));
        for name in SMALL_FILES.into_iter().filter(|name| *name != "config.json") {
            repo.mark_absent(&commit, name).expect("writes");
        }
        assert!(repo.is_whole(&commit));
        // A link to a deleted blob does not count as a file.
        fs::remove_file(repo.blob(WEIGHTS)).expect("deletes");
        assert!(repo.check_usable(&commit).is_err());
    }

    #[test]
    fn a_snapshot_without_symbolic_links_holds_the_files_themselves() {
        let folder = tempfile::tempdir().expect("a folder");
        let id = RepoId::parse("org/name").expect("an id");
        let repo = Repo::new(folder.path(), &id).with_symlinks(false);
        write(&repo.blob("hash"), "{}").expect("writes");
        for _ in 0..2 {
            let path = repo.link(&"0".repeat(40), "config.json", "hash").expect("links");
            let file = fs::symlink_metadata(&path).expect("is there");
            assert!(file.is_file() && file.len() == 2);
        }
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
