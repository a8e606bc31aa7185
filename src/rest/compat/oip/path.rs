//! The model that a path names.

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

/// The name in a path, its version checked where there is one.
pub(super) struct Named(pub(super) String);

/// What a path holds.
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

/// A path with a model, for the document.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "only describes the path")]
pub(super) struct ModelPath {
    /// The model's name
    #[param(example = "demo")]
    model: String,
}

/// A path with a version, for the document.
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

/// How a body of `/infer` is framed, for the document.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only describes the header, which is read with the body")]
pub(super) struct FramingHeader {
    /// Bytes of JSON, where raw tensors stand behind it
    #[param(rename = "inference-header-content-length")]
    json_bytes: Option<usize>,
}
