//! The admin listener, on a thread of its own.
//!
//! Probes and scrapes are answered however busy the threads of the requests are.

use std::{io, sync::Arc};

use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::error;

use super::{
    AppError, AppHandle,
    connections::{self, Door},
    descriptors,
    listen::Port,
    security,
};
use crate::{config, rest};

/// Serves until what is returned is dropped; nothing where there is no such listener.
///
/// # Errors
/// [`AppError::Listen`] if the thread or its runtime cannot be started.
pub(super) fn listen(
    port: Option<Port>,
    listen: &config::Listen,
    handle: &AppHandle,
) -> Result<Option<DropGuard>, AppError> {
    let Some(Port::Open(socket)) = port else { return Ok(None) };
    let hosts = handle.admin.map(|addr| security::hosts(listen, &addr)).unwrap_or_default();
    let router = rest::admin_router(Arc::clone(&handle.engine), hosts);
    let door =
        Door { max_connections: descriptors::ADMIN_CONNECTIONS, ..Door::new(router, listen) };
    serve(socket, door).map(Some)
}

fn serve(listener: TcpListener, door: Door) -> Result<DropGuard, AppError> {
    let begin = || -> io::Result<DropGuard> {
        let listener = listener.into_std()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let serve = async move {
            match TcpListener::from_std(listener) {
                Ok(listener) => connections::serve(listener, door).await,
                Err(error) => error!(%error, "cannot serve the admin listener"),
            }
        };
        let run = move || {
            runtime.block_on(stopped.run_until_cancelled_owned(serve));
        };
        std::thread::Builder::new().name("admin".to_owned()).spawn(run)?;
        Ok(stop.drop_guard())
    };
    begin().map_err(AppError::Listen)
}
