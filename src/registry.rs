//! The served models by name, and whether they are ready.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use indexmap::IndexMap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    batch::{self, WorkerState},
    error::{Code, Error},
    model::{ModelCard, Writer},
    preprocess::ImageSpec,
    tokenize::TextTokenizer,
};

/// A loaded model: everything the engine needs to answer for it.
pub struct Model {
    /// The name that requests use.
    pub name: String,
    /// What the checkpoint says of itself.
    pub card: ModelCard,
    /// How images are prepared.
    pub image: ImageSpec,
    /// Text to ids; none for a checkpoint without a text tower.
    pub tokenizer: Option<Arc<TextTokenizer>>,
    /// Writes captions, where the model does.
    pub writer: Option<Writer>,
    /// Where rows are submitted.
    pub handle: batch::Handle,
    /// What the checkpoint says of itself since its towers were loaded, where they were not when it was installed.
    pub measured: OnceLock<ModelCard>,
}

impl Model {
    /// What the checkpoint says of itself, with what is measured at load where the model was loaded.
    #[must_use]
    pub fn measured_card(&self) -> &ModelCard {
        self.measured.get().unwrap_or(&self.card)
    }

    /// Tells its embeddings from those of every other model in the process.
    #[must_use]
    pub fn identity(&self) -> String {
        format!("{}@{}", self.name, self.card.revision)
    }
}

/// One configured name: empty while its model loads.
#[derive(Default)]
struct Slot {
    model: OnceLock<Arc<Model>>,
    warm: AtomicBool,
    /// Set for a model whose files are fetched when the first request asks for it.
    absent: OnceLock<Absent>,
}

/// A model whose files are not on this machine.
#[derive(Default)]
struct Absent {
    /// Notified by the requests that ask for it.
    asked: Notify,
    /// Why the last attempt to fetch it failed.
    failure: Mutex<Option<String>>,
}

/// When to ask again for a model that is being fetched: downloads take minutes rather than seconds.
const FETCH_RETRY: Duration = Duration::from_secs(10);

impl Slot {
    /// Why a request for it cannot be taken, which also has its files fetched where they are not there.
    fn not_ready(&self) -> Error {
        let Some(absent) = self.absent.get() else {
            return Error::new(Code::NotReady, "the model is still loading");
        };
        absent.asked.notify_one();
        let message = match absent.failure.lock().clone() {
            Some(why) => format!("the model could not be fetched, and is tried again: {why}"),
            None => "the model is being fetched; retry later".to_owned(),
        };
        Error::new(Code::NotReady, message).with_retry_after(FETCH_RETRY)
    }
}

/// Why the server does not want traffic now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Every tower ran and every worker is alive.
    Ready,
    /// A model is loading or warming up.
    Starting,
    /// Draining on a signal.
    ShuttingDown,
    /// The worker of the model named broke and is being replaced.
    WorkerRestarting(String),
    /// The worker of the model named died.
    WorkerFailed(String),
    /// The model named cannot be loaded before an operator acts.
    LoadFailed(String),
}

/// The served models, in the order of the configuration; the first is the default.
pub struct Registry {
    slots: IndexMap<String, Slot>,
    /// Further names, each with the one that it stands for.
    aliases: IndexMap<String, String>,
    leaving: AtomicBool,
    closing: CancellationToken,
}

