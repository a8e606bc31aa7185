//! Converts messages of the method `EmbedStream`.

use tonic::Status;

use super::{input, item_error, model};
use crate::{
    embedding::Encoding,
    engine::{BulkEvent, BulkOptions, BulkRow, Input, RowBytes},
    error::{Code, Error},
    grpc::{proto, status::status},
};

/// Maximum number of bytes of an id.
const MAX_ID_BYTES: usize = 256;

/// Reads the options of a stream.
///
/// # Errors
/// `invalid_request` for an unknown encoding, or one that needs normalised rows.
pub(in crate::grpc) fn stream_options(
    message: proto::EmbedStreamOptions,
) -> Result<(BulkOptions, Encoding), Error> {
    let normalize = message.normalized.unwrap_or(true);
    let encoding = match proto::Encoding::try_from(message.encoding) {
        Ok(proto::Encoding::Unspecified | proto::Encoding::F32) => Encoding::F32,
        Ok(proto::Encoding::F16) => Encoding::F16,
        Ok(proto::Encoding::Int8) => Encoding::Int8,
        Ok(proto::Encoding::Uint8) => Encoding::Uint8,
        Ok(proto::Encoding::Binary) => Encoding::Binary,
        Ok(proto::Encoding::Ubinary) => Encoding::Ubinary,
        Err(_) => return Err(Error::invalid("options.encoding", "no such encoding")),
    };
    if encoding.needs_normalized() && !normalize {
        let message = "8-bit integers hold embeddings of length 1: leave `normalized` on";
        return Err(Error::invalid("options.encoding", message));
    }
    let options = BulkOptions {
        model: model(message.model),
        // A value that does not fit is outside every model's range.
        dimensions: message.dimensions.map(|count| usize::try_from(count).unwrap_or(usize::MAX)),
        normalize,
        truncate: message.truncate.unwrap_or(true),
        max_num_patches: message.max_num_patches,
    };
    Ok((options, encoding))
}

/// Reads a row. A message without a row is a failed row.
///
/// # Errors
/// Fails if the stream was broken off.
pub(in crate::grpc) fn stream_row(
    message: Result<proto::EmbedStreamRequest, Status>,
    bytes: Option<RowBytes>,
) -> Result<BulkRow<String>, Error> {
    use proto::embed_stream_request::Message;
    let message = message.map_err(|status| {
        Error::new(Code::InvalidRequest, format!("the stream broke off: {}", status.message()))
    })?;
    let (id, row) = match message.message {
        Some(Message::Row(row)) => {
            let read = row.input.ok_or_else(|| Error::invalid("row.input", "must be set"));
            (row.id, read.and_then(|item| input(item, || "row.input".to_owned())))
        }
        Some(Message::Options(_)) => {
            let error = Error::invalid("options", "belong into the first message");
            (String::new(), Err(error))
        }
        None => (String::new(), Err(Error::invalid("row", "must be set"))),
    };
    if id.len() > MAX_ID_BYTES {
        let error = Error::invalid("row.id", format!("has more than {MAX_ID_BYTES} bytes"));
        return Ok(BulkRow { id: String::new(), input: Input::Unreadable(error), bytes });
    }
    Ok(BulkRow { id, input: row.unwrap_or_else(Input::Unreadable), bytes })
}

/// The result of a row; at the end nothing, or the reason why the stream was ended early.
pub(in crate::grpc) fn stream_answer(
    event: BulkEvent<String>,
    encoding: Encoding,
) -> Option<Result<proto::EmbedStreamResponse, Status>> {
    use proto::embed_stream_response::Outcome;
    match event {
        BulkEvent::Row { id, index, outcome, truncated } => {
            let outcome = match outcome {
                Ok(row) => Outcome::Embedding(row.encoded(encoding).into()),
                Err(error) => Outcome::Error(item_error(index, &error)),
            };
            Some(Ok(proto::EmbedStreamResponse { id, index, outcome: Some(outcome), truncated }))
        }
        BulkEvent::End(end) => end.cut.map(|error| Err(status(error))),
    }
}
