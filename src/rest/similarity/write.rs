//! Writes a similarity response in chunks, so that a large response is never completely in memory.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use async_stream::try_stream;
use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use tokio::sync::Semaphore;

use super::Score;
use crate::{
    engine::{Context, Matrix, Scored},
    error::{Code, Error},
    rest::{
        AppState,
        problem::Failure,
        respond::{self, INLINE_VALUES, Usage},
    },
    telemetry::Stage,
};

/// Estimated bytes of one number with its separator. ryu writes at most 16 characters for an f32.
const BYTES_PER_VALUE: usize = 12;

/// Responses with more numbers than this are not compressed, because that would cost more than computing them.
const COMPRESSED_VALUES: usize = 1 << 18;

/// Responds with the requested matrices.
///
/// A small response is written at once: it then has a length, and a failure still gets its own status. A large
/// response is streamed: each chunk is computed after the client has read the one before. Sending may take
/// hours. So all streams take turns to compute, and the total computing time of each is limited to the request
/// timeout.
pub(super) async fn respond(
    state: &AppState,
    context: &Arc<Context>,
    scored: Scored,
    scores: Vec<Score>,
) -> Result<Response, Failure> {
    let values = scored.rows() * scored.columns() * scores.len();
    if values > INLINE_VALUES {
        let turns = Turns {
            turns: Arc::clone(&state.0.stream_turns),
            left: state.limits().request_timeout,
        };
        let pieces = pieces(scored, scores, Some(turns));
        let answer = respond::json_body(Body::from_stream(pieces));
        let compress = values <= COMPRESSED_VALUES;
        return Ok(if compress { answer } else { respond::uncompressed(answer) });
    }
    let pieces = pieces(scored, scores, None);
    let start = Instant::now();
    let body = pieces.try_fold(Vec::new(), |mut body, piece| async move {
        body.extend_from_slice(&piece);
        Ok(body)
    });
    let body = body.await?;
    let time = start.elapsed();
    context.timings.record(Stage::Encode, time);
    state.metrics().observe_stage(Stage::Encode, time);
    Ok(respond::json_body(Body::from(body)))
}

/// The response in chunks, none larger than one chunk of scores.
fn pieces(
    scored: Scored,
    scores: Vec<Score>,
    mut turns: Option<Turns>,
) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
    try_stream! {
        yield head(&scored)?;
        for score in scores {
            yield Bytes::from(format!(",\"{}\":[", score.name()));
            for range in scored.chunks() {
                let chunk = chunk(&scored, score, range);
                yield match &mut turns {
                    Some(turns) => turns.take(chunk).await?,
                    None => chunk.await?,
                };
            }
            yield Bytes::from_static(b"]");
        }
        let usage = serde_json::to_string(&Usage::from(scored.usage)).map_err(Error::internal)?;
        yield Bytes::from(format!(",\"usage\":{usage}}}\n"));
    }
}

/// The computing turns of one stream.
struct Turns {
    turns: Arc<Semaphore>,
    /// The remaining computing time.
    left: Duration,
}

impl Turns {
    /// Waits for a turn and does some work.
    ///
    /// # Errors
    /// The errors of the work, and [`Code::DeadlineExceeded`] if the computing time is used up.
    async fn take<T>(&mut self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        if self.left.is_zero() {
            let message = "the scores take longer to compute than a request may last; split it";
            return Err(Error::new(Code::DeadlineExceeded, message));
        }
        let turn = self.turns.acquire().await.map_err(Error::internal)?;
        let start = Instant::now();
        let done = work.await;
        drop(turn);
        self.left = self.left.saturating_sub(start.elapsed());
        done
    }
}

fn head(scored: &Scored) -> Result<Bytes, Error> {
    let model = serde_json::to_string(&*scored.model).map_err(Error::internal)?;
    let (rows, columns) = (scored.rows(), scored.columns());
    let scoring = scored.scorer().name();
    Ok(Bytes::from(format!(
        "{{\"model\":{model},\"scoring\":\"{scoring}\",\"shape\":[{rows},{columns}]"
    )))
}

/// Computes and writes one chunk of one matrix.
async fn chunk(scored: &Scored, score: Score, rows: Range<usize>) -> Result<Bytes, Error> {
    let is_first = rows.start == 0;
    let matrix = scored.chunk(score.kind(), rows).await?;
    if matrix.data.len() <= INLINE_VALUES {
        return Ok(rows_json(&matrix, is_first));
    }
    let written = tokio::task::spawn_blocking(move || rows_json(&matrix, is_first));
    written.await.map_err(Error::internal)
}

/// The rows of a chunk, `[a,b],[c,d]`. A comma comes before them unless they are the first.
fn rows_json(matrix: &Matrix, is_first: bool) -> Bytes {
    let mut text = Vec::with_capacity(matrix.data.len() * BYTES_PER_VALUE + matrix.rows * 3);
    let mut digits = ryu::Buffer::new();
    for index in 0..matrix.rows {
        if index > 0 || !is_first {
            text.push(b',');
        }
        text.push(b'[');
        for (column, &value) in matrix.row(index).iter().enumerate() {
            if column > 0 {
                text.push(b',');
            }
            // Values are finite, because input rows are checked. With `format`, a defect is visible as invalid
            // JSON, while `format_finite` would write a wrong number.
            text.extend_from_slice(digits.format(value).as_bytes());
        }
        text.push(b']');
    }
    Bytes::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_computes_no_longer_than_it_may() {
        let mut turns = Turns { turns: Arc::new(Semaphore::new(1)), left: Duration::from_nanos(1) };
        assert!(turns.take(async { Ok(()) }).await.is_ok());
        let error = turns.take(async { Ok(()) }).await.expect_err("no time is left");
        assert_eq!(error.code(), Code::DeadlineExceeded);
    }

    #[test]
    fn chunks_join_to_one_array_of_rows() {
        let first = Matrix { rows: 2, dim: 2, data: vec![1.0, 0.5, -1e-10, 0.0] };
        let second = Matrix { rows: 1, dim: 2, data: vec![f32::MAX, 3.0] };
        let (a, b) = (rows_json(&first, true), rows_json(&second, false));
        let text = format!("[{}{}]", String::from_utf8_lossy(&a), String::from_utf8_lossy(&b));
        let parsed: Vec<Vec<f32>> = serde_json::from_str(&text).expect(&text);
        assert_eq!(parsed, [[1.0, 0.5], [-1e-10, 0.0], [f32::MAX, 3.0]]);
    }
}
