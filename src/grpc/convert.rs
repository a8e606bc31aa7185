//! Converts messages of the protocol to requests of the engine, and results back.
//!
//! This module checks only what the protocol's types allow to be wrong (a `oneof` without a value, a matrix
//! whose shape does not fit its values). The engine checks everything else.

mod captions;
mod classify;
mod features;
mod stream;

use std::time::{Duration, Instant};

pub(super) use self::{
    captions::{caption_message, caption_request, token_message},
    classify::{classify_message, classify_request},
    features::{features_message, features_request},
    stream::{stream_answer, stream_options, stream_row},
};

use super::{MAX_SCORE_VALUES, proto};
use crate::{
    config::MatchingToken,
    embedding::Embedding,
    engine::{
        EmbedRequest, ImageInput, ImageSide, Input, Matrix, Pairing, ScoreKind, SimilarityRequest,
        TextSide, Usage,
    },
    error::{Code, Error},
    telemetry::{Stage, Timings},
};

/// Reads an embedding request, and whether failed items are reported one by one.
///
/// # Errors
/// `invalid_request` for an unknown value of an enum, and for an item without content unless items are reported
/// one by one.
pub(super) fn embed_request(message: proto::EmbedRequest) -> Result<(EmbedRequest, bool), Error> {
    let by_item = match proto::OnError::try_from(message.on_error) {
        Ok(proto::OnError::Unspecified | proto::OnError::Fail) => false,
        Ok(proto::OnError::Item) => true,
        Err(_) => return Err(Error::invalid("on_error", "no such value")),
    };
    let items = message.input.into_iter().enumerate();
    let inputs = items.map(|(index, item)| match input(item, || format!("input[{index}]")) {
        Err(error) if by_item => Ok(Input::Unreadable(error)),
        read => read,
    });
    let request = EmbedRequest {
        model: model(message.model),
        inputs: inputs.collect::<Result<_, _>>()?,
        // A value that does not fit is outside every model's range.
        dimensions: message.dimensions.map(|count| usize::try_from(count).unwrap_or(usize::MAX)),
        normalize: message.normalized.unwrap_or(true),
        truncate: message.truncate.unwrap_or(true),
        max_num_patches: message.max_num_patches,
        multi_vector: message.multi_vector,
    };
    Ok((request, by_item))
}

/// Reads one item.
pub(super) fn input(item: proto::Input, field: impl FnOnce() -> String) -> Result<Input, Error> {
    match item.content {
        Some(proto::input::Content::Text(text)) => Ok(Input::Text(text)),
        Some(proto::input::Content::Image(picture)) => {
            image(picture, || format!("{}.image", field())).map(Input::Image)
        }
        None => Err(Error::invalid(field(), "set either `text` or `image`")),
    }
}

/// A similarity request, and the requested matrices, each once.
pub(super) struct Comparison {
    pub(super) request: SimilarityRequest,
    pub(super) kinds: Vec<ScoreKind>,
}

/// Reads a similarity request.
///
/// # Errors
/// `invalid_request` for a side that is missing, given twice or malformed; `payload_too_large` if the response
/// would have more than [`MAX_SCORE_VALUES`].
pub(super) fn comparison(message: proto::SimilarityRequest) -> Result<Comparison, Error> {
    let kinds = kinds(&message.scores)?;
    let (images, rows) = match (message.images, message.image_embeddings) {
        (images, None) if !images.is_empty() => {
            let count = images.len();
            let images = images.into_iter().enumerate();
            let images = images.map(|(index, item)| image(item, || format!("images[{index}]")));
            (ImageSide::Images(images.collect::<Result<_, _>>()?), count)
        }
        (images, Some(rows)) if images.is_empty() => {
            let matrix = matrix("image_embeddings", rows)?;
            let count = matrix.rows;
            (ImageSide::Embeddings(matrix), count)
        }
        _ => return Err(Error::invalid("images", "set either `images` or `image_embeddings`")),
    };
    let (texts, columns) = match (message.texts, message.text_embeddings) {
        (texts, None) if !texts.is_empty() => {
            let count = texts.len();
            (TextSide::Texts(texts), count)
        }
        (texts, Some(rows)) if texts.is_empty() => {
            let matrix = matrix("text_embeddings", rows)?;
            let count = matrix.rows;
            (TextSide::Embeddings(matrix), count)
        }
        _ => return Err(Error::invalid("texts", "set either `texts` or `text_embeddings`")),
    };
    check_answer_size(rows, columns, kinds.len())?;
    let request = SimilarityRequest {
        model: model(message.model),
        images,
        texts,
        truncate: message.truncate.unwrap_or(true),
        max_num_patches: message.max_num_patches,
        pairing: if message.zip { Pairing::Zip } else { Pairing::All },
        kinds: kinds.clone(),
        matching_token: matching_token(message.matching_token)?,
    };
    Ok(Comparison { request, kinds })
}

fn check_answer_size(rows: usize, columns: usize, matrices: usize) -> Result<(), Error> {
    let values = rows.saturating_mul(columns).saturating_mul(matrices);
    if values <= MAX_SCORE_VALUES {
        return Ok(());
    }
    let message = format!(
        "{rows} x {columns} pairs in {matrices} matrices are {values} values, more than the limit of \
         {MAX_SCORE_VALUES} of one message; split the request, or ask for fewer `scores`"
    );
    Err(Error::new(Code::PayloadTooLarge, message))
}

