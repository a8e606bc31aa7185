//! The gRPC surface, over the same engine as the REST surface, with tonic.
//!
//! The protocol is `proto/siglip/v1`, and `proto/inference` for clients of the Open Inference Protocol. The
//! listener also serves `grpc.health.v1` (from the registry's current state on every call) and server
//! reflection, so that `grpcurl` and gRPC-aware probes work without a copy of the protocol.

mod call;
mod captions;
mod codec;
mod convert;
mod edge;
mod health;
mod inference;
mod inflate;
mod observe;
mod receive;
mod rows;
mod service;
mod status;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::{body::Body, codec::CompressionEncoding, service::Routes};
use tonic_health::pb::health_server::HealthServer;
use tower::{Layer as _, ServiceBuilder};

pub(crate) use self::edge::is_probe;
use self::{
    edge::EdgeLayer, health::HealthService, inference::InferenceService,
    oip_proto::grpc_inference_service_server::GrpcInferenceServiceServer,
    proto::embedding_service_server as embedding, service::EmbeddingService,
};
use crate::{auth::Keys, engine::Engine};

/// The messages and services of `proto/siglip/v1`, documented there field by field.
#[expect(
    missing_docs,
    clippy::allow_attributes,
    reason = "written by the protocol compiler; the comments stand in the protocol"
)]
pub mod proto {
    tonic::include_proto!("siglip.v1");

    /// The compiled protocol, for the reflection service.
    pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("descriptors");
}

/// The messages and the service of `proto/inference`: the Open Inference Protocol.
#[expect(
    missing_docs,
    clippy::allow_attributes,
    reason = "written by the protocol compiler; the comments stand in the protocol"
)]
pub mod oip_proto {
    tonic::include_proto!("inference");
}

/// Maximum number of values (images x texts x matrices) of one similarity response: 16 MiB of f32. The response
/// is one message, which both sides hold whole; the REST surface streams larger ones.
pub const MAX_SCORE_VALUES: usize = 4 << 20;

/// The gRPC service over an engine. It uses HTTP/2 only; the caller provides the listener, its connections and
/// its TLS.
///
/// * `keys`: every call except health checks must present one of these keys; without this, no key is required
/// * `stopping`: ends the health watches, which otherwise never end and would block a drain
///
/// Health turns to `NOT_SERVING` as soon as [`crate::registry::Registry::close`] was called, which may be
/// earlier than `stopping`.
///
/// # Errors
/// Fails if the reflection service does not accept the compiled protocol, which is a defect of the build.
pub fn router(
    engine: &Arc<Engine>,
    keys: Option<Arc<Keys>>,
    stopping: CancellationToken,
) -> Result<axum::Router, tonic_reflection::server::Error> {
    let routes = EdgeLayer::new(engine, keys).layer(routes(engine, stopping)?.prepare());
    let service = ServiceBuilder::new()
        .map_request(|request: http::Request<axum::body::Body>| request.map(Body::new))
        .map_response(|response: http::Response<Body>| response.map(axum::body::Body::new))
        .service(routes);
    Ok(axum::Router::new().fallback_service(service))
}

/// All services of the listener, without the layer that counts, times and limits calls.
fn routes(
    engine: &Arc<Engine>,
    stopping: CancellationToken,
) -> Result<Routes, tonic_reflection::server::Error> {
    // Messages are already decompressed here. The accepted encoding is named in the refusal of another one.
    let embedding =
        embedding::EmbeddingServiceServer::new(EmbeddingService::new(Arc::clone(engine)))
            .max_decoding_message_size(engine.limits().max_body_bytes)
            .accept_compressed(CompressionEncoding::Gzip);
    let health = HealthServer::new(HealthService::new(Arc::clone(engine), stopping));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let inference = GrpcInferenceServiceServer::new(InferenceService::new(Arc::clone(engine)))
        .max_decoding_message_size(engine.limits().max_body_bytes)
        .accept_compressed(CompressionEncoding::Gzip);
    Ok(Routes::new(embedding)
        .add_service(inference)
        .add_service(health)
        .add_service(reflection().build_v1()?)
        // `grpcurl` and most current clients still use this version.
        .add_service(reflection().build_v1alpha()?))
}
