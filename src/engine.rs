//! The use cases: embed, score pairs, classify. Transport-free; REST and gRPC are thin above it.
//!
//! Every limit on a request is checked here, once, whatever route it came by.

mod admission;
mod beams;
mod bulk;
mod captions;
mod classify;
mod context;
mod embed;
mod features;
mod fetching;
mod given_up;
mod input;
mod item;
mod matching;
mod matrix;
mod rank;
mod score;
mod similarity;
#[cfg(test)]
mod tests;
mod tiles;

use std::{future::Future, sync::Arc};

use self::{
    admission::{Admission, DecodeMemory, Permit, RowMemory},
    bulk::BulkRoom,
};
pub use self::{
    beams::{BeamOptions, EarlyStopping},
    bulk::{Bulk, BulkEnd, BulkEvent, BulkOptions, BulkPlace, BulkRow, RowBytes, RowRoom},
    captions::{Caption, CaptionRequest, Captioned, Sampling, Written},
    classify::{Classified, ClassifyRequest, DEFAULT_TEMPLATE, LabelScore},
    context::{Context, Shares},
    embed::{EmbedRequest, Embedded, EmbeddedItems, Usage},
    features::{FeatureMap, FeatureOutput, Features, FeaturesRequest},
    input::{ImageInput, Input},
    matching::Pairing,
    matrix::Matrix,
    rank::{Pair, RERANK_TOP_K, RankRequest, Ranked, Side as RankSide},
    score::{ScoreKind, Scored},
    similarity::{ImageSide, SimilarityRequest, TextSide},
    tiles::Anyres,
};
use crate::{
    batch::Submit,
    cache::EmbeddingCache,
    config::{self, Config, Limit},
    cpu_pool::CpuPool,
    decoder::{self, Decoder},
    error::{Code, Error},
    fetch::Fetcher,
    preprocess::{Decoding, Pixels},
    registry::{Model, Readiness, Registry},
    telemetry::{Metrics, Traces},
};

/// Answers requests: owns the models, the caches, the decode pool and the limits.
pub struct Engine {
    registry: Registry,
    /// Reads and decodes items.
    pool: CpuPool,
    /// Computes scores. They have their own threads, so that scores of stored embeddings do not wait behind the
    /// images of other requests.
    scores: Arc<CpuPool>,
    decoder: Arc<Decoder>,
    decoding: Decoding,
    texts: EmbeddingCache,
    images: EmbeddingCache,
    admission: Admission,
    bulk_room: BulkRoom,
    fetcher: Option<Fetcher>,
    decode_memory: DecodeMemory,
    row_memory: RowMemory,
    limits: config::Limits,
    metrics: Arc<Metrics>,
    traces: Option<Arc<Traces>>,
}

impl Engine {
    /// An engine over a registry whose models may still be loading.
    ///
    /// # Errors
    /// Fails if the threads of a pool cannot be started.
    pub fn new(
        config: &Config,
        registry: Registry,
        metrics: Arc<Metrics>,
    ) -> Result<Self, rayon::ThreadPoolBuildError> {
        let limits = config.limits.clone();
        let decoder = Decoder::new(
            decoder::Settings {
                isolation: config.model.decode_isolation,
                max_time: limits.max_decode_time,
                program: decoder::program(),
            },
            &metrics,
        );
        Ok(Self {
            decoder: Arc::new(decoder),
            registry,
            pool: CpuPool::new("decode", config.model.cpu_pool_threads)?,
            scores: Arc::new(CpuPool::new("score", config.model.cpu_pool_threads)?),
            decoding: if config.model.fast_decode { Decoding::Fast } else { Decoding::Full },
            texts: EmbeddingCache::new("text", config.cache.text_bytes, Arc::clone(&metrics)),
            images: EmbeddingCache::new("image", config.cache.image_bytes, Arc::clone(&metrics)),
            admission: Admission::new(&limits),
            bulk_room: BulkRoom::new(&limits),
            fetcher: None,
            decode_memory: DecodeMemory::new(limits.max_decode_bytes_in_flight),
            row_memory: RowMemory::new(&config.batch),
            limits,
            metrics,
            traces: None,
        })
    }

    /// How much of a large image is decoded.
    #[must_use]
    pub fn decoding(&self) -> Decoding {
        self.decoding
    }

    /// Where images are decoded.
    #[must_use]
    pub fn decode_isolation(&self) -> config::DecodeIsolation {
        self.decoder.isolation()
    }

