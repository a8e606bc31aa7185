//! Caches embeddings by the hash of their input, and computes equal inputs in flight only once.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use moka::future::Cache;
use prometheus::{IntCounter, IntGauge};

use crate::{
    embedding::Embedding,
    error::{Code, Error},
    telemetry::Metrics,
};

/// The key of an input: a hash over the canonical input, the model's identity (name and revision, because one
/// checkpoint may be served twice in two types) and, for images, the preprocessing version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

/// Bytes of an entry in addition to its row: the key, the header of the shared row, and the cache's own data.
const ENTRY_OVERHEAD_BYTES: usize = 256;

impl Key {
    /// The key of a text, over its canonical form.
    #[must_use]
    pub fn text(identity: &str, canonical: &str) -> Self {
        Self::of(b"text", &[identity.as_bytes(), canonical.as_bytes()])
    }

    /// The key of an image, over its encoded bytes.
    #[must_use]
    pub fn image(identity: &str, preprocessing: &str, bytes: &[u8]) -> Self {
        Self::of(b"image", &[identity.as_bytes(), preprocessing.as_bytes(), bytes])
    }

    /// Hashes every part with its length, so that different lists of parts never give the same bytes.
    fn of(domain: &[u8], parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(domain);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(*hasher.finalize().as_bytes())
    }
}

/// A cache of unnormalised embeddings with a maximum size in bytes.
#[derive(Debug)]
pub struct EmbeddingCache {
    rows: Cache<Key, Embedding>,
    hits: IntCounter,
    misses: IntCounter,
    bytes: IntGauge,
}

/// Whether this call computed the embedding or shared another result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This call computed it.
    Computed,
    /// The embedding was cached, or the result of an equal input in flight.
    Shared,
}

impl EmbeddingCache {
    /// A cache of at most `max_bytes`; with 0 it only joins equal inputs in flight.
    ///
    /// * `name`: the metrics' label, `text` or `image`
    #[must_use]
    pub fn new(name: &'static str, max_bytes: u64, metrics: Arc<Metrics>) -> Self {
        let weigh = |_: &Key, row: &Embedding| {
            u32::try_from(row.bytes() + ENTRY_OVERHEAD_BYTES).unwrap_or(u32::MAX)
        };
        Self {
            rows: Cache::builder().max_capacity(max_bytes).weigher(weigh).build(),
            hits: metrics.cache_hits.with_label_values(&[name]),
            misses: metrics.cache_misses.with_label_values(&[name]),
            bytes: metrics.cache_bytes.with_label_values(&[name]),
        }
    }

    /// Returns the cached embedding of `key`, or the result of `compute`. Callers with an equal key wait for
    /// one computation. If the caller that computes is cancelled, another one takes over.
    ///
    /// A failure is not cached. Waiting callers get it only if the input is at fault. If the failure belongs to
    /// the caller that computed (its deadline, a full queue), the next caller computes.
    ///
    /// # Errors
    /// The error of `compute`.
    pub async fn get_or_compute<F>(
        &self,
        key: Key,
        compute: F,
    ) -> Result<(Embedding, Origin), Error>
    where
        F: Future<Output = Result<Embedding, Error>>,
    {
        let ran = AtomicBool::new(false);
        // `compute` is pinned here and borrowed, so that it is still available after another caller's failure.
        let compute = async {
            ran.store(true, Ordering::Relaxed);
            compute.await
        };
        tokio::pin!(compute);
        loop {
            let joined = self.rows.try_get_with(key, compute.as_mut()).await;
            let computed = ran.load(Ordering::Relaxed);
            match joined {
                Ok(row) => {
                    let (series, origin) = if computed {
                        (&self.misses, Origin::Computed)
                    } else {
                        (&self.hits, Origin::Shared)
                    };
                    series.inc();
                    return Ok((row, origin));
                }
                Err(error) if !computed && is_about_the_caller(error.code()) => {}
                Err(error) => {
                    self.misses.inc();
                    return Err(Arc::unwrap_or_clone(error));
                }
            }
        }
    }

