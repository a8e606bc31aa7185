//! `GET /v1/models`: the served models, in OpenAI's format.

use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{AppState, openapi::UnknownModelErrors, problem::Failure, respond::Json};
use crate::error::{Code, Error};

/// The served models.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelList {
    /// Always `list`.
    #[schema(value_type = String, example = "list")]
    object: &'static str,
    data: Vec<ModelObject>,
}

/// One served model.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelObject {
    /// The name or alias that requests use.
    #[schema(example = "demo")]
    id: String,
    /// Always `model`.
    #[schema(value_type = String, example = "model")]
    object: &'static str,
    /// When this server started, in seconds since 1970.
    created: u64,
    /// Always `siglip-server`.
    #[schema(value_type = String, example = "siglip-server")]
    owned_by: &'static str,
}

fn object(state: &AppState, name: &str) -> ModelObject {
    ModelObject {
        id: name.to_owned(),
        object: "model",
        created: state.0.started,
        owned_by: "siglip-server",
    }
}

/// Lists the served models
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "list_models",
    tag = "models",
    responses((status = 200, description = "The models, the default first, then their aliases", body = ModelList)),
)]
pub(super) async fn list(State(state): State<AppState>) -> Json<ModelList> {
    let registry = state.engine().registry();
    let names = registry.names().chain(registry.aliases().map(|(alias, _)| alias));
    let data = names.map(|name| object(&state, name)).collect();
    Json(ModelList { object: "list", data })
}

/// Describes one served model
#[utoipa::path(
    get,
    path = "/v1/models/{model}",
    operation_id = "get_model",
    tag = "models",
    params(("model" = String, Path, description = "The model's name, or an alias", example = "demo")),
    responses((status = 200, description = "The model", body = ModelObject), UnknownModelErrors),
)]
pub(super) async fn retrieve(
    State(state): State<AppState>,
    Path(name): Path<String>,
) -> Result<Json<ModelObject>, Failure> {
    let served = state.engine().registry().resolve(&name).is_some();
    let unknown = || Error::new(Code::ModelNotFound, "no model of this name is served here");
    served
        .then(|| Json(object(&state, &name)))
        .ok_or_else(|| Failure(unknown().with_field("model")))
}
