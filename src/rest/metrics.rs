//! `GET /metrics`, for Prometheus.

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::{AppState, problem::Failure};
use crate::error::Error;

/// Lists every metric
///
/// In Prometheus' text format 0.0.4. All metrics exist from the start, before the first request.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    tag = "operations",
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain")),
)]
pub(super) async fn scrape(State(state): State<AppState>) -> Result<Response, Failure> {
    state.engine().refresh_metrics().await;
    let text = state.metrics().render().map_err(Error::internal)?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
