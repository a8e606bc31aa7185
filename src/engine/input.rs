//! What a request may carry: texts, and pictures in the forms that clients send them.

use bytes::Bytes;
use bytestring::ByteString;

use crate::{
    error::{Code, Error},
    preprocess::Pixels,
};

/// One item to embed.
#[derive(Debug, Clone)]
pub enum Input {
    /// A text, as the user wrote it.
    Text(String),
    /// A picture.
    Image(ImageInput),
    /// A text that a client tokenised itself, with the model's own tokenizer.
    TokenIds(Vec<u32>),
    /// An item that its surface could not read. It takes its place among the others, and fails there.
    Unreadable(Error),
}

impl Input {
    /// Bytes held for it.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Image(image) => image.held_bytes(),
            Self::TokenIds(ids) => size_of_val(&ids[..]),
            Self::Unreadable(_) => 0,
        }
    }
}

/// A picture as it came in. Nothing is decoded yet: that is work for the CPU pool.
#[derive(Debug, Clone)]
pub enum ImageInput {
    /// An encoded picture (PNG, JPEG, ...).
    Encoded(Bytes),
    /// The same in base64: standard or URL-safe alphabet, padded or not.
    Base64 {
        /// The text that holds it.
        text: Bytes,
        /// Where the base64 begins in it, behind a data URI's head.
        start: usize,
    },
    /// An `http` or `https` URL, to be fetched where the server does that.
    Url(Box<str>),
    /// A picture that a client prepared itself, of the size that the model reads.
    Pixels(Pixels),
}

/// Where the base64 of a data URI begins: `data:image/png;base64,...`.
const DATA_URI_MARK: &str = ";base64,";

impl ImageInput {
    /// Reads a data URI, a URL or bare base64. No byte of the payload is copied or decoded here, and nothing
    /// is fetched.
    ///
    /// # Errors
    /// [`Code::FetchForbidden`] for a URL of another scheme; [`Code::InvalidRequest`] for a data URI that is not base64;
    /// [`Code::UnsupportedMediaType`] for one whose media type is not a picture's.
    pub fn parse(text: impl Into<ByteString>) -> Result<Self, Error> {
        let text = text.into();
        if let Some(rest) = strip_prefix_ignore_case(&text, "data:") {
            // The head is short; searching the payload would cost a pass over megabytes.
            let head = &rest[..floor_char_boundary(rest, 256)];
            let Some(mark) = head.find(DATA_URI_MARK) else {
                return Err(Error::new(
                    Code::InvalidRequest,
                    "a data URI must be base64: `data:image/png;base64,...`",
                ));
            };
            let media_type = head[..mark].split(';').next().unwrap_or_default();
            if !media_type.is_empty()
                && strip_prefix_ignore_case(media_type, "image/").is_none()
                && !media_type.eq_ignore_ascii_case("application/octet-stream")
            {
                return Err(Error::new(
                    Code::UnsupportedMediaType,
                    format!("the data URI holds `{media_type}`, not an image"),
                ));
            }
            let start = text.len() - rest.len() + mark + DATA_URI_MARK.len();
            return Ok(Self::Base64 { text: text.into_bytes(), start });
        }
        let begins_with = |scheme: &str| strip_prefix_ignore_case(&text, scheme).is_some();
        if ["http://", "https://"].into_iter().any(begins_with) {
            return Ok(Self::Url((*text).into()));
        }
        if ["file://", "ftp://", "s3://", "gs://"].into_iter().any(begins_with) {
            return Err(Error::new(
                Code::FetchForbidden,
                "URLs of this scheme are not fetched; send the image as a data URI or base64",
            ));
        }
        Ok(Self::Base64 { text: text.into_bytes(), start: 0 })
    }

    /// Bytes held for it.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        match self {
            Self::Encoded(bytes) => bytes.len(),
            Self::Base64 { text, .. } => text.len(),
            // What it leads to is bounded where it is fetched.
            Self::Url(url) => url.len(),
            Self::Pixels(pixels) => pixels.data.len(),
        }
    }

    /// The encoded picture, base64 removed.
    ///
    /// # Errors
    /// [`Code::InvalidRequest`] for text that is not base64; [`Code::FetchForbidden`] for a URL that nobody
    /// fetched.
    pub(super) fn into_encoded(self) -> Result<Bytes, Error> {
        match self {
            Self::Encoded(bytes) => Ok(bytes),
            Self::Pixels(_) => {
                Err(Error::new(Code::InvalidRequest, "prepared pixels cannot be used here"))
            }
            Self::Base64 { text, start } => decode_base64(&text[start..]).map(Bytes::from),
            Self::Url(_) => Err(Error::new(
                Code::FetchForbidden,
                "this server does not fetch URLs; send the image as a data URI or base64",
            )),
        }
    }
}

/// Accepts both alphabets, with padding or without; the vectorised decoder handles each.
fn decode_base64(text: &[u8]) -> Result<Vec<u8>, Error> {
    let text = text.trim_ascii();
    let unpadded = match text {
        [head @ .., b'=', b'='] | [head @ .., b'='] => head,
        _ => text,
    };
    let url_safe = memchr::memchr2(b'-', b'_', unpadded).is_some();
    let decoder =
        if url_safe { base64_simd::URL_SAFE_NO_PAD } else { base64_simd::STANDARD_NO_PAD };
    decoder.decode_to_vec(unpadded).map_err(|_| {
        Error::new(Code::InvalidRequest, "the image is neither a data URI nor valid base64")
    })
}

fn strip_prefix_ignore_case<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

/// The largest character boundary at or below `index`.
fn floor_char_boundary(text: &str, index: usize) -> usize {
    let mut index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str) -> Result<Bytes, Error> {
        ImageInput::parse(text.to_owned()).and_then(ImageInput::into_encoded)
    }

    #[test]
    fn every_form_of_base64_is_read() {
        for text in [
            "-_8",
            "+/8=",
            "+/8",
            "-_8=",
            " +/8=\n",
            "data:image/png;base64,+/8=",
            "DATA:IMAGE/PNG;name=x;base64,+/8",
            "data:;base64,+/8=",
        ] {
            assert_eq!(encoded(text).expect(text), vec![0xfb, 0xff], "{text}");
        }
    }

    #[test]
    fn what_is_not_a_picture_is_named() {
        for (text, code) in [
            ("https://example.com/cat.png", Code::FetchForbidden),
            ("HTTP://example.com/cat.png", Code::FetchForbidden),
            ("data:text/html;base64,PGI+", Code::UnsupportedMediaType),
            ("data:image/png,rawbytes", Code::InvalidRequest),
            ("a cat", Code::InvalidRequest),
            ("é".repeat(300).as_str(), Code::InvalidRequest),
        ] {
            assert_eq!(encoded(text).expect_err(text).code(), code, "{text}");
        }
    }
}
