//! Keys that change while the server runs.

use std::{sync::Arc, time::Duration};

use tracing::{error, info};

use super::{Keys, file};

/// How often the file is looked at. It is small, and a look costs one read; a watch of the file system
/// would miss the swap of links by which Kubernetes updates a mounted secret on some systems.
const INTERVAL: Duration = Duration::from_secs(1);

impl Keys {
    /// Takes over what the file says, again and again. A file that is not usable changes nothing: the keys
    /// that were in force stay, and the log says so once.
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

    /// Reads the file, and tells whether it says anything new.
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
