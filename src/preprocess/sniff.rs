//! What bytes are that are no image of a format that is read, and what to do about it.
//!
//! People send what they have: the photo as the telephone stored it, the error page that a link led to, a
//! pointer in place of the file. Each is named, so that nobody has to guess.

mod camera;
mod media;
mod signatures;
mod text;

use std::{borrow::Cow, fmt};

pub(super) use camera::camera_raw;
#[cfg(any(feature = "heic", feature = "avif"))]
pub(super) use media::{Heif, heif};
#[cfg(feature = "jxl")]
pub(super) use signatures::is_jxl;

use super::formats::Listed;

/// Another image format, which common programs convert.
const CONVERT: &str = "convert it to JPEG or PNG";
/// A page or a drawing without pixels of its own.
const RENDER: &str = "render it to PNG or JPEG";
/// Something with an image inside it.
const UNPACK: &str = "unpack it and send the image inside it";
/// An image in a coat of characters.
const DECODE: &str = "decode it and send the bytes of the image";
/// What a web server sends in place of an image.
const ANSWER: &str = "the server that it came from sent this in place of an image; send the bytes of the image itself";
/// No image at all.
const SEND_BYTES: &str = "send the bytes of an image";

/// Bytes that are not of a format that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// What they are, with its article; none where nobody knows.
    what: Option<Cow<'static, str>>,
    /// What to do.
    advice: &'static str,
}

impl Foreign {
    fn new(what: impl Into<Cow<'static, str>>, advice: &'static str) -> Self {
        Self { what: Some(what.into()), advice }
    }

    fn image(what: &'static str) -> Self {
        Self::new(what, CONVERT)
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            Some(what) => write!(
                f,
                "this is {what}, not an image in a supported format ({Listed}): {}",
                self.advice
            ),
            None => write!(f, "the bytes are not a supported image format ({Listed})"),
        }
    }
}

/// Names bytes that are of no format that is read. More than the first bytes is better: a text is told from
/// the whole of it.
pub(super) fn name(bytes: &[u8]) -> Foreign {
    signatures::find(bytes)
        .or_else(|| media::find(bytes))
        .or_else(|| camera::other_raw(bytes))
        .or_else(|| text::find(bytes))
        .or_else(|| remains(bytes))
        .unwrap_or(Foreign { what: None, advice: SEND_BYTES })
}

/// What is left of a file: its first bytes, or the place that it should have taken.
fn remains(bytes: &[u8]) -> Option<Foreign> {
    /// No image is shorter, in any format.
    const LEAST: usize = 12;
    let advice = "the data ends early or was not written; send all bytes of the image";
    if bytes.is_empty() {
        return Some(Foreign::new("an empty file", advice));
    }
    if bytes.iter().all(|&byte| byte == 0) {
        return Some(Foreign::new("a run of zeros", advice));
    }
    (bytes.len() < LEAST)
        .then(|| Foreign::new(format!("a file of only {} bytes", bytes.len()), advice))
}

#[cfg(test)]
mod tests;
