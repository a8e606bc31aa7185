//! `POST /v1/bulk/embeddings`: a stream of rows in, a stream of their embeddings out.

mod frames;
#[cfg(debug_assertions)]
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

/// Our binary framing; there is no registered type for anything like it.
const FRAMES_TYPE: &str = "application/vnd.siglip.rows";
const LINES_TYPE: &str = "application/x-ndjson";

/// Names, quotes and escapes of a line around its content.
const LINE_OVERHEAD_BYTES: usize = 64 << 10;

/// What holds for every row of the stream.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BulkQuery {
    /// The model's name; the default model where none is given.
    model: Option<String>,
    /// How each embedding is written; in binary framing it is the type of the values.
    #[serde(default)]
    encoding_format: EncodingFormat,
    /// Keep only the first values of each embedding, and normalise after that. It costs accuracy, as
    /// `/v1/embeddings` says.
    #[param(minimum = 1)]
    dimensions: Option<usize>,
    /// Whether embeddings are scaled to length 1; yes by default.
    normalized: Option<bool>,
    /// Whether a text that is too long is cut, which is the default; otherwise its row fails.
    truncate: Option<bool>,
    /// Most patches of each picture, for models that read pictures in variable resolution. Refused for others.
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

/// How rows are told apart, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// A JSON object a line.
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

    /// Most bytes of a row, of whatever kind.
    fn max_row_bytes(self, limits: &config::Limits) -> usize {
        let raw = limits.max_text_bytes.max(limits.max_image_bytes);
        match self {
            // Base64 is a third longer; a text may be all escapes.
            Self::Lines => (raw / 3 * 4).max(limits.max_text_bytes * 6) + LINE_OVERHEAD_BYTES,
            Self::Frames => raw,
        }
    }
}

/// A line of the stream: an id and one item.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes a line; `lines` reads it")]
pub(super) struct BulkLine {
    /// The client's name for the row, a string or a number, echoed in its answer.
    #[schema(value_type = Option<String>)]
    id: Option<String>,
    /// A text. Or give `image`.
    text: Option<String>,
    /// A picture: a data URI or base64.
    image: Option<String>,
}

/// A line of the answer: a row's outcome, or the last line, which says how the stream ended.
#[derive(ToSchema)]
#[schema(example = json!({"index": 0, "id": "a", "embedding": [0.018, -0.041]}))]
#[expect(dead_code, reason = "only describes a line; `lines` writes it")]
pub(super) struct BulkAnswer {
    /// The row's place in the stream, from 0.
    #[schema(required = false)]
    index: u64,
    /// The row's id; null where it had none or could not be read.
    #[schema(required = false)]
    id: Option<String>,
    /// The embedding, in the format asked for.
    #[schema(required = false)]
    embedding: Vec<f32>,
    /// True for a text that was longer than the model reads, and was cut. Absent for all others.
    #[schema(required = false)]
    truncated: bool,
    /// Why the row has none; in the last line, why the stream was cut.
    #[schema(required = false)]
    error: RowError<'static>,
    /// The last line only: whether every row was read.
    #[schema(required = false)]
    done: bool,
    /// The last line only: rows answered.
    #[schema(required = false)]
    rows: u64,
    /// The last line only: rows that failed.
    #[schema(required = false)]
    failed: u64,
    /// The last line only: what the others consumed.
    #[schema(required = false)]
    usage: Usage,
}

/// Why a row failed, or the stream.
#[derive(Debug, serde::Serialize, ToSchema)]
pub(super) struct RowError<'e> {
    /// The machine-readable name, stable.
    code: &'static str,
    /// What is wrong.
    message: &'e str,
    /// The part of the row at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'e str>,
}

impl<'e> From<&'e Error> for RowError<'e> {
    fn from(error: &'e Error) -> Self {
        Self { code: error.code().slug(), message: error.message(), field: error.field() }
    }
}

/// Why no more rows are read: the client broke the body off.
fn broken_off() -> Error {
    Error::new(Code::InvalidRequest, "the body could not be read to its end")
}

/// Embeds a stream of rows of any length
///
/// Rows go in as JSON lines (`{"id": "a", "text": "a cat"}`, `{"id": 7, "image": "<base64>"}`) or in binary
/// framing, answers come out in the same framing, in the order of the rows, while later rows are still being
/// sent. A row that is too long, malformed or undecodable is answered by an error row. The last line says how
/// the stream ended; a stream without it broke off. Rows run with bulk priority. Read while you send: the
/// server takes no more rows while answers wait for their reader.
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
