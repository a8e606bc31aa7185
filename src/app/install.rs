//! A checkpoint on disk to a model that answers, and its towers' coming and going.

mod files;
mod source;

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tracing::{error, info};

use self::source::Source;
use super::AppError;
use crate::{
    allocator,
    batch::{self, Keeping, Loader, MemoryBudget, Parts},
    config::{self, Config, LoadTime, Served},
    engine::Engine,
    model::{self, Described, Loaded, ModelCard},
    registry::Model,
    telemetry::Metrics,
};

/// Where models are installed. Cheap to clone.
#[derive(Clone)]
pub(super) struct Site {
    pub(super) batch: config::Batch,
    pub(super) engine: Arc<Engine>,
    /// The bound on the weights of all models.
    pub(super) budget: Arc<MemoryBudget>,
}

/// How long a model that could not be fetched is left alone, even if requests ask for it.
const FETCH_PAUSE: Duration = Duration::from_secs(10);

impl Site {
    pub(super) fn new(config: &Config, engine: &Arc<Engine>) -> Self {
        let max = Some(config.model.max_resident_bytes).filter(|&max| max > 0);
        Self {
            batch: config.batch.clone(),
            engine: Arc::clone(engine),
            budget: Arc::new(MemoryBudget::new(max)),
        }
    }

    /// Makes a model answer. One whose files are fetched when it is asked for is sent to `late` then.
    pub(super) async fn install(
        &self,
        served: Served,
        late: &mpsc::Sender<Arc<Model>>,
    ) -> Result<Option<Arc<Model>>, AppError> {
        if served.model.load == LoadTime::Eager {
            return self.load_and_warm(served).await.map(Some);
        }
        match files::on_this_machine(&served.model)? {
            Some(options) => self.describe(served, options).await.map(Some),
            None => {
                self.engine.registry().defer(&served.name);
                info!(model = served.name, "fetched when it is asked for");
                tokio::spawn(self.clone().fetch_when_asked(served, late.clone()));
                Ok(None)
            }
        }
    }

