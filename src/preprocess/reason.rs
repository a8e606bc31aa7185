//! Errors of the decoders in this module.

use image::{ImageError, ImageFormat, error::DecodingError};

/// Why an image was refused: one plain sentence for the client, without the names of a decoder's types.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Reason(String);

impl Reason {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    /// The same reason as the error type that image decoders share.
    pub(super) fn of(self, format: ImageFormat) -> ImageError {
        ImageError::Decoding(DecodingError::new(format.into(), self))
    }
}
