//! The gRPC surface: the same engine as the REST surface, over tonic.
//!
//! The protocol is `proto/siglip/v1`, and `proto/inference` for clients of the Open Inference Protocol. Beside
//! them the listener answers `grpc.health.v1` (asked of the
//! registry on every call, never remembered) and server reflection, so that `grpcurl` and gRPC-aware
//! probes work without a copy of the protocol.

mod call;
mod codec;
mod convert;
mod edge;
mod handshake;
mod health;
mod inference;
mod observe;
mod receive;
mod service;
mod status;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::pb::health_server::HealthServer;

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

    /// The compiled protocol, as the reflection service hands it out.
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

/// Most values (images x texts x matrices) of one similarity answer: 16 MiB of f32. The answer is one
/// message, held whole on both ends; the REST surface streams what is larger.
pub const MAX_SCORE_VALUES: usize = 4 << 20;

/// Streams of one connection that may be open at once. Far above what a batcher of a few dozen rows can
/// use, far below what would let one client hold the process's memory.
const MAX_STREAMS_PER_CONNECTION: u32 = 256;
/// Unread bytes of one stream: a common picture arrives without waiting for a window update.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Unread bytes of one connection, over all of its streams.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes of a request's metadata: ample for identifiers and a key.
const MAX_METADATA_BYTES: u32 = 16 << 10;
/// A peer that vanished without a word is noticed after this, plus the timeout below.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Why the gRPC listener could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The reflection service does not accept the compiled protocol; a defect of the build.
    #[error("the compiled protocol is not readable")]
    Descriptors(#[from] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("the gRPC listener failed")]
    Transport(#[from] tonic::transport::Error),
}

/// Who may call, and whether they are told who answers.
#[derive(Default)]
pub struct Access {
    /// The keys of which every call but the health checks must present one; none are asked for without.
    pub keys: Option<Arc<Keys>>,
    /// Turns connections into TLS connections; plain ones without.
    pub tls: Option<TlsAcceptor>,
}

/// Serves gRPC on `listener` until `shutdown` resolves; then takes no more connections and returns once
/// the calls in flight are answered.
///
/// Health turns to `NOT_SERVING` as soon as [`crate::registry::Registry::close`] was called, which may be
/// earlier than `shutdown`. The caller bounds how long the calls in flight may take.
///
/// # Errors
/// Any [`ServeError`].
pub async fn serve(
    listener: TcpListener,
    engine: Arc<Engine>,
    access: Access,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    // Health watches have no end of their own; without this they would hold a drain open.
    let stopping = CancellationToken::new();
    let routes = routes(&engine, stopping.clone())?;
    let stop = async move {
        shutdown.await;
        stopping.cancel();
    };
    let server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(MAX_METADATA_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(EdgeLayer::new(&engine, access.keys))
        .add_routes(routes);
    match access.tls {
        None => {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            server.serve_with_incoming_shutdown(incoming, stop).await?;
        }
        Some(tls) => {
            let incoming = handshake::connections(listener, tls);
            server.serve_with_incoming_shutdown(incoming, stop).await?;
        }
    }
    Ok(())
}

/// Every service of the listener, without the layer that counts, times and bounds calls.
fn routes(engine: &Arc<Engine>, stopping: CancellationToken) -> Result<Routes, ServeError> {
    let embedding =
        embedding::EmbeddingServiceServer::new(EmbeddingService::new(Arc::clone(engine)))
            .max_decoding_message_size(engine.limits().max_body_bytes);
    let health = HealthServer::new(HealthService::new(Arc::clone(engine), stopping));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let inference = GrpcInferenceServiceServer::new(InferenceService::new(Arc::clone(engine)))
        .max_decoding_message_size(engine.limits().max_body_bytes);
    Ok(Routes::new(embedding)
        .add_service(inference)
        .add_service(health)
        .add_service(reflection().build_v1()?)
        // What `grpcurl` and most clients of today still speak.
        .add_service(reflection().build_v1alpha()?))
}
