//! Answers: written once, off the async threads where they are large, and timed.

use std::time::Instant;

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;

use super::{AppState, problem::Failure};
use crate::{
    engine::{self, Context},
    error::Error,
    telemetry::Stage,
};

/// Answers with more numbers than this are written on a thread of their own: this many take about half a
/// millisecond, in which an async worker would serve nobody else.
pub(super) const INLINE_VALUES: usize = 16 << 10;

/// What a request consumed.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(example = json!({"prompt_tokens": 8, "total_tokens": 8, "images": 1}))]
pub(super) struct Usage {
    /// Token ids of all texts: end tokens counted, padding not.
    prompt_tokens: usize,
    /// The same; OpenAI's clients read it.
    total_tokens: usize,
    /// Pictures.
    images: usize,
    /// Texts that were longer than the model reads, and were cut. Absent where none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated_texts: Option<usize>,
}

impl From<engine::Usage> for Usage {
    fn from(usage: engine::Usage) -> Self {
        Self {
            prompt_tokens: usage.text_tokens,
            total_tokens: usage.text_tokens,
            images: usage.images,
            truncated_texts: Some(usage.truncated_texts).filter(|&count| count > 0),
        }
    }
}

/// Runs `write`, on a thread of its own where the answer has many `values`, and notes its time as the
/// stage `encode`.
///
/// # Errors
/// [`crate::error::Code::Internal`] if `write` panics.
pub(super) async fn timed<T: Send + 'static>(
    state: &AppState,
    context: &Context,
    values: usize,
    write: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let start = Instant::now();
    let written = if values <= INLINE_VALUES {
        write()
    } else {
        tokio::task::spawn_blocking(write).await.map_err(Error::internal)?
    };
    let time = start.elapsed();
    context.timings.record(Stage::Encode, time);
    state.metrics().observe_stage(Stage::Encode, time);
    Ok(written)
}

/// Answers with `body` as JSON. `values` is about how many numbers it holds.
pub(super) async fn json<T: Serialize + Send + 'static>(
    state: &AppState,
    context: &Context,
    values: usize,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<Response, Failure> {
    let bytes = timed(state, context, values, move || json_line(&body())).await?;
    Ok(json_body(Body::from(Bytes::from(bytes?))))
}

/// A value as JSON with a line feed behind it, so that a terminal's next line begins on its own.
///
/// # Errors
/// [`crate::error::Code::Internal`] if it cannot be written, which is a defect.
pub(super) fn json_line(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut line = serde_json::to_vec(value).map_err(Error::internal)?;
    line.push(b'\n');
    Ok(line)
}

/// Marks an answer that is not compressed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Uncompressed;

/// An answer that is sent as it is.
pub(super) fn uncompressed(mut answer: Response) -> Response {
    answer.extensions_mut().insert(Uncompressed);
    answer
}

/// A small answer in JSON.
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match json_line(&self.0) {
            Ok(line) => json_body(Body::from(line)),
            Err(error) => Failure(error).into_response(),
        }
    }
}

/// Answers with a body that is JSON already.
pub(super) fn json_body(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
