//! Reads the model's name from a path.

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    error::Error,
    oip,
    rest::{AppState, problem::Failure},
};

/// The name in a path. A version in the path is checked.
pub(super) struct Named(pub(super) String);

/// The parameters of a path.
#[derive(Deserialize)]
struct Names {
    model: String,
    #[serde(default)]
    version: String,
}

impl FromRequestParts<AppState> for Named {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Failure> {
        let names = Path::<Names>::from_request_parts(parts, state).await;
        let Path(names) = names.map_err(|error| Error::invalid("path", error.body_text()))?;
        oip::check_version(&names.version)?;
        Ok(Self(names.model))
    }
}

/// A path with a model, for the OpenAPI document.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "only describes the path")]
pub(super) struct ModelPath {
    /// The model's name
    #[param(example = "demo")]
    model: String,
}

/// A path with a version, for the OpenAPI document.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "only describes the path")]
pub(super) struct VersionPath {
    /// The model's name
    #[param(example = "demo")]
    model: String,
    /// Always `1`
    #[param(example = "1")]
    version: String,
}

/// The header for binary bodies of `/infer`, for the OpenAPI document.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only describes the header, which is read with the body")]
pub(super) struct FramingHeader {
    /// Number of bytes of JSON, if raw tensors follow
    #[param(rename = "inference-header-content-length")]
    json_bytes: Option<usize>,
}
