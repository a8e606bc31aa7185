//! The metadata of a model in the Open Inference Protocol.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::path::{ModelPath, Named, VersionPath};
use crate::{
    oip::{self, TensorSpec},
    rest::{AppState, openapi::PlainUnknownModelErrors, problem::Failure, respond::Json},
};

/// The metadata of a model.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelMetadata {
    name: String,
    /// Always `["1"]`.
    #[schema(value_type = Vec<String>)]
    versions: [&'static str; 1],
    /// Always `siglip-server`.
    #[schema(value_type = String)]
    platform: &'static str,
    /// The input tensors.
    inputs: Vec<TensorMetadata>,
    /// The output tensors.
    outputs: Vec<TensorMetadata>,
}

/// The metadata of a tensor.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TensorMetadata {
    #[schema(value_type = String, example = "EMBEDDING")]
    name: &'static str,
    #[schema(value_type = String, example = "FP32")]
    datatype: &'static str,
    /// -1 for a size that depends on the request.
    shape: Vec<i64>,
}

/// The same in Triton's format.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelConfig {
    name: String,
    /// Always `siglip-server`.
    #[schema(value_type = String)]
    platform: &'static str,
    /// Always 0: shapes include all dimensions, and the server forms batches itself.
    #[schema(value_type = i32)]
    max_batch_size: i32,
    /// The input tensors.
    input: Vec<TensorConfig>,
    /// The output tensors.
    output: Vec<TensorConfig>,
}

/// A tensor in Triton's format.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TensorConfig {
    #[schema(value_type = String, example = "EMBEDDING")]
    name: &'static str,
    #[schema(value_type = String, example = "TYPE_FP32")]
    data_type: &'static str,
    /// -1 for a size that depends on the request.
    dims: Vec<i64>,
    /// Whether a request may omit it. Only for inputs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    optional: bool,
}

impl From<TensorSpec> for TensorMetadata {
    fn from(spec: TensorSpec) -> Self {
        Self { name: spec.name, datatype: spec.datatype.name(), shape: spec.shape }
    }
}

impl TensorConfig {
    fn of(specs: Vec<TensorSpec>, optional: bool) -> Vec<Self> {
        let tensor = |spec: TensorSpec| Self {
            name: spec.name,
            data_type: spec.datatype.config_name(),
            dims: spec.shape,
            optional,
        };
        specs.into_iter().map(tensor).collect()
    }
}

/// Describes a model, in the Open Inference Protocol
#[utoipa::path(
    get,
    path = "/v2/models/{model}",
    operation_id = "oip_model",
    tag = "compatible",
    params(ModelPath),
    responses(
        (status = 200, description = "The model", body = ModelMetadata),
        PlainUnknownModelErrors,
    ),
)]
pub(super) async fn metadata(
    State(state): State<AppState>,
    Named(name): Named,
) -> Result<Json<ModelMetadata>, Failure> {
    let model = state.engine().registry().get(Some(&name))?;
    let tensors = |specs: Vec<TensorSpec>| specs.into_iter().map(Into::into).collect();
    Ok(Json(ModelMetadata {
        name: model.name.clone(),
        versions: [oip::VERSION],
        platform: oip::PLATFORM,
        inputs: tensors(oip::inputs(model)),
        outputs: tensors(oip::outputs(model)),
    }))
}

/// Describes a version of a model, in the Open Inference Protocol
#[utoipa::path(
    get,
    path = "/v2/models/{model}/versions/{version}",
    operation_id = "oip_model_version",
    tag = "compatible",
    params(VersionPath),
    responses(
        (status = 200, description = "The model", body = ModelMetadata),
        PlainUnknownModelErrors,
    ),
)]
pub(super) async fn versioned_metadata(
    state: State<AppState>,
    model: Named,
) -> Result<Json<ModelMetadata>, Failure> {
    metadata(state, model).await
}

/// Describes a model in Triton's format, in the Open Inference Protocol
#[utoipa::path(
    get,
    path = "/v2/models/{model}/config",
    operation_id = "oip_model_config",
    tag = "compatible",
    params(ModelPath),
    responses(
        (status = 200, description = "The model", body = ModelConfig),
        PlainUnknownModelErrors,
    ),
)]
pub(super) async fn config(
    State(state): State<AppState>,
    Named(name): Named,
) -> Result<Json<ModelConfig>, Failure> {
    let model = state.engine().registry().get(Some(&name))?;
    Ok(Json(ModelConfig {
        name: model.name.clone(),
        platform: oip::PLATFORM,
        max_batch_size: 0,
        // A request needs only images or only texts.
        input: TensorConfig::of(oip::inputs(model), true),
        output: TensorConfig::of(oip::outputs(model), false),
    }))
}

/// Describes a version of a model in Triton's format, in the Open Inference Protocol
#[utoipa::path(
    get,
    path = "/v2/models/{model}/versions/{version}/config",
    operation_id = "oip_model_config_version",
    tag = "compatible",
    params(VersionPath),
    responses(
        (status = 200, description = "The model", body = ModelConfig),
        PlainUnknownModelErrors,
    ),
)]
pub(super) async fn versioned_config(
    state: State<AppState>,
    model: Named,
) -> Result<Json<ModelConfig>, Failure> {
    config(state, model).await
}

/// Says whether a model is ready, in the Open Inference Protocol
#[utoipa::path(
    get,
    path = "/v2/models/{model}/ready",
    operation_id = "oip_model_ready",
    tag = "compatible",
    params(ModelPath),
    responses(
        (status = 200, description = "The model takes requests"),
        PlainUnknownModelErrors,
    ),
)]
pub(super) async fn ready(
    State(state): State<AppState>,
    Named(name): Named,
) -> Result<(), Failure> {
    state.engine().registry().get(Some(&name))?;
    Ok(())
}

/// Says whether a version of a model is ready, in the Open Inference Protocol
#[utoipa::path(
    get,
    path = "/v2/models/{model}/versions/{version}/ready",
    operation_id = "oip_model_ready_version",
    tag = "compatible",
    params(VersionPath),
    responses(
        (status = 200, description = "The model takes requests"),
        PlainUnknownModelErrors,
    ),
)]
pub(super) async fn versioned_ready(state: State<AppState>, model: Named) -> Result<(), Failure> {
    ready(state, model).await
}
