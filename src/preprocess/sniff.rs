//! Names the kind of bytes that are not an image of a supported format, and says what to do.
//!
//! Clients send photos in formats of phones and cameras, error pages that a link led to, or pointers instead of
//! files. The error says which of them the file is.

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
/// An image that is encoded as text.
const DECODE: &str = "decode it and send the bytes of the image";
/// Something that a web server sends instead of an image.
const ANSWER: &str = "the server that it came from sent this in place of an image; send the bytes of the image itself";
/// No image at all.
const SEND_BYTES: &str = "send the bytes of an image";

/// Bytes that are not of a format that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// The kind of bytes, with its article; none if it is not known.
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

/// Names bytes that are of no supported format. Pass all bytes if possible: text is recognised by the whole of
/// it.
pub(super) fn name(bytes: &[u8]) -> Foreign {
    signatures::find(bytes)
        .or_else(|| media::find(bytes))
        .or_else(|| camera::other_raw(bytes))
        .or_else(|| text::find(bytes))
        .or_else(|| remains(bytes))
        .unwrap_or(Foreign { what: None, advice: SEND_BYTES })
}

/// Recognises the remains of a file: only its first bytes, or zeros in its place.
fn remains(bytes: &[u8]) -> Option<Foreign> {
    /// No image of any format is shorter.
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
