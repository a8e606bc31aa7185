//! `POST /v1/bulk/embeddings`: reads a stream of rows and writes a stream of their embeddings.

mod frames;
#[cfg(fuzzing)]
pub(super) mod fuzz;
mod lines;
mod receive;

use std::io;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde::Deserialize;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::{IntoParams, ToSchema};

use self::{frames::Frames, lines::Lines};
use super::{
    AppState,
    body::{File, media_type, query},
    embeddings::EncodingFormat,
    openapi::ProblemErrors,
    problem::Failure,
    respond::Usage,
};
use crate::{
    config,
    engine::BulkOptions,
    error::{Code, Error},
};

/// The content type of our binary framing. There is no registered type for it.
const FRAMES_TYPE: &str = "application/vnd.siglip.rows";
const LINES_TYPE: &str = "application/x-ndjson";

/// Bytes of a line in addition to its content: names, quotes and escapes.
const LINE_OVERHEAD_BYTES: usize = 64 << 10;

/// Options for all rows of the stream.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BulkQuery {
    /// The model's name. Without a name, the default model is used.
    model: Option<String>,
    /// How each embedding is written. In binary framing, this is the type of the values.
    #[serde(default)]
    encoding_format: EncodingFormat,
    /// Keep only the first values of each embedding and normalise them again. This costs accuracy, see
    /// `/v1/embeddings`.
    #[param(minimum = 1)]
    dimensions: Option<usize>,
    /// Whether embeddings are scaled to length 1. True by default.
    normalized: Option<bool>,
    /// Whether a text that is too long is truncated (the default). Otherwise its row fails.
    truncate: Option<bool>,
    /// Maximum number of patches of each image, for models that read images in variable resolution. Other
    /// models refuse it.
    #[param(minimum = 1)]
    max_num_patches: Option<u32>,
}

impl BulkQuery {
    fn options(&self) -> Result<BulkOptions, Error> {
        let normalize = self.normalized.unwrap_or(true);
        if self.encoding_format.encoding().needs_normalized() && !normalize {
            let message = "8-bit integers hold embeddings of length 1: leave `normalized` on";
            return Err(Error::invalid("encoding_format", message));
        }
        Ok(BulkOptions {
            model: self.model.clone(),
            dimensions: self.dimensions,
            normalize,
            truncate: self.truncate.unwrap_or(true),
            max_num_patches: self.max_num_patches,
        })
    }
}

/// How rows are separated, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// One JSON object per line.
    Lines,
    /// Length, id, kind and payload.
    Frames,
}

impl Framing {
    fn of(headers: &HeaderMap) -> Result<Self, Error> {
        match media_type(headers).as_str() {
            LINES_TYPE | "application/ndjson" | "application/jsonl" | "application/json-seq" => {
                Ok(Self::Lines)
            }
            FRAMES_TYPE => Ok(Self::Frames),
            _ => {
                let message = format!("the content type must be {LINES_TYPE} or {FRAMES_TYPE}");
                Err(Error::new(Code::UnsupportedMediaType, message).with_field("content-type"))
            }
        }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Lines => LINES_TYPE,
            Self::Frames => FRAMES_TYPE,
        }
    }

    /// Maximum number of bytes of a row of any kind.
    fn max_row_bytes(self, limits: &config::Limits) -> usize {
        let raw = limits.max_text_bytes.max(limits.max_image_bytes);
        match self {
            // Base64 is a third longer than its bytes. A text can consist of escapes only.
            Self::Lines => (raw / 3 * 4).max(limits.max_text_bytes * 6) + LINE_OVERHEAD_BYTES,
            Self::Frames => raw,
        }
    }
}

/// A line of the stream: an id and one item.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes a line; `lines` reads it")]
pub(super) struct BulkLine {
    /// The client's id for the row, a string or a number. It is copied to the row's result.
    #[schema(value_type = Option<String>)]
    id: Option<String>,
    /// A text. A row has either `text` or `image`.
    text: Option<String>,
    /// An image: a data URI or base64.
    image: Option<String>,
}

