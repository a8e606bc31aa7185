//! Reads the keys again while the server runs.

use std::{sync::Arc, time::Duration};

use tracing::{error, info};

use super::{Keys, file};

/// How often the file is read. It is small, so a read is cheap. On some systems a file-system watch would miss
/// the change of links by which Kubernetes updates a mounted secret.
const INTERVAL: Duration = Duration::from_secs(1);

impl Keys {
    /// Applies changes of the file until the task ends. An invalid file changes nothing: the old keys stay in
    /// use, and the error is logged once.
    pub async fn follow_file(self: Arc<Self>) {
        let mut complaint = None;
        loop {
            tokio::time::sleep(INTERVAL).await;
            match self.reread().await {
                Ok(true) => info!("the API keys have changed"),
                Ok(false) => {}
                Err(text) => {
                    if complaint.as_ref() != Some(&text) {
                        error!(error = text, "the API keys in force stay as they are");
                    }
                    complaint = Some(text);
                    continue;
                }
            }
            complaint = None;
        }
    }

    /// Reads the file, and returns whether it has changed.
    pub(super) async fn reread(&self) -> Result<bool, String> {
        let path = self.path.clone();
        let entries = tokio::task::spawn_blocking(move || file::read(&path))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| match std::error::Error::source(&error) {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            })?;
        let same = {
            let current = self.keys.read();
            current.len() == entries.len()
                && current.iter().zip(&entries).all(|(key, entry)| {
                    *key.name == entry.name
                        && key.digest == entry.digest
                        && key.max_concurrent == entry.max_concurrent
                })
        };
        if !same {
            self.replace(entries);
        }
        Ok(!same)
    }
}
