//! Loads and unloads the models' towers. These routes are only on the admin listener, so they are not part of
//! the OpenAPI document. docs/operations.md describes them.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, Uri, header},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};

use super::{AppState, body, problem::Failure, respond::Json};
use crate::{
    batch::{BatchError, TowerKind, TowerStatus},
    error::{Code, Error},
    registry::Model,
};

/// The time after which to retry for a tower that has rows.
const BUSY_RETRY: Duration = Duration::from_secs(1);

pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/admin/models", get(list))
        .route("/admin/models/{model}/load", post(load))
        .route("/admin/models/{model}/unload", post(unload))
}

/// Every model, in the order of the configuration.
#[derive(Debug, Serialize)]
struct Models {
    models: Vec<ModelState>,
    /// Bytes of the weights of all towers that are loaded.
    resident_bytes: u64,
}

/// One model.
#[derive(Debug, Serialize)]
struct ModelState {
    name: String,
    /// Null for a model whose files were not downloaded yet.
    revision: Option<String>,
    /// Why the files could not be downloaded.
    error: Option<String>,
    towers: Vec<TowerState>,
}

/// One tower.
#[derive(Debug, Serialize)]
struct TowerState {
    /// `vision` or `text`.
    tower: &'static str,
    /// `loaded`, `unloaded`, `loading` or `failed`.
    state: &'static str,
    /// Number of bytes of its weights in memory.
    resident_bytes: u64,
    /// Number of rows that wait for it.
    queued_rows: usize,
    /// Time since its last pass, or since it was loaded. Null if it is not loaded.
    idle_ms: Option<u64>,
    /// Why its last load failed.
    error: Option<String>,
}

impl From<TowerStatus> for TowerState {
    fn from(status: TowerStatus) -> Self {
        let idle = u64::try_from(status.idle.as_millis()).unwrap_or(u64::MAX);
        Self {
            tower: status.kind.name(),
            state: status.presence.name(),
            resident_bytes: status.bytes,
            queued_rows: status.queued,
            idle_ms: status.is_loaded().then_some(idle),
            error: status.failure,
        }
    }
}

impl ModelState {
    fn of(model: &Model) -> Self {
        Self {
            name: model.name.clone(),
            revision: Some(model.card.revision.clone()),
            error: None,
            towers: model.handle.towers().into_iter().map(Into::into).collect(),
        }
    }
}

async fn list(State(state): State<AppState>, uri: Uri) -> Result<Json<Models>, Failure> {
    body::refuse_query(&uri, "this route takes no parameters")?;
    let registry = state.engine().registry();
    let mut models: Vec<_> = registry.loaded().map(|model| ModelState::of(model)).collect();
    models.extend(registry.deferred().map(|(name, error)| ModelState {
        name: name.to_owned(),
        revision: None,
        error,
        towers: Vec::new(),
    }));
    let towers = models.iter().flat_map(|model| &model.towers);
    let resident_bytes = towers.map(|tower| tower.resident_bytes).sum();
    Ok(Json(Models { models, resident_bytes }))
}

/// The options of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    tower: Option<Which>,
}

/// A tower, by the name that operators use.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Which {
    Vision,
    Text,
}

/// The towers of a request: the one that it names, or all.
fn towers(model: &Model, uri: &Uri) -> Result<Vec<TowerKind>, Error> {
    let options: Options = body::query(uri)?;
    let asked = options.tower.map(|which| match which {
        Which::Vision => TowerKind::Vision,
        Which::Text => TowerKind::Text,
    });
    let own = model.handle.towers().into_iter().map(|status| status.kind);
    let meant: Vec<_> = own.filter(|kind| asked.is_none_or(|asked| asked == *kind)).collect();
    match meant.is_empty() {
        true => Err(Error::invalid("tower", "the model has no such tower")),
        false => Ok(meant),
    }
}

/// A web page of another site can make a browser send a request to a listener that only this browser can reach.
/// Browsers then send the page's origin.
fn refuse_pages(headers: &HeaderMap) -> Result<(), Error> {
    match headers.get(header::ORIGIN) {
        Some(_) => Err(Error::invalid("origin", "web pages may not change what is loaded")),
        None => Ok(()),
    }
}

/// The model and the towers of a request that changes what is loaded.
fn asked<'s>(
    state: &'s AppState,
    name: &str,
    headers: &HeaderMap,
    uri: &Uri,
) -> Result<(&'s Arc<Model>, Vec<TowerKind>), Error> {
    refuse_pages(headers)?;
    let model = state.engine().registry().get(Some(name))?;
    Ok((model, towers(model, uri)?))
}

async fn load(
    State(state): State<AppState>,
    Path(name): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Json<ModelState>, Failure> {
    let (model, towers) = asked(&state, &name, &headers, &uri)?;
    for tower in towers {
        model.handle.load(tower).await.map_err(not_loaded)?;
    }
    Ok(Json(ModelState::of(model)))
}

async fn unload(
    State(state): State<AppState>,
    Path(name): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Json<ModelState>, Failure> {
    let (model, towers) = asked(&state, &name, &headers, &uri)?;
    for tower in towers {
        if !model.handle.unload(tower).await {
            let message = format!("the {} tower has rows, or is being loaded", tower.name());
            return Err(Error::new(Code::Overloaded, message).with_retry_after(BUSY_RETRY).into());
        }
    }
    Ok(Json(ModelState::of(model)))
}

fn not_loaded(error: BatchError) -> Error {
    match error {
        BatchError::NotLoaded { retry_after, .. } => {
            Error::new(Code::NotReady, error.to_string()).with_retry_after(retry_after)
        }
        BatchError::Closed => Error::new(Code::ShuttingDown, error.to_string()),
        _ => Error::new(Code::DeviceFailed, error.to_string()),
    }
}
