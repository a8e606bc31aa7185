//! Parts of the server, connected as the server connects them, for tests that replace the other parts.

use std::sync::Arc;

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    AppError,
    connections::{self, Door, Protocol},
    install::Site,
    large::LargeRequests,
};
use crate::{
    batch::{LoadFailure, Loader},
    config::{self, Config, Served},
    engine::Engine,
    model::Described,
    registry::Model,
};

/// Gives towers to a supervised worker, and registers their model. It is not warm yet.
///
/// * `loader`: makes the towers, at once and again whenever the worker breaks
///
/// # Errors
/// Fails if the loader does, or if a thread cannot be started.
pub fn install(
    engine: &Arc<Engine>,
    config: &Config,
    name: &str,
    described: Described,
    loader: Loader,
) -> Result<Arc<Model>, LoadFailure> {
    let parts = loader([true, described.reads_texts])?;
    let site = Site::new(config, engine);
    let keeping = site.keeping(&config.model, loader, [true, described.reads_texts], parts.bytes);
    Ok(site.adopt(name, described, parts, keeping)?)
}

/// Loads, registers and warms a model.
///
/// # Errors
/// The model cannot be read, loaded or run.
pub async fn load(
    engine: &Arc<Engine>,
    config: &Config,
    served: Served,
) -> Result<Arc<Model>, AppError> {
    Site::new(config, engine).load_and_warm(served).await
}

/// Serves HTTP/1.1 and HTTP/2 until `stop`, then drains.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    listen: &config::Listen,
    stop: CancellationToken,
) {
    serve_by(Protocol::Http, listener, Door { stop, ..Door::new(router, listen) }).await;
}

/// Serves gRPC until `stop`, then drains.
pub async fn serve_grpc(
    listener: TcpListener,
    router: Router,
    listen: &config::Listen,
    stop: CancellationToken,
) {
    serve_by(Protocol::Grpc, listener, Door { stop, ..Door::new(router, listen) }).await;
}

async fn serve_by(protocol: Protocol, listener: TcpListener, door: Door) {
    // Without its threads, large requests are answered on those of the caller.
    let large = LargeRequests::start().ok();
    let handle = large.as_ref().and_then(LargeRequests::handle);
    let leave = door.stop.clone();
    connections::serve(listener, Door { protocol, leave, large: handle, ..door }).await;
}
