//! Where a model's files are: on the disk, in the cache of the hub, or on the hub.

use std::path::Path;

use parking_lot::Mutex;
use tracing::info;

use super::AppError;
use crate::{
    config,
    hub::{Hub, HubError, Progress, RepoId, Snapshot, Unreachable},
};

/// The options of a model whose files are there, with their folder as the source; none for a model of the hub that the
/// cache lacks. The hub is not asked for a newer one.
pub(super) fn on_this_machine(options: &config::Model) -> Result<Option<config::Model>, AppError> {
    let source = &options.source;
    let Some(id) = RepoId::parse(source).filter(|_| !Path::new(source).is_dir()) else {
        return match &options.revision {
            Some(revision) => Err(AppError::RevisionOfFolder {
                folder: source.clone(),
                revision: revision.clone(),
            }),
            None => Ok(Some(options.clone())),
        };
    };
    let hub = Hub::from_env().map_err(|error| failed(source, error))?;
    let cached = hub.cached(&id, options.revision.as_deref());
    Ok(cached.map(|snapshot| within(options.clone(), snapshot)))
}

fn within(options: config::Model, snapshot: Snapshot) -> config::Model {
    config::Model {
        source: snapshot.folder.to_string_lossy().into_owned(),
        revision: Some(snapshot.commit),
        ..options
    }
}

/// A model from the hub becomes a folder; what is in the binary or on the disk stays what it is. The source
/// as it was asked for comes along, for messages.
pub(super) async fn locate(
    mut options: config::Model,
) -> Result<(String, config::Model), AppError> {
    let source = options.source.clone();
    // A folder that exists is meant, even if a model on the hub has the same name.
    let id = RepoId::parse(&source).filter(|_| !Path::new(&source).is_dir());
    let Some(id) = id else {
        return match options.revision {
            Some(revision) => Err(AppError::RevisionOfFolder { folder: source, revision }),
            None => Ok((source, options)),
        };
    };
    let revision = options.revision.take();
    let snapshot = download(&id, revision.as_deref()).await;
    let snapshot = snapshot.map_err(|error| failed(&source, error))?;
    Ok((source, within(options, snapshot)))
}

async fn download(id: &RepoId, revision: Option<&str>) -> Result<Snapshot, HubError> {
    let progress = Reported::default();
    Hub::from_env()?.snapshot(id, revision, Unreachable::UseCache, &progress).await
}

fn failed(model: &str, error: HubError) -> AppError {
    AppError::Hub { model: model.to_owned(), source: Box::new(error) }
}

/// Tells the log of a download, a line for each tenth of a large file.
#[derive(Default)]
struct Reported(Mutex<(String, u64)>);

impl Progress for Reported {
    fn at(&self, file: &str, done: u64, total: u64) {
        let tenth = (done * 10).checked_div(total).unwrap_or(10);
        let last = &mut *self.0.lock();
        if (last.0.as_str(), last.1) == (file, tenth) {
            return;
        }
        *last = (file.to_owned(), tenth);
        if total >= 10 << 20 || tenth == 10 {
            info!(file, percent = tenth * 10, bytes = total, "downloading");
        }
    }
}
