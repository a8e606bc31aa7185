//! API keys: which requests are allowed, and how many of one key at a time.
//!
//! Keys come from a file that is read again when it changes. Only their hashes are kept. A comparison always
//! looks at every key and compares hashes, so its duration reveals nothing.

mod file;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, header};
use parking_lot::RwLock;
use subtle::{Choice, ConstantTimeEq as _};

use self::file::Entry;
pub use self::file::KeyFileError;
use crate::{
    error::{Code, Error},
    telemetry::Metrics,
};

/// The header for clients that cannot set `Authorization`.
pub const KEY_HEADER: &str = "x-api-key";
/// The same header as Azure's clients call it.
const AZURE_KEY_HEADER: &str = "api-key";
/// The `Retry-After` for a key at its quota: about as long as a common request takes.
const QUOTA_RETRY: Duration = Duration::from_secs(1);

/// The hash of a key.
type Digest = [u8; blake3::OUT_LEN];

/// Requests that one key has in flight.
#[derive(Debug, Default)]
struct Usage(AtomicUsize);

/// One key, as its hash.
#[derive(Debug)]
struct Key {
    name: Arc<str>,
    digest: Digest,
    max_concurrent: Option<usize>,
    usage: Arc<Usage>,
}

/// The current keys.
#[derive(Debug)]
pub struct Keys {
    path: PathBuf,
    keys: RwLock<Arc<[Key]>>,
    metrics: Arc<Metrics>,
}

/// An admitted request. Dropping it frees its place in the key's quota.
#[derive(Debug)]
pub struct Admitted {
    name: Arc<str>,
    usage: Arc<Usage>,
}

impl Admitted {
    /// The key's name, for logs and metrics.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.usage.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Keys {
    /// Reads the keys for the first time.
    ///
    /// # Errors
    /// [`KeyFileError`]. A server that requires keys must not start without them.
    pub fn load(path: PathBuf, metrics: Arc<Metrics>) -> Result<Self, KeyFileError> {
        let entries = file::read(&path)?;
        let keys = Self { path, keys: RwLock::new(Arc::new([])), metrics };
        keys.replace(entries);
        Ok(keys)
    }

    /// Replaces the keys. A key with an unchanged name keeps its count of requests in flight.
    fn replace(&self, entries: Vec<Entry>) {
        let mut current = self.keys.write();
        let usages: HashMap<_, _> =
            current.iter().map(|key| (Arc::clone(&key.name), Arc::clone(&key.usage))).collect();
        let key = |entry: Entry| {
            let name: Arc<str> = entry.name.into();
            self.metrics.key_requests.with_label_values(&[&name]);
            let usage = usages.get(&name).cloned().unwrap_or_default();
            Key { name, digest: entry.digest, max_concurrent: entry.max_concurrent, usage }
        };
        *current = entries.into_iter().map(key).collect();
    }

    /// Admits a request by its headers or metadata: `Authorization: Bearer KEY`, or `x-api-key: KEY`.
    ///
    /// # Errors
    /// [`Code::Unauthorized`] without a key or with an unknown one; [`Code::Overloaded`] if the key is at its
    /// quota.
    pub fn admit(&self, headers: &HeaderMap) -> Result<Admitted, Error> {
        let Some(presented) = presented(headers) else {
            return Err(Error::new(
                Code::Unauthorized,
                "an API key is required: `Authorization: Bearer KEY` or `x-api-key: KEY`",
            ));
        };
        let keys = Arc::clone(&*self.keys.read());
        let key = find(&keys, &digest(presented))
            .ok_or_else(|| Error::new(Code::Unauthorized, "the API key is not known here"))?;
        self.metrics.key_requests.with_label_values(&[&*key.name]).inc();
        let limit = key.max_concurrent.unwrap_or(usize::MAX);
        let fits = |taken: usize| (taken < limit).then_some(taken + 1);
        // Relaxed: the count guards no other memory.
        key.usage.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).map_err(|_| {
            let message = format!("this API key has {limit} requests in flight, as many as it may");
            Error::new(Code::Overloaded, message).with_retry_after(QUOTA_RETRY)
        })?;
        Ok(Admitted { name: Arc::clone(&key.name), usage: Arc::clone(&key.usage) })
    }
}

/// The key that a request presents. `Authorization` counts only if it has a bearer token.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, token) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
    });
    let named = || headers.get(KEY_HEADER).or_else(|| headers.get(AZURE_KEY_HEADER));
    bearer.or_else(|| named().map(|value| value.as_bytes().trim_ascii()))
}

fn digest(key: &[u8]) -> Digest {
    *blake3::hash(key).as_bytes()
}

/// The key with this hash. Every key is compared in full, even after a match.
fn find<'k>(keys: &'k [Key], digest: &Digest) -> Option<&'k Key> {
    let mut found = None;
    for key in keys {
        let same: Choice = key.digest.ct_eq(digest);
        if bool::from(same) {
            found = Some(key);
        }
    }
    found
}
