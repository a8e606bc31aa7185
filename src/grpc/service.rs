//! The methods of `siglip.v1.EmbeddingService`.

use std::{pin::Pin, sync::Arc, time::Instant};

use futures::{Stream, StreamExt, stream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    call::Call,
    captions::{self, CaptionStream},
    convert::{self, Comparison},
    embedding, proto,
    rows::Rows,
    status::status,
};
use crate::{
    engine::{Context, Engine, ScoreKind},
    error::Error,
    telemetry::Stage,
};

/// The results of a stream of rows.
type AnswerStream = Pin<Box<dyn Stream<Item = Result<proto::EmbedStreamResponse, Status>> + Send>>;

/// The service over an engine.
pub(super) struct EmbeddingService {
    engine: Arc<Engine>,
}

impl EmbeddingService {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    async fn embedded(
        &self,
        message: proto::EmbedRequest,
        call: Call,
    ) -> Result<proto::EmbedResponse, Error> {
        let context = call.context();
        let (request, by_item) = convert::embed_request(message)?;
        let is_multi_vector = request.multi_vector;
        let answer = if by_item {
            self.engine.embed_items(request, &context).await?
        } else {
            self.engine.embed(request, &context).await?.into()
        };
        let started = Instant::now();
        let (embeddings, errors, vectors) = if is_multi_vector {
            convert::stacked_vectors(&answer.items, answer.dimensions)
        } else {
            let (embeddings, errors) = convert::stacked(&answer.items);
            (embeddings, errors, Vec::new())
        };
        self.note_encoded(&context, started);
        Ok(proto::EmbedResponse {
            errors,
            vectors,
            truncated: answer.truncated.into_iter().map(convert::wire_count).collect(),
            model: answer.model.to_string(),
            embeddings: Some(embeddings),
            usage: Some(convert::usage(answer.usage)),
            timings: Some(convert::timings(&context.timings, call.received)),
        })
    }

    async fn compared(
        &self,
        message: proto::SimilarityRequest,
        call: Call,
    ) -> Result<proto::SimilarityResponse, Error> {
        let context = call.context();
        let Comparison { request, kinds } = convert::comparison(message)?;
        let scored = self.engine.similarity(request, &context).await?;
        let values = scored.rows() * scored.columns() * kinds.len();
        let model = self.engine.registry().get(Some(&scored.model))?;
        self.engine.admit_response((model, &context), values * size_of::<f32>())?;
        let started = Instant::now();
        let mut response = proto::SimilarityResponse {
            model: scored.model.to_string(),
            scoring: scored.scorer().name().to_owned(),
            usage: Some(convert::usage(scored.usage)),
            ..Default::default()
        };
        for (kind, matrix) in kinds.iter().zip(scored.whole(&kinds).await?) {
            let matrix = Some(convert::matrix_message(matrix));
            match kind {
                ScoreKind::Cosine => response.cosine = matrix,
                ScoreKind::Logit => response.logit = matrix,
                ScoreKind::Probability => response.probability = matrix,
            }
        }
        self.note_encoded(&context, started);
        response.timings = Some(convert::timings(&context.timings, call.received));
        Ok(response)
    }

    async fn judged(
        &self,
        message: proto::ClassifyRequest,
        call: Call,
    ) -> Result<proto::ClassifyResponse, Error> {
        let context = call.context();
        let request = convert::classify_request(message)?;
        let classified = self.engine.classify(request, &context).await?;
        let started = Instant::now();
        let response = convert::classify_message(classified);
        self.note_encoded(&context, started);
        let timings = Some(convert::timings(&context.timings, call.received));
        Ok(proto::ClassifyResponse { timings, ..response })
    }

    /// Embeds rows as they arrive. The first message may have the options.
    async fn streamed(
        &self,
        mut messages: Streaming<proto::EmbedStreamRequest>,
        rows: Rows,
    ) -> Result<AnswerStream, Status> {
        use proto::embed_stream_request::Message;
        let place = self.engine.bulk_place().map_err(status)?;
        let first = messages.message().await?;
        let (options, first) = match first.map(|first| first.message) {
            Some(Some(Message::Options(options))) => (options, None),
            Some(message) => {
                let row = proto::EmbedStreamRequest { message };
                (proto::EmbedStreamOptions::default(), Some(Ok(row)))
            }
            None => (proto::EmbedStreamOptions::default(), None),
        };
        let (options, encoding) = convert::stream_options(options).map_err(status)?;
        let bulk = self.engine.bulk(options, place, rows.room.clone()).map_err(status)?;
        let messages = stream::iter(first).chain(messages);
        let received = messages.map(move |message| convert::stream_row(message, rows.taken()));
        let chunks = bulk.spawn(received, move |events| {
            let answers = events.into_iter();
            answers.filter_map(|event| convert::stream_answer(event, encoding)).collect::<Vec<_>>()
        });
        Ok(Box::pin(ReceiverStream::new(chunks).map(stream::iter).flatten()))
    }