    /// Updates the gauge of bytes before a scrape, because eviction happens in the background.
    pub async fn refresh_metrics(&self) {
        self.rows.run_pending_tasks().await;
        self.bytes.set(i64::try_from(self.rows.weighted_size()).unwrap_or(i64::MAX));
    }
}

/// Whether a failure belongs to the caller's request instead of the input.
fn is_about_the_caller(code: Code) -> bool {
    matches!(code, Code::DeadlineExceeded | Code::Overloaded)
}

#[cfg(test)]
mod tests {
    use futures::{future::join_all, poll};
    use tokio::sync::oneshot;

    use super::*;

    fn cache(max_bytes: u64) -> (EmbeddingCache, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new());
        (EmbeddingCache::new("text", max_bytes, Arc::clone(&metrics)), metrics)
    }

    fn row() -> Embedding {
        Embedding::new(vec![1.0, 2.0])
    }

    #[test]
    fn keys_keep_parts_apart() {
        assert_ne!(Key::text("ab", "c"), Key::text("a", "bc"));
        assert_ne!(Key::text("a", "b"), Key::image("a", "b", b""));
    }

    #[tokio::test]
    async fn equal_inputs_in_flight_are_computed_once() {
        let (cache, metrics) = cache(0);
        let key = Key::text("r", "a cat");
        let (open, gate) = oneshot::channel::<()>();
        let first = cache.get_or_compute(key, async {
            gate.await.expect("the test opens the gate");
            Ok(row())
        });
        let others = (0..5).map(|_| cache.get_or_compute(key, async { panic!("computed twice") }));
        tokio::pin!(first);
        assert!(poll!(&mut first).is_pending());
        let others = join_all(others);
        tokio::pin!(others);
        assert!(poll!(&mut others).is_pending());
        open.send(()).expect("the first waits");
        assert_eq!(first.await.expect("computed").1, Origin::Computed);
        for other in others.await {
            assert_eq!(other.expect("joined").1, Origin::Shared);
        }
        assert_eq!(metrics.cache_hits.with_label_values(&["text"]).get(), 5);
    }

    #[tokio::test]
    async fn when_the_one_that_computes_leaves_another_takes_over() {
        let (cache, _) = cache(1 << 20);
        let key = Key::text("r", "a cat");
        let mut leaves = Box::pin(cache.get_or_compute(key, std::future::pending()));
        assert!(poll!(&mut leaves).is_pending());
        let stays = cache.get_or_compute(key, async { Ok(row()) });
        tokio::pin!(stays);
        assert!(poll!(&mut stays).is_pending());
        drop(leaves);
        assert_eq!(stays.await.expect("took over").1, Origin::Computed);
    }

    #[tokio::test]
    async fn a_callers_own_deadline_does_not_fail_the_others() {
        let (cache, _) = cache(1 << 20);
        let key = Key::text("r", "a cat");
        let (open, gate) = oneshot::channel::<()>();
        let late = cache.get_or_compute(key, async {
            gate.await.expect("the test opens the gate");
            Err(Error::new(Code::DeadlineExceeded, "too late"))
        });
        let patient = cache.get_or_compute(key, async { Ok(row()) });
        tokio::pin!(late, patient);
        assert!(poll!(&mut late).is_pending());
        assert!(poll!(&mut patient).is_pending());
        open.send(()).expect("the first waits");
        assert_eq!(late.await.expect_err("late").code(), Code::DeadlineExceeded);
        assert_eq!(patient.await.expect("computes itself").1, Origin::Computed);
    }

    #[tokio::test]
    async fn bytes_are_bounded_and_shown() {
        let (cache, metrics) = cache(1000);
        for text in 0..50 {
            let key = Key::text("r", &text.to_string());
            cache.get_or_compute(key, async { Ok(row()) }).await.expect("computed");
        }
        cache.refresh_metrics().await;
        let bytes = metrics.cache_bytes.with_label_values(&["text"]).get();
        assert!((1..=1000).contains(&bytes), "{bytes}");
    }
}