    /// The names of the image formats that are read.
    #[must_use]
    pub fn image_formats(&self) -> Vec<&'static str> {
        self.decoder.formats()
    }

    /// Lets requests name images by URL.
    #[must_use]
    pub fn with_fetcher(self, fetcher: Fetcher) -> Self {
        Self { fetcher: Some(fetcher), ..self }
    }

    /// What fetches images, where URLs are allowed at all.
    #[must_use]
    pub fn fetcher(&self) -> Option<&Fetcher> {
        self.fetcher.as_ref()
    }

    /// Traces the requests that come from here on.
    #[must_use]
    pub fn with_traces(self, traces: Option<Arc<Traces>>) -> Self {
        Self { traces, ..self }
    }

    /// What traces requests, where a collector is configured.
    #[must_use]
    pub fn traces(&self) -> Option<&Arc<Traces>> {
        self.traces.as_ref()
    }

    /// The served models.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What a request may ask for.
    #[must_use]
    pub fn limits(&self) -> &config::Limits {
        &self.limits
    }

    /// The process's metrics.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Brings the gauges that change by themselves up to date, before a scrape: readiness, the age of what
    /// waits, the bytes that the caches hold.
    pub async fn refresh_metrics(&self) {
        let ready = self.registry.readiness() == Readiness::Ready;
        self.metrics.ready.set(f64::from(u8::from(ready)));
        for model in self.registry.loaded() {
            model.handle.refresh_metrics();
        }
        self.texts.refresh_metrics().await;
        self.images.refresh_metrics().await;
    }

    /// Runs every tower of a loaded model once, then marks it ready for requests. The first pass pays
    /// for page faults, kernel compilation and allocator growth, so that no request does.
    ///
    /// # Errors
    /// [`Code::ModelNotFound`] if nothing is installed under `name`; the error of the tower that failed.
    pub async fn warm_up(&self, name: &str) -> Result<(), Error> {
        let model = self.registry.loaded().find(|model| model.name == name).ok_or_else(|| {
            Error::new(Code::ModelNotFound, format!("no model is installed under `{name}`"))
        })?;
        let [height, width] = model.image.size.of(1000, 1000);
        let grey = vec![127_u8; height as usize * width as usize * 3];
        let pixels = Pixels { height, width, data: grey.into() };
        model.handle.embed_image(pixels, Submit::default()).await.map_err(item::batch_error)?;
        if let Some(tokenizer) = &model.tokenizer {
            let tokens = tokenizer.encode("").map_err(Error::internal)?;
            model.handle.embed_text(tokens, Submit::default()).await.map_err(item::batch_error)?;
        }
        self.registry.mark_warm(name);
        Ok(())
    }

    /// Takes room for a request of this size until it and all its jobs have ended, or says when to come back.
    fn admit(
        &self,
        (model, context): (&Model, &Context),
        items: usize,
        bytes: usize,
    ) -> Result<Arc<Permit>, Error> {
        let permit = self.room(model, items, bytes)?;
        let permit = Arc::new(permit);
        context.work.keep(Arc::clone(&permit) as _);
        Ok(permit)
    }

    /// Takes room for a response of this size until its client has it. It is known before anything is computed, so
    /// a response that there is no room for costs nothing.
    ///
    /// # Errors
    /// [`Code::PayloadTooLarge`] if the server never holds so large a response, [`Code::Overloaded`] if it holds too
    /// many now.
    pub fn admit_response(
        &self,
        (model, context): (&Model, &Context),
        bytes: usize,
    ) -> Result<(), Error> {
        let permit = self.room(model, 0, bytes)?;
        context.response.keep(Arc::new(permit));
        Ok(())
    }

    fn room(&self, model: &Model, items: usize, bytes: usize) -> Result<Permit, Error> {
        self.check_room(items, bytes)?;
        let admitted = self.admission.admit(items, bytes).map_err(|_| {
            Error::new(Code::Overloaded, "the server has as much work as it accepts; retry later")
                .with_retry_after(model.handle.drain_estimate())
        });
        admitted.inspect_err(|error| self.count_rejected(error, items))
    }

    /// Refuses what the server never has room for, however long its client waits.
    fn check_room(&self, items: usize, bytes: usize) -> Result<(), Error> {
        if self.admission.could_admit(items, bytes) {
            return Ok(());
        }
        let message =
            "the request or its response holds more than the server takes at once; split it";
        let error = Error::new(Code::PayloadTooLarge, message);
        self.count_rejected(&error, items);
        Err(error)
    }

    /// Counts items refused before any work.
    fn count_rejected(&self, error: &Error, items: usize) {
        let reason = error.code().slug();
        self.metrics.rejected.with_label_values(&[reason]).inc_by(items.max(1) as u64);
    }

    /// Refuses more than `limit` of something, and nothing at all.
    fn check_count(&self, field: &'static str, count: usize, limit: Limit) -> Result<(), Error> {
        let error = if count == 0 {
            Error::invalid(field, "must not be empty")
        } else if limit.is_below(count) {
            let message =
                format!("{count} items, more than the limit of {limit}; split the request");
            Error::new(Code::TooManyItems, message).with_field(field)
        } else {
            return Ok(());
        };
        self.count_rejected(&error, count);
        Err(error)
    }
}

/// Gives up at the request's deadline. What was under way is dropped, and with it its rows in the queue.
async fn until_deadline<T>(
    context: &Context,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout_at(context.deadline.into(), work).await.unwrap_or_else(|_| {
        Err(Error::new(Code::DeadlineExceeded, "the deadline passed before the answer was ready"))
    })
}
