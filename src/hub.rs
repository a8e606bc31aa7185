//! Downloads checkpoints from the Hugging Face hub into the cache folder of Python's `huggingface_hub`.
//!
//! The layout (`models--ORG--NAME/{blobs,refs,snapshots}`), the lock files and the names of unfinished
//! downloads are those of that library, so that both can read each other's cache. Only files that the loader
//! reads are downloaded (`select`). Every file is checked against the hash that the hub lists, before it gets
//! its name (`transfer`).

mod cache;
mod client;
mod error;
mod inventory;
mod partial;
mod select;
mod settings;
mod transfer;
mod variables;

use std::path::{Path, PathBuf};

use tracing::{info, warn};

use self::{
    cache::Repo,
    client::{Client, RemoteFile},
    transfer::Transfer,
};
pub use self::{
    error::HubError,
    inventory::{CachedCommit, CachedModel},
    settings::Settings,
    variables::{Handling, VARIABLES, Variable, table as variable_table},
};
use crate::{
    checkpoint::{CONFIG, MAX_SMALL_BYTES, layout::Weights},
    config::is_hub_id,
    error::text,
    small_file,
};

/// The branch if no revision is given.
const DEFAULT_REVISION: &str = "main";

/// A model on the hub: `ORG/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoId(String);

impl RepoId {
    /// Parses the id of a model; none if the text cannot be one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        is_hub_id(text).then(|| Self(text.to_owned()))
    }
}

impl std::fmt::Display for RepoId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A checkpoint in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder with its files.
    pub folder: PathBuf,
    /// The commit of the files: 40 hexadecimal digits.
    pub commit: String,
}

/// Receives the progress of a download.
pub trait Progress: Send + Sync {
    /// `done` of `total` bytes of a file are there. This is called at the beginning, at the end and in between.
    fn at(&self, file: &str, done: u64, total: u64);
}

/// What to do if the hub cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// Use the cache and log a warning.
    UseCache,
    /// Fail.
    Fail,
}

/// The hub and its cache.
pub struct Hub {
    settings: Settings,
}

impl Hub {
    /// The hub that the settings name. This does not connect yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// The hub that the environment names; [`Settings::from_env`] lists the variables.
    ///
    /// # Errors
    /// Fails if a variable has an invalid value.
    pub fn from_env() -> Result<Self, HubError> {
        Settings::from_env().map(Self::new)
    }

    /// Returns a checkpoint's folder, and downloads the files that the cache lacks.
    ///
    /// If the revision is a commit and completely cached, no network is needed. Otherwise the hub is asked for
    /// the commit of the revision, unless `HF_HUB_OFFLINE` forbids it.
    ///
    /// # Errors
    /// See [`HubError`].
    pub async fn snapshot(
        &self,
        id: &RepoId,
        revision: Option<&str>,
        unreachable: Unreachable,
        progress: &dyn Progress,
    ) -> Result<Snapshot, HubError> {
        let revision = revision.unwrap_or(DEFAULT_REVISION);
        if !cache::is_revision(revision) {
            return Err(HubError::Revision(revision.to_owned()));
        }
        let repo = self.repo(id);
        let known = repo.commit_of(revision);
        let (cached, lacks) = match known.map(|commit| (repo.check_usable(&commit), commit)) {
            Some((Ok(()), commit)) => (Some(commit), None),
            Some((Err(lacks), _)) => (None, Some(lacks)),
            None => (None, None),
        };
        if let Some(commit) = &cached
            && (self.settings.offline || commit == revision && repo.is_whole(commit))
        {
            return Ok(repo.snapshot(commit));
        }
        if self.settings.offline {
            let (id, cache) = (id.to_string(), self.settings.cache.clone());
            return Err(HubError::Offline { id, revision: revision.to_owned(), cache, lacks });
        }
        match self.pull(id, revision, progress).await {
            Err(error) if unreachable == Unreachable::UseCache && error.is_unreachable() => {
                let Some(commit) = cached else { return Err(error) };
                let cause = text::chain(&error);
                warn!(model = %id, revision, commit, cause, "the hub cannot be asked; the cache is used");
                Ok(repo.snapshot(&commit))
            }
            pulled => pulled,
        }
    }

    /// A checkpoint's folder from the cache, without a request to the hub for a newer version. `None` if the
    /// cache does not have all of it.
    #[must_use]
    pub fn cached(&self, id: &RepoId, revision: Option<&str>) -> Option<Snapshot> {
        let revision = revision.unwrap_or(DEFAULT_REVISION);
        if !cache::is_revision(revision) {
            return None;
        }
        let repo = self.repo(id);
        let commit = repo.commit_of(revision)?;
        repo.check_usable(&commit).ok().map(|()| repo.snapshot(&commit))
    }

    fn repo(&self, id: &RepoId) -> Repo {
        Repo::new(&self.settings.cache, id).with_symlinks(self.settings.symlinks)
    }

    /// Whether progress bars may be drawn.
    #[must_use]
    pub fn shows_progress(&self) -> bool {
        self.settings.progress
    }

    /// Asks the hub for the revision, and downloads the files that the cache lacks.
    async fn pull(
        &self,
        id: &RepoId,
        revision: &str,
        progress: &dyn Progress,
    ) -> Result<Snapshot, HubError> {
        let client = Client::new(&self.settings)?;
        let listing = client.listing(id, revision).await?;
        let commit = listing.commit.as_str();
        let repo = self.repo(id);
        if repo.is_whole(commit) {
            // Everything is there, so a read-only cache is no reason to fail.
            if let Err(error) = repo.write_ref(revision, commit) {
                warn!(%error, revision, "the cache cannot note what the revision stands for");
            }
            return Ok(repo.snapshot(commit));
        }
        info!(model = %id, revision, commit, "downloading");
        let (small, absent) = select::small(id, &listing.files)?;
        let transfer = Transfer {
            client: &client,
            repo: &repo,
            id,
            commit,
            progress,
            pause: self.settings.retry_pause,
        };
        let mut config = None;
        for file in small {
            let path = transfer.get(file, MAX_SMALL_BYTES).await?;
            if file.name == CONFIG {
                config = Some(read(&path)?);
            }
        }
        for name in absent {
            if let Err(error) = repo.mark_absent(commit, name) {
                warn!(%error, file = name, "the cache cannot note that the model has no such file");
            }
        }
        // The weights come last, so that a snapshot with weights is complete.
        for file in weights(&transfer, &listing.files, config.as_deref()).await? {
            transfer.get(file, select::MAX_WEIGHT_BYTES).await?;
        }
        repo.write_ref(revision, commit)?;
        Ok(repo.snapshot(commit))
    }
}

/// The files of weights: a single one, or those that the index names.
async fn weights<'f>(
    transfer: &Transfer<'_>,
    files: &'f [RemoteFile],
    config: Option<&[u8]>,
) -> Result<Vec<&'f RemoteFile>, HubError> {
    match select::weights(transfer.id, files, config)? {
        (file, Weights::Single(_)) => Ok(vec![file]),
        (index, Weights::Sharded) => {
            let path = transfer.get(index, MAX_SMALL_BYTES).await?;
            select::shards(transfer.id, files, &read(&path)?)
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, HubError> {
    small_file::read(path, MAX_SMALL_BYTES).map_err(|source| HubError::io(path, source))
}
