//! Waits for conditions that no notification reports: the state of another process, or of its connections.

use std::time::Duration;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(20);
/// Longer than any condition takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until a condition holds.
///
/// * `what`: the condition in words, for the failure
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let looks = async {
        while !holds().await {
            tokio::time::sleep(INTERVAL).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, looks).await.is_ok(), "waited in vain: {what}");
}
