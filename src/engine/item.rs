//! The way of one item: from what the client sent to an unnormalised embedding.

mod faults;
mod text;

use std::{borrow::Cow, sync::Arc, time::Instant};

use bytes::Bytes;

pub(super) use self::faults::{batch_error, no_text_tower};
use self::faults::{check_vectors, decoder_panicked};
use super::{Context, Engine, ImageInput, Input, Usage, given_up::OnItsWay, tiles::Target};
use crate::{
    batch::{Answer, BatchError, Share},
    cache::Key,
    config::MatchingToken,
    decoder::Decoder,
    embedding::Embedding,
    error::{Code, Error},
    model::ReaderInfo,
    preprocess::{Decoding, Header, ImageLimits, ImageSpec, Prepared, TargetSize},
    registry::Model,
    telemetry::Stage,
};

/// What a request asks of each of its items.
#[derive(Debug, Clone, Copy)]
pub(super) struct ItemOptions {
    /// Whether a text that is too long is cut; otherwise it is refused.
    truncate: bool,
    /// To which size images are resized.
    size: TargetSize,
    /// Whether an image may have several concatenated vectors.
    several_vectors: bool,
    /// The token that replaces the first one of a text before a matching head reads it.
    matching_start: Option<u32>,
}

impl ItemOptions {
    /// The token that replaces the first one of a text before a matching head reads it.
    pub(super) fn matching_start(self) -> Option<u32> {
        self.matching_start
    }

    /// The same with the token that the request chose; the model's own where it chose none.
    ///
    /// # Errors
    /// Fails for a model whose matching head has no such choice.
    pub(super) fn with_matching_token(
        self,
        model: &Model,
        asked: Option<MatchingToken>,
    ) -> Result<Self, Error> {
        let Some(asked) = asked else { return Ok(self) };
        let Some(ReaderInfo::Matching { start: Some(trained) }) = model.card.reader else {
            let message = format!(
                "the model `{}` has no choice of this token: only the matching head of a BLIP retrieval model has it",
                model.name
            );
            return Err(Error::invalid("matching_token", message));
        };
        let matching_start = (asked == MatchingToken::Enc).then_some(trained);
        Ok(Self { matching_start, ..self })
    }

    /// To which size images are resized.
    pub(super) fn size(self) -> TargetSize {
        self.size
    }

    /// The same for who reads several vectors of an image.
    pub(super) fn with_several_vectors(self) -> Self {
        Self { several_vectors: true, ..self }
    }
}

impl Engine {
    /// Checks what a request asks of its items.
    pub(super) fn item_options(
        &self,
        model: &Model,
        truncate: bool,
        max_num_patches: Option<u32>,
    ) -> Result<ItemOptions, Error> {
        let size = self.image_size(model, max_num_patches)?;
        let matching_start = model.card.matching_start;
        Ok(ItemOptions { truncate, size, several_vectors: false, matching_start })
    }

    /// To which size the images of a request are resized.
    pub(super) fn image_size(
        &self,
        model: &Model,
        max_num_patches: Option<u32>,
    ) -> Result<TargetSize, Error> {
        let size = model.image.size;
        let Some(asked) = max_num_patches else { return Ok(size) };
        let Some(own) = size.max_num_patches() else {
            let message = format!("the model `{}` reads images of one size only", model.name);
            return Err(Error::invalid("max_num_patches", message));
        };
        let limit = own.max(u32::try_from(self.limits.max_num_patches).unwrap_or(u32::MAX));
        if !(1..=limit).contains(&asked) {
            let message = format!("{asked} is out of range: from 1 to {limit} patches are served");
            return Err(Error::invalid("max_num_patches", message));
        }
        Ok(size.with_max_num_patches(asked))
    }

    /// Embeds one item. The field of its error is for the caller to name.
    pub(super) async fn embed_item(
        &self,
        model: &Model,
        input: Input,
        options: ItemOptions,
        context: &Context,
    ) -> Result<(Embedding, Usage), Error> {
        if let (Input::Image(_), Some(queries)) = (&input, model.card.queries) {
            check_vectors(queries, options)?;
        }
        match input {
            Input::Text(text) => {
                let read = self.tokenized(model, text, options.truncate, context).await?;
                self.embed_text(model, read, context).await
            }
            Input::TokenIds(ids) => self.embed_ids(model, &ids, context).await,
            Input::Image(ImageInput::Pixels(pixels)) => {
                // No cache: a client that prepares its images knows which it has seen.
                let answer = model.handle.embed_image(pixels, context.submit()).await;
                let embedding = self.take_answer(context, answer)?;
                Ok((embedding, Usage { images: 1, ..Usage::default() }))
            }
            Input::Image(image) => {
                let embedding = self.embed_image(model, image, options.size, context).await?;
                Ok((embedding, Usage { images: 1, ..Usage::default() }))
            }
            Input::Unreadable(error) => Err(error),
        }
    }

    /// The encoded image of an item, base64 removed, its header within the limits.
    pub(super) async fn encoded(
        &self,
        image: ImageInput,
        context: &Context,
    ) -> Result<Encoded, Error> {
        let (limits, decoder) = (self.image_limits(), Arc::clone(&self.decoder));
        let job = move || Encoded::read(image, &decoder, &limits);
        self.on_pool(context, job).await.map_err(decoder_panicked)?
    }

