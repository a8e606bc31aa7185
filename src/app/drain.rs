//! The end of a server that was told to stop.

use std::time::Duration;

use tracing::{info, warn};

use super::{AppError, AppHandle, Listeners};

/// Waits for what was accepted: the connections first, then the rows in the queues.
///
/// # Errors
/// [`AppError::GraceExceeded`], where the server itself is behind. A client that did not send the rest of its
/// request, or did not read its response, in the whole grace period is cut off without an error.
pub(super) async fn drain(
    handle: &AppHandle,
    mut listeners: Listeners,
    grace: Duration,
) -> Result<(), AppError> {
    info!(requests = handle.exchanges.open(), ?grace, "draining");
    let work = async {
        while let Some(ended) = listeners.join_next().await {
            ended??;
        }
        let models = || handle.engine.registry().loaded();
        models().for_each(|model| model.handle.close());
        for model in models() {
            model.handle.stopped().await;
        }
        Ok::<(), AppError>(())
    };
    let timed = tokio::time::timeout(grace, work).await;
    let Ok(ended) = timed else {
        let (open, requests) = (handle.exchanges.open(), handle.exchanges.ours());
        if requests > 0 {
            return Err(AppError::GraceExceeded { grace, requests });
        }
        warn!(requests = open, "cut off clients that did not send or read in the grace period");
        return Ok(());
    };
    ended?;
    info!("drained");
    Ok(())
}