    /// Gets a checkpoint, loads it, hands its towers to a worker and runs both once.
    pub(super) async fn load_and_warm(&self, served: Served) -> Result<Arc<Model>, AppError> {
        let begun = Instant::now();
        let Served { name, model: options, .. } = served;
        let (source, options) = files::locate(options).await?;
        let (again, room) = (options.clone(), self.make_room(&name, &source, &options).await?);
        // Reads files and converts weights: seconds for a large checkpoint, so not on an async thread.
        let loaded = tokio::task::spawn_blocking(move || model::load(&options))
            .await?
            .map_err(|error| AppError::Load { model: source, source: error })?;

        let Loaded { vision, text, reader, tokenizer, writer, image, card, tower_bytes } = loaded;
        let parts = Parts { vision: Some(vision), text, reader, bytes: tower_bytes };
        let options = again.clone();
        let source = Source::loaded(&name, again, &card, &self.engine);
        let parts = source.arm(parts);
        let reads_texts = parts.text.is_some() || parts.reader.is_some();
        let described = Described { tokenizer, writer, image, card, reads_texts };
        let keeping = self.keeping(&options, source.loader(), [true, reads_texts], tower_bytes);
        // From here on, the worker counts the bytes that the model really takes.
        self.budget.release(room);
        let model = self.adopt(&name, described, parts, keeping)?;

        let failed =
            |error| AppError::WarmUp { model: model.name.clone(), source: Box::new(error) };
        self.engine.warm_up(&model.name).await.map_err(failed)?;
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

    /// Takes room for a model that is about to be loaded at the start: earlier ones may have to let a tower go.
    ///
    /// * returns the bytes that were taken
    async fn make_room(
        &self,
        name: &str,
        source: &str,
        options: &config::Model,
    ) -> Result<u64, AppError> {
        if !self.budget.is_bounded() {
            return Ok(0);
        }
        let (budget, options) = (Arc::clone(&self.budget), options.clone());
        let reserve = move || {
            model::describe(&options).map(|described| {
                let bytes = described.card.weight_bytes;
                budget.reserve(bytes, || true).map(|()| bytes)
            })
        };
        let reserved = tokio::task::spawn_blocking(reserve).await?;
        let reserved =
            reserved.map_err(|error| AppError::Load { model: source.to_owned(), source: error })?;
        reserved.map_err(|source| AppError::TooLarge { model: name.to_owned(), source })
    }

    /// Installs a model without its towers.
    ///
    /// * `options`: name a folder
    async fn describe(
        &self,
        served: Served,
        options: config::Model,
    ) -> Result<Arc<Model>, AppError> {
        let Served { name, model: asked, .. } = served;
        let again = options.clone();
        let described = tokio::task::spawn_blocking(move || model::describe(&options))
            .await?
            .map_err(|error| AppError::Load { model: asked.source, source: error })?;
        let (bytes, reads_texts) = (described.card.weight_bytes, described.reads_texts);
        let too_large = |source| AppError::TooLarge { model: name.clone(), source };
        self.budget.check(bytes).map_err(too_large)?;
        let options = again.clone();
        let source = Source::described(&name, again, &described.card, &self.engine);
        // The first load is of all towers, so it does not matter to which of them the bytes are assigned.
        let keeping = self.keeping(&options, source.loader(), [true, reads_texts], [bytes, 0]);
        let model = self.adopt(&name, described, Parts::default(), keeping)?;
        self.engine.registry().mark_warm(&model.name);
        info!(
            model = model.name,
            revision = model.card.revision,
            "its towers are loaded when they are needed"
        );
        Ok(model)
    }

    /// Fetches a model from the hub once a request has asked for it, and again after each failure.
    async fn fetch_when_asked(self, served: Served, late: mpsc::Sender<Arc<Model>>) {
        let registry = self.engine.registry();
        loop {
            tokio::select! {
                () = registry.asked(&served.name) => {}
                () = registry.closed() => return,
            }
            let fetched = tokio::select! {
                fetched = self.fetch(served.clone()) => fetched,
                () = registry.closed() => return,
            };
            match fetched {
                Ok(model) => {
                    // The receiver ends with the server.
                    drop(late.send(model).await);
                    return;
                }
                Err(failure) => {
                    let why = match &failure {
                        AppError::Hub { source, .. } => source.to_string(),
                        other => other.to_string(),
                    };
                    let cause = anyhow::Error::from(failure);
                    error!(model = served.name, error = format!("{cause:#}"), "cannot be fetched");
                    registry.note_fetch(&served.name, Some(why));
                    tokio::select! {
                        () = tokio::time::sleep(FETCH_PAUSE) => {}
                        () = registry.closed() => return,
                    }
                }
            }
        }
    }

    async fn fetch(&self, served: Served) -> Result<Arc<Model>, AppError> {
        let (_, options) = files::locate(served.model.clone()).await?;
        self.describe(served, options).await
    }

    /// How a model's towers are loaded and unloaded.
    pub(super) fn keeping(
        &self,
        options: &config::Model,
        loader: Loader,
        towers: [bool; 2],
        expected_bytes: [u64; 2],
    ) -> Keeping {
        let idle = Some(options.idle).filter(|idle| !idle.is_zero());
        let may_yield = options.load == LoadTime::Lazy || idle.is_some();
        Keeping {
            towers,
            idle,
            may_yield,
            expected_bytes,
            loader,
            budget: Arc::clone(&self.budget),
            give_back: allocator::give_back,
        }
    }

    /// Gives towers to a supervised worker, and registers their model.
    ///
    /// * `parts`: the towers that are loaded already
    pub(super) fn adopt(
        &self,
        name: &str,
        described: Described,
        parts: Parts,
        keeping: Keeping,
    ) -> Result<Arc<Model>, AppError> {
        let Described { tokenizer, writer, image, card, .. } = described;
        let metrics = Arc::clone(self.engine.metrics());
        let handle =
            batch::spawn(name, (parts, keeping), &self.batch, metrics).map_err(AppError::Worker)?;
        describe(self.engine.metrics(), name, &card);
        let (name, measured) = (name.to_owned(), OnceLock::new());
        let model = Arc::new(Model { name, card, image, tokenizer, writer, handle, measured });
        self.engine.registry().install(Arc::clone(&model));
        Ok(model)
    }
}

fn describe(metrics: &Metrics, name: &str, card: &ModelCard) {
    let (dtype, device) = (card.dtype.to_string(), card.device.to_string());
    // An empty label is the same as none.
    let kernels = card.cuda_kernels.as_ref().map(|used| used.value.to_string()).unwrap_or_default();
    let labels = [name, &card.revision, &dtype, &device, &kernels];
    metrics.model_info.with_label_values(&labels).set(1);
}
