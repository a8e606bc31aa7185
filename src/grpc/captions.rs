//! Sends captions as a stream of tokens.

use std::{pin::Pin, sync::Arc};

use async_stream::try_stream;
use futures::Stream;
use tokio::sync::mpsc;
use tonic::Status;

use super::{call::Call, convert, proto, status::status};
use crate::engine::{CaptionRequest, Engine, Written};

/// Tokens of captions, and the whole response at the end.
pub(super) type CaptionStream =
    Pin<Box<dyn Stream<Item = Result<proto::CaptionStreamResponse, Status>> + Send>>;

/// Maximum number of tokens that wait for a slow client.
const TOKENS_AHEAD: usize = 64;

/// Writes captions while the stream is read.
pub(super) fn stream(
    engine: Arc<Engine>,
    (request, by_item): (CaptionRequest, bool),
    call: Call,
) -> CaptionStream {
    let (tell, mut told) = mpsc::channel::<Written>(TOKENS_AHEAD);
    let work = async move {
        let context = call.context();
        // If the receiver is gone, the client has left, and this work is dropped too.
        let written = |token| async { drop(tell.send(token).await) };
        let captioned = engine.caption(request, written, &context).await?;
        let response = convert::caption_message(captioned, by_item)?;
        let timings = Some(convert::timings(&context.timings, call.received));
        Ok(proto::CaptionResponse { timings, ..response })
    };
    Box::pin(try_stream! {
        let mut work = Box::pin(work);
        let answer = loop {
            tokio::select! {
                biased;
                Some(token) = told.recv() => yield convert::token_message(token),
                answer = &mut work => break answer,
            }
        };
        while let Ok(token) = told.try_recv() {
            yield convert::token_message(token);
        }
        let done = answer.map_err(status)?;
        let message = Some(proto::caption_stream_response::Message::Done(done));
        yield proto::CaptionStreamResponse { message };
    })
}
