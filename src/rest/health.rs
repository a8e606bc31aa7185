//! `GET /health/live` and `GET /health/ready`, for probes.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::{AppState, openapi::NotReadyErrors, problem::Failure, respond::Json};
use crate::{
    error::{Code, Error},
    registry::Readiness,
};

/// The response to a probe.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `alive` or `ready`.
    #[schema(value_type = String, example = "ready")]
    status: &'static str,
}

/// Liveness probe
///
/// Succeeds if the process responds. It does not fail while the server is overloaded or loading a model,
/// because a restart would not help.
#[utoipa::path(
    get,
    path = "/health/live",
    operation_id = "health_live",
    tag = "operations",
    responses((status = 200, description = "The process answers", body = Health)),
)]
pub(super) async fn live() -> Json<Health> {
    Json(Health { status: "alive" })
}

/// Checks whether the server is ready for requests.
///
/// # Errors
/// The reason why it is not ready.
pub(super) fn check(state: &AppState) -> Result<(), Error> {
    Err(match state.engine().registry().readiness() {
        Readiness::Ready => return Ok(()),
        Readiness::Starting => Error::new(Code::NotReady, "a model is loading or warming up"),
        Readiness::ShuttingDown => Error::new(Code::ShuttingDown, "the server is shutting down"),
        Readiness::WorkerRestarting(model) => {
            Error::new(Code::NotReady, format!("the worker of the model `{model}` is restarting"))
        }
        Readiness::WorkerFailed(model) => {
            Error::new(Code::NotReady, format!("the worker of the model `{model}` died"))
        }
        Readiness::LoadFailed(model) => {
            let message = format!("the model `{model}` cannot be loaded before it is mended");
            Error::new(Code::NotReady, message)
        }
    })
}

/// Readiness probe
///
/// Succeeds once every tower of every model has run, except those that are loaded when they are needed. Fails
/// during shutdown, while a worker is replaced, after a worker died, and while a model cannot be loaded because its
/// files changed.
#[utoipa::path(
    get,
    path = "/health/ready",
    operation_id = "health_ready",
    tag = "operations",
    responses(
        (status = 200, description = "Every tower ran and every worker lives", body = Health),
        NotReadyErrors,
    ),
)]
pub(super) async fn ready(State(state): State<AppState>) -> Result<Json<Health>, Failure> {
    check(&state)?;
    Ok(Json(Health { status: "ready" }))
}