    fn image_limits(&self) -> ImageLimits {
        ImageLimits {
            max_bytes: self.limits.max_image_bytes,
            max_pixels: self.limits.max_image_pixels,
            max_decode_bytes: self.limits.max_decode_bytes,
        }
    }

    async fn embed_image(
        &self,
        model: &Model,
        image: ImageInput,
        size: TargetSize,
        context: &Context,
    ) -> Result<Embedding, Error> {
        let (image, slot) = self.fetched(image, context).await?;
        let started = Instant::now();
        let identity = model.identity();
        let (limits, decoding) = (self.image_limits(), self.decoding);
        let decoder = Arc::clone(&self.decoder);
        // Hashing before decoding: an equal image in flight or in the cache costs no decode.
        let hash = move || {
            let encoded = Encoded::read(image, &decoder, &limits)?;
            Ok((Key::image(&identity, &preprocessing(decoding, size), &encoded.bytes), encoded))
        };
        let (key, encoded) = self.on_pool(context, hash).await.map_err(decoder_panicked)??;
        let compute = async {
            let (prepared, share) =
                self.prepare(model, encoded, Target::Size(size), context).await?;
            drop(slot);
            self.metrics.pixels_decoded.inc_by(prepared.source_pixels);
            self.note(context, Stage::Decode, started);
            let row = (prepared.pixels, share);
            let answer = model.handle.embed_shared(row, context.submit()).await;
            self.take_answer(context, answer)
        };
        Ok(self.images.get_or_compute(key, compute).await?.0)
    }

    /// Decodes and resizes on the CPU pool, once there is memory for it and for what it becomes. A decoder's panic
    /// fails this item only.
    pub(super) async fn prepare(
        &self,
        model: &Model,
        encoded: Encoded,
        target: Target,
        context: &Context,
    ) -> Result<(Prepared, Share), Error> {
        let Encoded { bytes, header } = encoded;
        let pixels = self.admission.admit_pixels(header.pixels).map_err(|_| {
            let message = "the server has as many pixels to decode as it accepts; retry later";
            let error = Error::new(Code::Overloaded, message)
                .with_retry_after(model.handle.drain_estimate());
            self.count_rejected(&error, 1);
            error
        })?;
        let item = OnItsWay::new(&self.metrics, context);
        let share = match target.row_bytes() {
            Some(bytes) => self.row_memory.take(context.priority, bytes).await,
            None => None,
        };
        let memory = self.decode_memory.take(target.memory(&bytes, header)).await;
        let (limits, decoding) = (self.image_limits(), self.decoding);
        let spec = model.image.clone();
        let decoder = Arc::clone(&self.decoder);
        // What decoding takes is free when it ends: it goes on after its caller has left.
        let held = (pixels, memory, context.work.clone());
        let job = move || {
            let image = (&bytes[..], header);
            let prepared = match target {
                Target::Size(size) => {
                    let spec = ImageSpec { size, ..spec };
                    decoder.prepare(image, &spec, &limits, decoding)
                }
                Target::Views(tiling) => decoder.views(image, (&spec, &tiling), &limits, decoding),
            };
            drop(held);
            prepared
        };
        let prepared = self.pool.run(job).await;
        item.arrive();
        Ok((prepared.map_err(decoder_panicked)??, share))
    }

    /// Notes a stage that began at `started` and ends now.
    pub(super) fn note(&self, context: &Context, stage: Stage, started: Instant) {
        let time = started.elapsed();
        context.timings.record(stage, time);
        self.metrics.observe_stage(stage, time);
    }

    pub(super) fn take_answer(
        &self,
        context: &Context,
        answer: Result<Answer, BatchError>,
    ) -> Result<Embedding, Error> {
        let answer = answer.map_err(batch_error).inspect_err(|error| {
            if error.code() == Code::Overloaded {
                self.count_rejected(error, 1);
            }
        })?;
        context.timings.record_pass(answer.queued, answer.forward, answer.batch.as_ref());
        for (stage, time) in [(Stage::Queue, answer.queued), (Stage::Forward, answer.forward)] {
            self.metrics.observe_stage(stage, time);
        }
        Ok(answer.embedding)
    }
}

/// What a cached image depends on besides its bytes and the model: the arithmetic, and its resolution where
/// requests may choose it.
fn preprocessing(decoding: Decoding, size: TargetSize) -> Cow<'static, str> {
    match size.max_num_patches() {
        None => decoding.version().into(),
        Some(count) => format!("{}, {count} patches", decoding.version()).into(),
    }
}

/// An encoded image whose header is within the limits.
pub(super) struct Encoded {
    bytes: Bytes,
    header: Header,
}

impl Encoded {
    /// What the header says.
    pub(super) fn header(&self) -> Header {
        self.header
    }

    fn read(image: ImageInput, decoder: &Decoder, limits: &ImageLimits) -> Result<Self, Error> {
        let bytes = image.into_encoded()?;
        let header = decoder.inspect(&bytes, limits)?;
        Ok(Self { bytes, header })
    }
}