/// A line of the response: the result of a row, or the last line, which says how the stream ended.
#[derive(ToSchema)]
#[schema(example = json!({"index": 0, "id": "a", "embedding": [0.018, -0.041]}))]
#[expect(dead_code, reason = "only describes a line; `lines` writes it")]
pub(super) struct BulkAnswer {
    /// The row's position in the stream, from 0.
    #[schema(required = false)]
    index: u64,
    /// The row's id. Null if it had none or could not be read.
    #[schema(required = false)]
    id: Option<String>,
    /// The embedding in the requested format.
    #[schema(required = false)]
    embedding: Vec<f32>,
    /// True for a text that was truncated because it was longer than the model reads. Absent otherwise.
    #[schema(required = false)]
    truncated: bool,
    /// Why the row has no embedding. In the last line: why the stream ended early.
    #[schema(required = false)]
    error: RowError<'static>,
    /// Only in the last line: whether every row was read.
    #[schema(required = false)]
    done: bool,
    /// Only in the last line: number of rows with a result, including failed rows.
    #[schema(required = false)]
    rows: u64,
    /// Only in the last line: number of rows that failed.
    #[schema(required = false)]
    failed: u64,
    /// Only in the last line: usage of the rows that did not fail.
    #[schema(required = false)]
    usage: Usage,
}

/// Why a row or the stream failed.
#[derive(Debug, serde::Serialize, ToSchema)]
pub(super) struct RowError<'e> {
    /// The machine-readable name, which does not change.
    code: &'static str,
    /// What is wrong.
    message: &'e str,
    /// The invalid part of the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'e str>,
}

impl<'e> From<&'e Error> for RowError<'e> {
    fn from(error: &'e Error) -> Self {
        Self { code: error.code().slug(), message: error.message(), field: error.field() }
    }
}

/// The error when the client ends the body early.
fn broken_off() -> Error {
    Error::new(Code::InvalidRequest, "the body could not be read to its end")
}

/// Embeds a stream of rows
///
/// The stream can have any length. Rows are JSON lines (`{"id": "a", "text": "a cat"}`, `{"id": 7, "image":
/// "<base64>"}`) or use binary framing. Results have the same framing and come in the order of the rows, while
/// later rows are still being sent. A row that is too long, malformed or cannot be decoded gets an error row.
/// The last line says how the stream ended. A stream without this line was interrupted. Rows run with bulk
/// priority. Read the results while you send: the server reads no more rows while results wait to be read.
#[utoipa::path(
    post,
    path = "/v1/bulk/embeddings",
    operation_id = "bulk_embeddings",
    tag = "embeddings",
    params(BulkQuery),
    request_body(
        content((BulkLine = "application/x-ndjson"), (File = "application/vnd.siglip.rows")),
    ),
    responses(
        (
            status = 200,
            description = "The embeddings, row by row",
            content(
                (BulkAnswer = "application/x-ndjson"),
                (File = "application/vnd.siglip.rows"),
            ),
        ),
        ProblemErrors,
    ),
)]
pub(super) async fn embeddings(
    State(state): State<AppState>,
    uri: Uri,
    request: Request,
) -> Result<Response, Failure> {
    let framing = Framing::of(request.headers())?;
    let options: BulkQuery = query(&uri)?;
    let engine = state.shared_engine();
    let room = engine.row_room();
    let bulk = engine.bulk(options.options()?, engine.bulk_place()?, room.clone())?;
    let max = framing.max_row_bytes(state.limits());
    let body = request.into_body().into_data_stream().map_err(io::Error::other);
    let format = options.encoding_format;
    let chunks = match framing {
        Framing::Lines => {
            let rows = receive::rows(body, Lines::new(max), (room, max)).then(lines::read);
            bulk.spawn(rows, move |events| lines::write(events, format))
        }
        Framing::Frames => {
            let rows = receive::rows(body, Frames::new(max), (room, max)).map(frames::read);
            bulk.spawn(rows, move |events| frames::write(events, format))
        }
    };
    let body = Body::from_stream(ReceiverStream::new(chunks).map(Ok::<Bytes, Error>));
    Ok(([(header::CONTENT_TYPE, framing.content_type())], body).into_response())
}
