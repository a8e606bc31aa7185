//! A checkpoint on disk to a model that answers.

use std::{path::Path, sync::Arc, time::Instant};

use parking_lot::Mutex;
use tracing::info;

use super::AppError;
use crate::{
    batch::{self, Towers},
    config::{self, Config, Served},
    engine::Engine,
    hub::{Hub, HubError, Progress, RepoId, Snapshot, Unreachable},
    model::{self, Loaded, ModelCard},
    registry::Model,
    telemetry::Metrics,
};

/// Gets a checkpoint, loads it, hands its towers to a worker and runs both once.
///
/// * `config`: what holds for all models
pub(super) async fn load_and_warm(
    served: Served,
    config: &Config,
    engine: &Arc<Engine>,
) -> Result<Arc<Model>, AppError> {
    let begun = Instant::now();
    let Served { name, model: options, .. } = served;
    let (source, options) = locate(options).await?;
    let again = options.clone();
    // Reads files and converts weights: seconds for a large checkpoint, so not on an async thread.
    let loaded = tokio::task::spawn_blocking(move || model::load(&options))
        .await?
        .map_err(|error| AppError::Load { model: source, source: error })?;

    let Loaded { vision, text, reader, tokenizer, writer, image, card } = loaded;
    let towers = Towers { vision, text, reader };
    let arm = arming();
    let towers = arm(towers);
    let matmul_precision = card.matmul_precision.as_ref().map(|own| own.value);
    let again = config::Model { matmul_precision, ..again };
    let reload = reload(again, card.revision.clone(), arm);
    let metrics = Arc::clone(engine.metrics());
    let handle = batch::spawn_supervised(&name, towers, reload, &config.batch, metrics)
        .map_err(AppError::Worker)?;
    describe(engine.metrics(), &name, &card);
    let model = Arc::new(Model { name, card, image, tokenizer, writer, handle });
    engine.registry().install(Arc::clone(&model));

    let failed = |error| AppError::WarmUp { model: model.name.clone(), source: Box::new(error) };
    engine.warm_up(&model.name).await.map_err(failed)?;
    info!(
        model = model.name,
        revision = model.card.revision,
        device = %model.card.device,
        dtype = %model.card.dtype,
        seconds = begun.elapsed().as_secs_f64(),
        "ready"
    );
    Ok(model)
}

/// What is done to towers before a worker gets them.
type Arm = Box<dyn Fn(Towers) -> Towers + Send>;

/// Nothing, but in builds for tests where faults are ordered.
fn arming() -> Arm {
    #[cfg(debug_assertions)]
    if let Some(points) = super::failpoint::Failpoint::from_env() {
        return Box::new(move |towers| {
            points.iter().fold(towers, |towers, point| point.arm(towers))
        });
    }
    Box::new(|towers| towers)
}

/// Loads the towers once more, for a worker that broke. How near they are to f32 is known by then: the files are
/// the same.
fn reload(source: config::Model, revision: String, arm: Arm) -> batch::Reload {
    let unchecked = Some(config::Agreement::UNCHECKED);
    let source = config::Model { min_agreement: unchecked, ..source };
    Box::new(move || {
        let Loaded { vision, text, reader, card, .. } = model::load(&source)?;
        if card.revision != revision {
            // Vectors of both would lie in one cache, and in one database, under one name.
            return Err("the checkpoint has changed since the server started".into());
        }
        Ok(arm(Towers { vision, text, reader }))
    })
}

fn describe(metrics: &Metrics, name: &str, card: &ModelCard) {
    let (dtype, device) = (card.dtype.to_string(), card.device.to_string());
    metrics.model_info.with_label_values(&[name, &card.revision, &dtype, &device]).set(1);
    let bytes = i64::try_from(card.weight_bytes).unwrap_or(i64::MAX);
    metrics.device_memory.with_label_values(&[name]).set(bytes);
}

/// A model from the hub becomes a folder; what is in the binary or on the disk stays what it is. The source
/// as it was asked for comes along, for messages.
async fn locate(mut options: config::Model) -> Result<(String, config::Model), AppError> {
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
    options.source = snapshot.folder.to_string_lossy().into_owned();
    options.revision = Some(snapshot.commit);
    Ok((source, options))
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
