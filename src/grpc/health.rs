//! Serves `grpc.health.v1` from the registry's current state.
//!
//! A reporter that is notified of changes would be wrong between a change and its notification. Readiness is a
//! few atomic loads, so it is read on every call.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, server::NamedService};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

use super::{
    embedding::EmbeddingServiceServer, inference::InferenceService,
    oip_proto::grpc_inference_service_server::GrpcInferenceServiceServer,
    service::EmbeddingService, status::status,
};
use crate::{
    engine::Engine,
    error::{Code, Error},
    registry::Readiness,
};

/// How often a watch checks for a change. Load balancers are not faster.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// The health of the server (the empty name) and of each of its services, which is always the same.
pub(super) struct HealthService {
    engine: Arc<Engine>,
    stopping: CancellationToken,
}

impl HealthService {
    /// Watches end when `stopping` is cancelled.
    pub(super) fn new(engine: Arc<Engine>, stopping: CancellationToken) -> Self {
        Self { engine, stopping }
    }
}

/// The services of the listener: those that reflection lists, reflection in both versions, and the server
/// itself with the empty name.
const SERVICES: [&str; 6] = [
    "",
    EmbeddingServiceServer::<EmbeddingService>::NAME,
    GrpcInferenceServiceServer::<InferenceService>::NAME,
    HealthServer::<HealthService>::NAME,
    tonic_reflection::pb::v1::server_reflection_server::SERVICE_NAME,
    tonic_reflection::pb::v1alpha::server_reflection_server::SERVICE_NAME,
];

fn knows(service: &str) -> bool {
    SERVICES.contains(&service)
}

fn serving(engine: &Engine) -> ServingStatus {
    match engine.registry().readiness() {
        Readiness::Ready => ServingStatus::Serving,
        Readiness::Starting
        | Readiness::ShuttingDown
        | Readiness::WorkerRestarting(_)
        | Readiness::WorkerFailed(_)
        | Readiness::LoadFailed(_) => ServingStatus::NotServing,
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !knows(&request.get_ref().service) {
            let error = Error::new(Code::NotFound, "no such service").with_field("service");
            return Err(status(error));
        }
        Ok(Response::new(response(serving(&self.engine))))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let known = knows(&request.get_ref().service);
        let (engine, stopping) = (Arc::clone(&self.engine), self.stopping.clone());
        let current = move || if known { serving(&engine) } else { ServingStatus::ServiceUnknown };
        Ok(Response::new(Box::pin(async_stream::stream! {
            let mut last = current();
            yield Ok(response(last));
            while stopping.run_until_cancelled(tokio::time::sleep(WATCH_INTERVAL)).await.is_some() {
                let now = current();
                if now != last {
                    last = now;
                    yield Ok(response(now));
                }
            }
            // A watcher must not keep the state `SERVING` of a server that has ended.
            if known && last != ServingStatus::NotServing {
                yield Ok(response(ServingStatus::NotServing));
            }
        })))
    }
}