    async fn seen(
        &self,
        message: proto::FeaturesRequest,
        call: Call,
    ) -> Result<proto::FeaturesResponse, Error> {
        let context = call.context();
        let (request, encoding) = convert::features_request(message)?;
        let features = self.engine.features(request, &context).await?;
        let started = Instant::now();
        // The values may be megabytes, so they are not written on an async thread.
        let write = move || convert::features_message(&features, encoding);
        let response = tokio::task::spawn_blocking(write).await.map_err(Error::internal)?;
        self.note_encoded(&context, started);
        let timings = Some(convert::timings(&context.timings, call.received));
        Ok(proto::FeaturesResponse { timings, ..response })
    }

    async fn captioned(
        &self,
        message: proto::CaptionRequest,
        call: Call,
    ) -> Result<proto::CaptionResponse, Error> {
        let context = call.context();
        let (request, by_item) = convert::caption_request(message)?;
        let captioned = self.engine.caption(request, |_| async {}, &context).await?;
        let response = convert::caption_message(captioned, by_item)?;
        let timings = Some(convert::timings(&context.timings, call.received));
        Ok(proto::CaptionResponse { timings, ..response })
    }

    fn note_encoded(&self, context: &Context, started: Instant) {
        let time = started.elapsed();
        context.timings.record(Stage::Encode, time);
        self.engine.metrics().observe_stage(Stage::Encode, time);
    }
}

/// The message of a call, and the facts that the edge has read.
pub(super) fn accept<T>(request: Request<T>) -> Result<(T, Call), Error> {
    let call = request.extensions().get::<Call>().cloned();
    let call = call.ok_or_else(|| Error::internal("a method was called past the edge"))?;
    Ok((request.into_inner(), call))
}

#[tonic::async_trait]
impl embedding::EmbeddingService for EmbeddingService {
    async fn embed(
        &self,
        request: Request<proto::EmbedRequest>,
    ) -> Result<Response<proto::EmbedResponse>, Status> {
        let (message, call) = accept(request).map_err(status)?;
        self.embedded(message, call).await.map(Response::new).map_err(status)
    }

    async fn similarity(
        &self,
        request: Request<proto::SimilarityRequest>,
    ) -> Result<Response<proto::SimilarityResponse>, Status> {
        let (message, call) = accept(request).map_err(status)?;
        self.compared(message, call).await.map(Response::new).map_err(status)
    }

    async fn classify(
        &self,
        request: Request<proto::ClassifyRequest>,
    ) -> Result<Response<proto::ClassifyResponse>, Status> {
        let (message, call) = accept(request).map_err(status)?;
        self.judged(message, call).await.map(Response::new).map_err(status)
    }

    type EmbedStreamStream = AnswerStream;

    async fn embed_stream(
        &self,
        request: Request<Streaming<proto::EmbedStreamRequest>>,
    ) -> Result<Response<AnswerStream>, Status> {
        let rows = request.extensions().get::<Rows>().cloned();
        let rows = rows.ok_or_else(|| status(Error::internal("a method was called past the edge")));
        self.streamed(request.into_inner(), rows?).await.map(Response::new)
    }

    async fn features(
        &self,
        request: Request<proto::FeaturesRequest>,
    ) -> Result<Response<proto::FeaturesResponse>, Status> {
        let (message, call) = accept(request).map_err(status)?;
        self.seen(message, call).await.map(Response::new).map_err(status)
    }

    async fn caption(
        &self,
        request: Request<proto::CaptionRequest>,
    ) -> Result<Response<proto::CaptionResponse>, Status> {
        let (message, call) = accept(request).map_err(status)?;
        self.captioned(message, call).await.map(Response::new).map_err(status)
    }

    type CaptionStreamStream = CaptionStream;

    async fn caption_stream(
        &self,
        request: Request<proto::CaptionRequest>,
    ) -> Result<Response<CaptionStream>, Status> {
        let (message, call) = accept(request).map_err(status)?;
        let request = convert::caption_request(message).map_err(status)?;
        request.0.beams.check_streamed().map_err(status)?;
        Ok(Response::new(captions::stream(Arc::clone(&self.engine), request, call)))
    }
}
