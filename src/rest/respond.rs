//! Writes responses and measures the time. Large responses are written on a separate thread.

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

/// Responses with more numbers than this are written on a separate thread: this many take about half a
/// millisecond, and would block an async worker for this time.
pub(super) const INLINE_VALUES: usize = 16 << 10;
/// As how many bytes of text one value counts: about as many are written for a number.
pub(super) const BYTES_A_VALUE: usize = 8;

/// What a request consumed.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(example = json!({"prompt_tokens": 8, "total_tokens": 8, "images": 1}))]
pub(super) struct Usage {
    /// Number of token ids of all texts, with end tokens, but without padding.
    prompt_tokens: usize,
    /// The same number. OpenAI's clients read it.
    total_tokens: usize,
    /// Number of images.
    images: usize,
    /// Number of texts that were truncated because they were longer than the model reads. Absent if there are
    /// none.
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

/// Runs `write`, on a separate thread if the response has many `values`, and records its time as the stage
/// `encode`.
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

/// Responds with `body` as JSON. `values` is the approximate number of values in it.
pub(super) async fn json<T: Serialize + Send + 'static>(
    state: &AppState,
    context: &Context,
    values: usize,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<Response, Failure> {
    let bytes = timed(state, context, values, move || json_line(&body())).await?;
    Ok(json_body(Body::from(Bytes::from(bytes?))))
}

/// A value as JSON with a line feed at the end, so that a shell prompt begins on a new line.
///
/// # Errors
/// [`crate::error::Code::Internal`] if it cannot be serialised, which is a defect.
pub(super) fn json_line(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut line = serde_json::to_vec(value).map_err(Error::internal)?;
    line.push(b'\n');
    Ok(line)
}

/// Marks a response that must not be compressed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Uncompressed;

/// A response that is sent without compression.
pub(super) fn uncompressed(mut answer: Response) -> Response {
    answer.extensions_mut().insert(Uncompressed);
    answer
}

/// A small response in JSON.
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match json_line(&self.0) {
            Ok(line) => json_body(Body::from(line)),
            Err(error) => Failure(error).into_response(),
        }
    }
}

/// Responds with a body that is already JSON.
pub(super) fn json_body(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
