//! What a request may carry: texts, and images in the forms that clients send them.

mod data_uri;
mod encoded;
mod plain;

use bytes::Bytes;
use bytestring::ByteString;

use self::data_uri::Payload;
pub(super) use self::plain::{check as check_plain, refuse_image_data};
use crate::{
    error::{Code, Error},
    preprocess::Pixels,
};

/// One item to embed.
#[derive(Debug, Clone)]
pub enum Input {
    /// A text, as the user wrote it.
    Text(String),
    /// An image.
    Image(ImageInput),
    /// A text that a client tokenised itself, with the model's own tokenizer.
    TokenIds(Vec<u32>),
    /// An item that its surface could not read. It takes its place among the others, and fails there.
    Unreadable(Error),
}

impl Input {
    /// A string that nothing says the meaning of but the field it stands in, as a text.
    ///
    /// One that is no text but an image's bytes or address becomes an item that fails and says how images are sent.
    #[must_use]
    pub fn plain(text: String) -> Self {
        match plain::check(&text) {
            Ok(()) => Self::Text(text),
            Err(error) => Self::Unreadable(error),
        }
    }

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

/// An image as it came in. Nothing is decoded yet: that is work for the CPU pool.
#[derive(Debug, Clone)]
pub enum ImageInput {
    /// An encoded image (PNG, JPEG, ...).
    Encoded(Bytes),
    /// The same in base64: standard or URL-safe alphabet, padded or not.
    Base64 {
        /// The text that holds it.
        text: Bytes,
        /// Where the base64 begins in it, behind a data URI's head.
        start: usize,
    },
    /// The same in a data URI without base64: bytes, of which some are written as `%` and two digits.
    Percent {
        /// The data URI.
        text: Bytes,
        /// Where the bytes begin in it.
        start: usize,
    },
    /// An `http` or `https` URL, to be fetched where the server does that.
    Url(Box<str>),
    /// An image that a client prepared itself, of the size that the model reads.
    Pixels(Pixels),
}

impl ImageInput {
    /// Reads a data URI, a URL or bare base64. No byte of the payload is copied or decoded here, and nothing
    /// is fetched. A data URI's media type is not looked at: the content decides.
    ///
    /// # Errors
    /// [`Code::FetchForbidden`] for a URL of another scheme; [`Code::InvalidRequest`] for a data URI without data.
    pub fn parse(text: impl Into<ByteString>) -> Result<Self, Error> {
        let text = text.into();
        let address = text.trim();
        match data_uri::payload(&text) {
            Some(Payload::Base64(start)) => {
                return Ok(Self::Base64 { text: text.into_bytes(), start });
            }
            Some(Payload::Percent(start)) => {
                return Ok(Self::Percent { text: text.into_bytes(), start });
            }
            Some(Payload::Missing) => {
                let message = "the data URI has no comma, behind which its data begins: `data:image/png;base64,...`";
                return Err(Error::new(Code::InvalidRequest, message));
            }
            None => {}
        }
        if is_web_address(address) {
            return Ok(Self::Url(address.into()));
        }
        if has_scheme(address) {
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
            Self::Base64 { text, .. } | Self::Percent { text, .. } => text.len(),
            // What it leads to is bounded where it is fetched.
            Self::Url(url) => url.len(),
            Self::Pixels(pixels) => pixels.data.len(),
        }
    }

    /// The encoded image, base64 removed.
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
            Self::Base64 { text, start } => encoded::decode(&text, start).map(Bytes::from),
            Self::Percent { text, start } => Ok(data_uri::percent_decoded(&text[start..]).into()),
            Self::Url(_) => Err(Error::new(
                Code::FetchForbidden,
                "this server does not fetch URLs; send the image as a data URI or base64",
            )),
        }
    }
}

/// Whether a text begins as the URL of something on the web.
fn is_web_address(text: &str) -> bool {
    ["http://", "https://"]
        .into_iter()
        .any(|scheme| strip_prefix_ignore_case(text, scheme).is_some())
}

/// Whether a text begins as a URL of any scheme. Base64 has no colon.
fn has_scheme(text: &str) -> bool {
    let end =
        text.bytes().position(|byte| !byte.is_ascii_alphanumeric() && !b"+-.".contains(&byte));
    end.is_some_and(|end| end > 1 && text[end..].starts_with("://")) || text.starts_with("blob:")
}

fn strip_prefix_ignore_case<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
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
            " Data: image/png ; name=\"a,b\" ; BASE64 , +/8=",
            "data:undefined;base64,+/8=",
            "data:binary/octet-stream;base64,+/8=",
            "data:text/html;base64,+/8=",
            "data:image/png;\r\n base64,+\r\n/8=\r\n",
            "+\n/\t8 =",
            "+\n  /8=",
            "-/8",
            "+/8==",
            "+/9",
        ] {
            assert_eq!(encoded(text).expect(text), vec![0xfb, 0xff], "{text}");
        }
    }

    #[test]
    fn data_uris_without_base64_are_read_as_the_standard_says() {
        for (text, bytes) in [
            ("data:image/png,%89PNG%0d%0A", &b"\x89PNG\r\n"[..]),
            ("data:,A%20brief+note", b"A brief+note"),
            ("DATA:image/gif;charset=utf-8,GIF89a%", b"GIF89a%"),
            ("data:image/gif,%4", b"%4"),
            ("data:image/gif,%zz%E9", b"%zz\xE9"),
            ("data:image/png,", b""),
        ] {
            assert_eq!(encoded(text).as_deref().ok(), Some(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_picture_is_named() {
        for (text, code) in [
            ("https://example.com/cat.png", Code::FetchForbidden),
            ("HTTP://example.com/cat.png", Code::FetchForbidden),
            (" ftp://example.com/cat.png", Code::FetchForbidden),
            ("blob:https://example.com/1", Code::FetchForbidden),
            ("data:image/png;base64", Code::InvalidRequest),
            ("a cat", Code::InvalidRequest),
            ("é".repeat(300).as_str(), Code::InvalidRequest),
        ] {
            assert_eq!(encoded(text).expect_err(text).code(), code, "{text}");
        }
    }
}
