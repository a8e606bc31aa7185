//! Why one item fails.

use super::ItemOptions;
use crate::{
    batch::BatchError,
    cpu_pool::JobPanicked,
    error::{Code, Error},
    model::Queries,
    registry::Model,
};

/// The error for a text sent to a model that has no text tower.
pub(in crate::engine) fn no_text_tower(model: &Model) -> Error {
    Error::new(Code::InvalidRequest, format!("the model `{}` embeds images only", model.name))
}

/// Refuses an image of a model that gives several vectors for it, where one is expected.
pub(super) fn check_vectors(queries: Queries, options: ItemOptions) -> Result<(), Error> {
    let message = if queries.are_for_language {
        "the model gives no embedding of an image: what its language model reads of it is at `/v1/features`"
            .to_owned()
    } else if !options.several_vectors {
        let count = queries.count;
        format!(
            "the model gives {count} vectors for an image: ask `/v1/embeddings` with `multi_vector: true`"
        )
    } else {
        return Ok(());
    };
    Err(Error::new(Code::InvalidRequest, message))
}

/// A decoder's panic, which is one image's failure.
pub(super) fn decoder_panicked(error: JobPanicked) -> Error {
    Error::new(Code::UndecodableImage, "the image cannot be decoded").with_source(error)
}

/// A row's failure, as the caller sees it.
pub(in crate::engine) fn batch_error(error: BatchError) -> Error {
    let code = match error {
        BatchError::Full { retry_after } => {
            return Error::new(Code::Overloaded, "the queue is full; retry later")
                .with_retry_after(retry_after);
        }
        BatchError::NotLoaded { retry_after, .. } => {
            return Error::new(Code::NotReady, error.to_string()).with_retry_after(retry_after);
        }
        BatchError::Expired => Code::DeadlineExceeded,
        BatchError::Closed => Code::ShuttingDown,
        BatchError::WorkerGone | BatchError::Tower(_) => Code::DeviceFailed,
        BatchError::NotFinite => Code::Internal,
    };
    Error::new(code, error.to_string()).with_source(error)
}
