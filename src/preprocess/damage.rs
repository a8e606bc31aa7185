//! Explains a decoder's refusal to people who do not know the decoder.

use std::{error::Error as StdError, io};

use image::ImageError as DecoderError;
use tracing::debug;

use super::{
    formats::{self, Format},
    reason::Reason,
};

/// Translates a decoder's error into a plain reason. The decoder's own message changes with its version and
/// goes to the log. The decoders of this module give reasons that are used unchanged.
pub(super) fn reason(error: &DecoderError, format: Format) -> String {
    let name = formats::name(format);
    debug!(format = name, error = error as &dyn StdError, "the decoder refuses an image");
    if let Some(reason) = error.source().and_then(|source| source.downcast_ref::<Reason>()) {
        return reason.to_string();
    }
    match error {
        _ if ends_early(error) => format!("the {name} data ends early"),
        DecoderError::Unsupported(_) => {
            format!("this kind of {name} is not supported; save it as an ordinary JPEG or PNG")
        }
        // The caller handles memory limits, so the remaining limit errors are about impossible sizes.
        DecoderError::Limits(_) => format!("the {name} data has an impossible size"),
        _ => format!("the {name} data is damaged"),
    }
}

/// Whether a decoder ran out of data. Some report it as an input error, others only in their message.
fn ends_early(error: &DecoderError) -> bool {
    let by_kind = |error: &(dyn StdError + 'static)| {
        error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
    };
    if let DecoderError::IoError(error) = error
        && error.kind() == io::ErrorKind::UnexpectedEof
    {
        return true;
    }
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(error) = cause {
        if by_kind(error) {
            return true;
        }
        cause = error.source();
    }
    let words = error.to_string().to_ascii_lowercase();
    ["unexpected end", "end of file", "exhausted", "not enough bytes"]
        .iter()
        .any(|phrase| words.contains(phrase))
}
