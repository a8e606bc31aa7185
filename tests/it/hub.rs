//! Downloads checkpoints from a fake hub. Nothing here uses the real one.

mod command;
mod download;
mod failures;
mod layouts;
mod stand_in;

use std::{fs, path::Path, time::Duration};

use secrecy::SecretString;
use siglip_server::hub::{Hub, HubError, Progress, RepoId, Settings, Snapshot, Unreachable};

use self::stand_in::{ID, StandIn};

/// Ignores progress.
struct Quiet;

impl Progress for Quiet {
    fn at(&self, _file: &str, _done: u64, _total: u64) {}
}

/// The fake hub, with a separate cache.
struct Setup {
    hub: StandIn,
    cache: tempfile::TempDir,
}

impl Setup {
    async fn new() -> Self {
        Self { hub: StandIn::start().await, cache: tempfile::tempdir().expect("a folder") }
    }

    fn settings(&self) -> Settings {
        Settings {
            endpoint: self.hub.url.parse().expect("a URL"),
            cache: self.cache.path().to_owned(),
            token: None,
            offline: false,
            progress: true,
            symlinks: true,
            api_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(10),
            retry_pause: Duration::from_millis(1),
        }
    }

    fn with(&self, change: impl FnOnce(&mut Settings)) -> Hub {
        let mut settings = self.settings();
        change(&mut settings);
        Hub::new(settings)
    }

    fn with_token(&self, token: &str) -> Hub {
        self.with(|settings| settings.token = Some(SecretString::from(token)))
    }

    async fn get(&self) -> Result<Snapshot, HubError> {
        get(&self.with(|_| {}), None).await
    }

    /// The file of the cache below the model's folder.
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.cache.path().join("models--org--name").join(name)
    }

    fn unfinished(&self) -> usize {
        let entries = fs::read_dir(self.path("blobs")).expect("blobs");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".incomplete")).count()
    }
}

async fn get(hub: &Hub, revision: Option<&str>) -> Result<Snapshot, HubError> {
    let id = RepoId::parse(ID).expect("an id");
    hub.snapshot(&id, revision, Unreachable::Fail, &Quiet).await
}

/// The names of a folder's files.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
