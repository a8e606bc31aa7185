//! The Open Inference Protocol, version 2, over REST, for the clients of KServe and Triton.

mod models;
mod path;
mod schema;
pub(in crate::rest) mod wire;

use axum::{extract::State, response::Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use self::{
    path::{FramingHeader, ModelPath, Named, VersionPath},
    schema::{InferBodySchema, InferResponseSchema},
    wire::Call,
};
use crate::{
    build_info, oip,
    rest::{
        AppState,
        compat::PLAIN,
        envelope::Envelope,
        health,
        layers::Ctx,
        openapi::{PlainErrors, PlainNotReadyErrors, RequestHeaders},
        problem::Failure,
        respond::Json,
        routes::Routes,
    },
};

/// Every route of the protocol.
pub(super) fn routes() -> Routes {
    Routes::default()
        .add(PLAIN, routes!(server))
        .add(PLAIN.open().probe(), routes!(live))
        .add(PLAIN.open().probe(), routes!(ready))
        .add(PLAIN, routes!(models::metadata))
        .add(PLAIN.probe(), routes!(models::ready))
        .add(PLAIN, routes!(models::config))
        .add(PLAIN, routes!(infer))
        .add(PLAIN, routes!(models::versioned_metadata))
        .add(PLAIN.probe(), routes!(models::versioned_ready))
        .add(PLAIN, routes!(models::versioned_config))
        .add(PLAIN, routes!(versioned_infer))
        .unsupported(Envelope::Plain, &["/v2/health/", "/v2/repository/"])
}

/// Information about the server.
#[derive(Debug, Serialize, ToSchema)]
struct ServerMetadata {
    /// Always `siglip-server`.
    #[schema(value_type = String)]
    name: &'static str,
    version: &'static str,
    /// The supported extensions of the protocol.
    #[schema(value_type = Vec<String>)]
    extensions: [&'static str; 2],
}

/// Describes the server, in the Open Inference Protocol
#[utoipa::path(
    get,
    path = "/v2",
    operation_id = "oip_server",
    tag = "compatible",
    responses((status = 200, description = "The server", body = ServerMetadata)),
)]
async fn server() -> Json<ServerMetadata> {
    Json(ServerMetadata {
        name: oip::PLATFORM,
        version: build_info::VERSION,
        extensions: oip::EXTENSIONS,
    })
}

/// Liveness probe, in the Open Inference Protocol
#[utoipa::path(
    get,
    path = "/v2/health/live",
    operation_id = "oip_live",
    tag = "compatible",
    responses((status = 200, description = "The process answers")),
)]
async fn live() {}

/// Readiness probe, in the Open Inference Protocol
#[utoipa::path(
    get,
    path = "/v2/health/ready",
    operation_id = "oip_ready",
    tag = "compatible",
    responses(
        (status = 200, description = "Every tower ran and every worker lives"),
        PlainNotReadyErrors,
    ),
)]
async fn ready(State(state): State<AppState>) -> Result<(), Failure> {
    Ok(health::check(&state)?)
}

/// Embeds and scores tensors, in the Open Inference Protocol
///
/// Reads `IMAGE` (BYTES; in JSON as data URIs or base64) or `PIXEL_VALUES` (FP32 `[n, 3, height, width]`), and
/// `TEXT` (BYTES) or `INPUT_IDS` (INT32 or INT64 `[n, length]`). Returns `EMBEDDING`, images first. If both
/// sides are given, it also returns `LOGIT` and `PROBABILITY` `[images, texts]`. A model that generates
/// captions also returns `CAPTION` (BYTES). With the header `Inference-Header-Content-Length`, this many bytes
/// of the body are JSON, and raw tensors follow.
#[utoipa::path(
    post,
    path = "/v2/models/{model}/infer",
    operation_id = "oip_infer",
    tag = "compatible",
    params(ModelPath, FramingHeader, RequestHeaders),
    request_body(content((InferBodySchema = "application/json"))),
    responses((status = 200, description = "The tensors", body = InferResponseSchema), PlainErrors),
)]
async fn infer(
    State(state): State<AppState>,
    Named(model): Named,
    Ctx(context): Ctx,
    call: Call,
) -> Result<Response, Failure> {
    let (request, form) = call.split(model)?;
    let answer = oip::infer(state.engine(), request, &context).await?;
    Ok(form.respond(&state, &context, answer).await?)
}

/// Embeds and scores tensors with a model version, in the Open Inference Protocol
///
/// The same as without a version. The only version is `1`.
#[utoipa::path(
    post,
    path = "/v2/models/{model}/versions/{version}/infer",
    operation_id = "oip_infer_version",
    tag = "compatible",
    params(VersionPath, FramingHeader, RequestHeaders),
    request_body(content((InferBodySchema = "application/json"))),
    responses((status = 200, description = "The tensors", body = InferResponseSchema), PlainErrors),
)]
async fn versioned_infer(
    state: State<AppState>,
    model: Named,
    context: Ctx,
    call: Call,
) -> Result<Response, Failure> {
    infer(state, model, context, call).await
}