fn kinds(scores: &[i32]) -> Result<Vec<ScoreKind>, Error> {
    if scores.is_empty() {
        return Ok(vec![ScoreKind::Cosine, ScoreKind::Logit, ScoreKind::Probability]);
    }
    let mut kinds = Vec::new();
    for (index, &score) in scores.iter().enumerate() {
        let kind = match proto::Score::try_from(score) {
            Ok(proto::Score::Cosine) => ScoreKind::Cosine,
            Ok(proto::Score::Logit) => ScoreKind::Logit,
            Ok(proto::Score::Probability) => ScoreKind::Probability,
            Ok(proto::Score::Unspecified) | Err(_) => {
                return Err(Error::invalid(format!("scores[{index}]"), "no such score"));
            }
        };
        // At most three kinds remain, however often a client repeats them.
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    Ok(kinds)
}

fn image(picture: proto::Image, field: impl FnOnce() -> String) -> Result<ImageInput, Error> {
    match picture.source {
        Some(proto::image::Source::Encoded(bytes)) => Ok(ImageInput::Encoded(bytes)),
        None => Err(Error::invalid(field(), "set `encoded` to the bytes of an image")),
    }
}

fn matrix(field: &'static str, given: proto::Matrix) -> Result<Matrix, Error> {
    let (rows, dim) = (given.rows as usize, given.columns as usize);
    if dim == 0 || rows.checked_mul(dim) != Some(given.values.len()) {
        let message =
            format!("{rows} rows of {dim} columns do not make {} values", given.values.len());
        return Err(Error::invalid(field, message));
    }
    Ok(Matrix { rows, dim, data: given.values })
}

/// The token before a text that a matching head reads.
fn matching_token(given: i32) -> Result<Option<MatchingToken>, Error> {
    match proto::MatchingToken::try_from(given) {
        Ok(proto::MatchingToken::Unspecified) => Ok(None),
        Ok(proto::MatchingToken::Cls) => Ok(Some(MatchingToken::Cls)),
        Ok(proto::MatchingToken::Enc) => Ok(Some(MatchingToken::Enc)),
        Err(_) => Err(Error::invalid("matching_token", "no such token")),
    }
}

/// An empty name means the default model.
fn model(name: String) -> Option<String> {
    Some(name).filter(|name| !name.is_empty())
}

/// Rows of one length in one message, and the failed items. Their rows are NaN, so that they cannot be mistaken
/// for embeddings.
pub(super) fn stacked(
    items: &[Result<Embedding, Error>],
) -> (proto::Matrix, Vec<proto::ItemError>) {
    let columns = items.iter().flatten().next().map_or(0, Embedding::dim);
    stacked_rows(items, columns)
}

/// The same for items of several vectors each, which follow one another: `columns` values for a vector.
///
/// * returns the number of rows of each item too
pub(super) fn stacked_vectors(
    items: &[Result<Embedding, Error>],
    columns: usize,
) -> (proto::Matrix, Vec<proto::ItemError>, Vec<u32>) {
    let vectors = |row: &Embedding| row.dim() / columns.max(1);
    let vectors = items.iter().map(|item| wire_count(item.as_ref().map_or(1, vectors)));
    let (matrix, errors) = stacked_rows(items, columns);
    (matrix, errors, vectors.collect())
}

fn stacked_rows(
    items: &[Result<Embedding, Error>],
    columns: usize,
) -> (proto::Matrix, Vec<proto::ItemError>) {
    let mut values = Vec::with_capacity(items.len() * columns);
    let mut errors = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match item {
            Ok(row) => values.extend_from_slice(row.as_slice()),
            Err(error) => {
                values.extend(std::iter::repeat_n(f32::NAN, columns));
                errors.push(item_error(index as u64, error));
            }
        }
    }
    // Without a single vector there are no columns, but still a row for each item.
    let rows = values.len().checked_div(columns).unwrap_or(items.len());
    let matrix = proto::Matrix { rows: wire_count(rows), columns: wire_count(columns), values };
    (matrix, errors)
}

/// Why one item has no embedding.
pub(super) fn item_error(index: u64, error: &Error) -> proto::ItemError {
    proto::ItemError {
        index,
        code: error.code().slug().to_owned(),
        message: error.message().to_owned(),
        field: error.field().unwrap_or_default().to_owned(),
    }
}

/// Converts a matrix to a message without a copy.
pub(super) fn matrix_message(matrix: Matrix) -> proto::Matrix {
    proto::Matrix {
        rows: wire_count(matrix.rows),
        columns: wire_count(matrix.dim),
        values: matrix.data,
    }
}

/// Counts on the wire have 32 bits, and all counts here are far below that limit.
pub(super) fn wire_count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The usage of a call.
pub(super) fn usage(usage: Usage) -> proto::Usage {
    proto::Usage {
        text_tokens: usage.text_tokens as u64,
        images: usage.images as u64,
        truncated_texts: usage.truncated_texts as u64,
    }
}

/// The times of the stages, for a call received at `received`.
pub(super) fn timings(timings: &Timings, received: Instant) -> proto::Timings {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    proto::Timings {
        decode_ms: ms(timings.get(Stage::Decode)),
        tokenize_ms: ms(timings.get(Stage::Tokenize)),
        queue_ms: ms(timings.get(Stage::Queue)),
        forward_ms: ms(timings.get(Stage::Forward)),
        encode_ms: ms(timings.get(Stage::Encode)),
        total_ms: ms(received.elapsed()),
    }
}

#[cfg(test)]
mod tests;
