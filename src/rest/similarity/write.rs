//! Writes a similarity answer piece by piece, so that a large one never stands in memory.

use std::{ops::Range, sync::Arc, time::Instant};

use async_stream::try_stream;
use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::{Stream, TryStreamExt};

use super::Score;
use crate::{
    engine::{Context, Matrix, Scored},
    error::Error,
    rest::{
        AppState,
        problem::Failure,
        respond::{self, INLINE_VALUES, Usage},
    },
    telemetry::Stage,
};

/// Digits, separator and slack of one number: ryu writes at most 16 characters for an f32.
const BYTES_PER_VALUE: usize = 12;

/// Answers with the matrices asked for.
///
/// A small answer is written whole: it then has a length, and a failure still gets its own status. A large
/// one is streamed: each chunk is computed when the client has taken the one before.
pub(super) async fn respond(
    state: &AppState,
    context: &Arc<Context>,
    scored: Scored,
    scores: Vec<Score>,
) -> Result<Response, Failure> {
    let values = scored.rows() * scored.columns() * scores.len();
    let pieces = pieces(scored, scores);
    if values > INLINE_VALUES {
        return Ok(respond::json_body(Body::from_stream(pieces)));
    }
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

/// The answer in pieces, none larger than one chunk of scores.
fn pieces(
    scored: Scored,
    scores: Vec<Score>,
) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
    try_stream! {
        yield head(&scored)?;
        for score in scores {
            yield Bytes::from(format!(",\"{}\":[", score.name()));
            for range in scored.chunks() {
                yield chunk(&scored, score, range).await?;
            }
            yield Bytes::from_static(b"]");
        }
        let usage = serde_json::to_string(&Usage::from(scored.usage)).map_err(Error::internal)?;
        yield Bytes::from(format!(",\"usage\":{usage}}}\n"));
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

/// The rows of a chunk, `[a,b],[c,d]`, with a comma before them unless they are the first.
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
            // Finite by construction: rows are checked on their way in. `format` keeps a defect visible,
            // as a body that is not JSON, where `format_finite` would write a wrong number.
            text.extend_from_slice(digits.format(value).as_bytes());
        }
        text.push(b']');
    }
    Bytes::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

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
