//! What a model's towers are loaded from, again and again.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::{
    batch::{LoadFailure, Loader, Parts},
    config::{self, MatmulPrecision},
    engine::Engine,
    model::{self, Loaded, ModelCard, Part, PartLoaded},
};

/// What is done to towers before a worker gets them.
type Arm = Box<dyn Fn(Parts) -> Parts + Send + Sync>;

/// The files of a model, and what was found out about them.
pub(super) struct Source {
    name: String,
    options: config::Model,
    /// Of the files that the model was described from.
    revision: String,
    /// What the first load found; none before it.
    found: Mutex<Option<Found>>,
    engine: Weak<Engine>,
    arm: Arm,
}

/// What must not change from one load to the next.
#[derive(Debug, Clone, Copy)]
struct Found {
    matmul_precision: Option<MatmulPrecision>,
    has_text: bool,
}

impl Source {
    /// Of a model that is loaded.
    pub(super) fn loaded(
        name: &str,
        options: config::Model,
        card: &ModelCard,
        engine: &Arc<Engine>,
    ) -> Self {
        let source = Self::described(name, options, card, engine);
        *source.found.lock() = Some(Found::new(card));
        source
    }

    /// Of a model whose towers were never loaded.
    pub(super) fn described(
        name: &str,
        options: config::Model,
        card: &ModelCard,
        engine: &Arc<Engine>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            options,
            revision: card.revision.clone(),
            found: Mutex::default(),
            // The engine holds the worker, and the worker this.
            engine: Arc::downgrade(engine),
            arm: arming(),
        }
    }

    pub(super) fn arm(&self, parts: Parts) -> Parts {
        (self.arm)(parts)
    }

    /// Loads what the worker asks for. The first load is of the whole model, which is checked then.
    pub(super) fn loader(self) -> Loader {
        Arc::new(move |wanted| {
            let found = *self.found.lock();
            let parts = match found {
                None => self.whole(),
                Some(found) => self.part(wanted, found),
            };
            parts.map(|parts| self.arm(parts)).map_err(|failure| self.without_path(failure))
        })
    }

    fn whole(&self) -> Result<Parts, LoadFailure> {
        let Loaded { vision, text, reader, card, tower_bytes, .. } = model::load(&self.options)?;
        self.check(&card.revision)?;
        *self.found.lock() = Some(Found::new(&card));
        if let Some(engine) = self.engine.upgrade()
            && let Some(model) = engine.registry().loaded().find(|model| model.name == self.name)
        {
            // Only the first load gets here.
            drop(model.measured.set(card));
        }
        Ok(Parts { vision: Some(vision), text, reader, bytes: tower_bytes })
    }

    fn part(&self, wanted: [bool; 2], found: Found) -> Result<Parts, LoadFailure> {
        let part = match wanted {
            [true, true] => Part::All,
            [true, false] if found.has_text => Part::Vision,
            [true, false] => Part::All,
            _ => Part::Text,
        };
        let matmul_precision = found.matmul_precision;
        let options = config::Model { matmul_precision, ..self.options.clone() };
        let PartLoaded { vision, text, reader, revision, tower_bytes } =
            model::load_part(&options, part)?;
        self.check(&revision)?;
        Ok(Parts { vision, text, reader, bytes: tower_bytes })
    }

    /// Vectors of both would lie in one cache, and in one database, under one name.
    fn check(&self, revision: &str) -> Result<(), LoadFailure> {
        if revision == self.revision {
            return Ok(());
        }
        let error = "the checkpoint has changed since the server started; restart it".into();
        Err(LoadFailure { error, for_good: true })
    }

    /// Clients are told why, but not where the files are.
    fn without_path(&self, failure: LoadFailure) -> LoadFailure {
        let message = failure.error.to_string().replace(&self.options.source, &self.name);
        LoadFailure { error: message.into(), ..failure }
    }
}

impl Found {
    fn new(card: &ModelCard) -> Self {
        Self {
            matmul_precision: card.matmul_precision.as_ref().map(|own| own.value),
            has_text: card.text_length.is_some() || card.reader.is_some(),
        }
    }
}

/// Returns the towers unchanged, except in builds with failpoints if `SIGLIP_FAILPOINT` orders faults.
fn arming() -> Arm {
    #[cfg(failpoints)]
    if let Some(points) = crate::app::failpoint::Failpoint::from_env() {
        return Box::new(move |parts| points.iter().fold(parts, |parts, point| point.arm(parts)));
    }
    Box::new(|parts| parts)
}