impl Registry {
    /// A registry of configured names, none of them loaded.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self {
            slots: names.into_iter().map(|name| (name, Slot::default())).collect(),
            aliases: IndexMap::new(),
            leaving: AtomicBool::new(false),
            closing: CancellationToken::new(),
        }
    }

    /// Adds further names: pairs of an alias and the name that it stands for.
    #[must_use]
    pub fn with_aliases(mut self, aliases: impl IntoIterator<Item = (String, String)>) -> Self {
        self.aliases.extend(aliases);
        self
    }

    /// Registers a loaded model under its name, which must be configured and not taken. Otherwise this is a defect
    /// of the caller: the model is dropped, and the log says so.
    pub fn install(&self, model: Arc<Model>) {
        let refused = match self.slots.get(&model.name) {
            Some(slot) => slot.model.set(model).err(),
            None => Some(model),
        };
        if let Some(model) = refused {
            tracing::error!(model = model.name, "dropped a model whose name is unknown or taken");
        }
    }

    /// Notes that a model's files are fetched when the first request asks for it. It counts as ready until then.
    pub fn defer(&self, name: &str) {
        if let Some(slot) = self.slots.get(name) {
            slot.absent.get_or_init(Absent::default);
        }
    }

    /// Resolves once a request has asked for a model that was deferred.
    pub async fn asked(&self, name: &str) {
        match self.slots.get(name).and_then(|slot| slot.absent.get()) {
            Some(absent) => absent.asked.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Asks for a model that was deferred. Nothing happens if it is there, or being fetched.
    pub fn ask(&self, name: &str) {
        if let Some(absent) = self.slots.get(name).and_then(|slot| slot.absent.get()) {
            absent.asked.notify_one();
        }
    }

    /// Notes why a model that was deferred could not be fetched, or that it is tried once more.
    pub fn note_fetch(&self, name: &str, failure: Option<String>) {
        if let Some(absent) = self.slots.get(name).and_then(|slot| slot.absent.get()) {
            *absent.failure.lock() = failure;
        }
    }

    /// The names of the models that are deferred and not there yet, each with why it could not be fetched.
    pub fn deferred(&self) -> impl Iterator<Item = (&str, Option<String>)> {
        let absent = self.slots.iter().filter(|(_, slot)| slot.model.get().is_none());
        absent.filter_map(|(name, slot)| {
            Some((name.as_str(), slot.absent.get()?.failure.lock().clone()))
        })
    }

    /// Notes that both towers of a model ran, or that they are loaded when they are needed.
    pub fn mark_warm(&self, name: &str) {
        if let Some(slot) = self.slots.get(name) {
            slot.warm.store(true, Ordering::Release);
        }
    }

    /// Readiness turns red, so that traffic goes elsewhere; what still comes is answered.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// Readiness turns red, and new work is refused.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Resolves once [`Registry::close`] was called: streams that have no end of their own end then.
    pub async fn closed(&self) {
        self.closing.cancelled().await;
    }

    /// The configured names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.slots.keys().map(String::as_str)
    }

    /// The further names, each with the one that it stands for.
    pub fn aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.aliases.iter().map(|(alias, name)| (alias.as_str(), name.as_str()))
    }

    /// The configured name that a request means: the one that it gives, or what that stands for.
    #[must_use]
    pub fn resolve<'r>(&'r self, name: &'r str) -> Option<&'r str> {
        let name = self.aliases.get(name).map_or(name, String::as_str);
        self.slots.get_key_value(name).map(|(name, _)| name.as_str())
    }

    /// The loaded models, warm or not.
    pub fn loaded(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.slots.values().filter_map(|slot| slot.model.get())
    }

    /// The model for a request: by name or alias, or the default.
    ///
    /// # Errors
    /// [`Code::ModelNotFound`], [`Code::NotReady`] while it loads, [`Code::ShuttingDown`].
    pub fn get(&self, name: Option<&str>) -> Result<&Arc<Model>, Error> {
        if self.closing.is_cancelled() {
            return Err(Error::new(Code::ShuttingDown, "the server is shutting down"));
        }
        let slot = match name {
            Some(name) => self.resolve(name).and_then(|name| self.slots.get(name)),
            None => self.slots.first().map(|(_, slot)| slot),
        };
        let slot = slot.ok_or_else(|| self.unknown(name))?;
        if !slot.warm.load(Ordering::Acquire) {
            return Err(slot.not_ready());
        }
        slot.model.get().ok_or_else(|| Error::new(Code::NotReady, "the model is still loading"))
    }

    fn unknown(&self, name: Option<&str>) -> Error {
        let known = self.names().chain(self.aliases().map(|(alias, _)| alias));
        let known = known.collect::<Vec<_>>().join(", ");
        let message = format!(
            "the model `{}` is not served here; it serves: {known}",
            name.unwrap_or_default()
        );
        Error::new(Code::ModelNotFound, message).with_field("model")
    }

    /// Whether the server wants traffic, and if not, why.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        if self.leaving.load(Ordering::Acquire) || self.closing.is_cancelled() {
            return Readiness::ShuttingDown;
        }
        for (name, slot) in &self.slots {
            let Some(model) = slot.model.get() else {
                if slot.absent.get().is_some() {
                    continue;
                }
                return Readiness::Starting;
            };
            match model.handle.state() {
                WorkerState::Running => {}
                WorkerState::Draining | WorkerState::Stopped => return Readiness::ShuttingDown,
                WorkerState::Restarting => return Readiness::WorkerRestarting(name.clone()),
                WorkerState::Failed => return Readiness::WorkerFailed(name.clone()),
            }
            if !slot.warm.load(Ordering::Acquire) {
                return Readiness::Starting;
            }
            if model.handle.failed_for_good().is_some() {
                return Readiness::LoadFailed(name.clone());
            }
        }
        Readiness::Ready
    }
}
