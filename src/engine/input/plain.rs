//! Strings that stand where texts do, and are none: an image's bytes or its address.
//!
//! A vector of such characters would be a wrong answer that nothing shows, so these are refused, and the error says
//! how images are sent.

use super::{data_uri, encoded, is_web_address};
use crate::{
    error::{Code, Error},
    preprocess,
};

/// Characters of base64 that tell an image: 24 bytes hold every format's first ones.
const HEAD_CHARS: usize = 32;

/// Checks a string whose meaning is only guessed to be a text.
///
/// # Errors
/// [`Code::InvalidRequest`] for an image's bytes, and for the address of anything on the web.
pub(in crate::engine) fn check(text: &str) -> Result<(), Error> {
    refuse_image_data(text)?;
    let address = text.trim();
    if is_web_address(address) && !address.contains(char::is_whitespace) {
        let message = "this string is a URL, not a text; send an image as `{\"image\": ...}` (or where a field takes \
                       images), a text that is a URL as `{\"text\": ...}`";
        return Err(Error::new(Code::InvalidRequest, message));
    }
    Ok(())
}

/// Checks any text.
///
/// # Errors
/// [`Code::InvalidRequest`] for an image's bytes: a data URI, base64, or the bytes as characters.
pub(in crate::engine) fn refuse_image_data(text: &str) -> Result<(), Error> {
    let what = if data_uri::is_one(text) {
        "a data URI"
    } else if is_encoded_image(text) {
        "an image in base64"
    } else if is_raw_image(text) {
        "an image's bytes"
    } else {
        return Ok(());
    };
    let message = format!(
        "this string is {what}, not a text; send an image in base64 as `{{\"image\": ...}}`, with `modality: \"image\"`, \
         or where a field takes images"
    );
    Err(Error::new(Code::InvalidRequest, message))
}

/// Base64 of an image, alone or as Python prints bytes.
fn is_encoded_image(text: &str) -> bool {
    let text = text.trim_start();
    let text = text.strip_prefix("b'").or_else(|| text.strip_prefix("b\"")).unwrap_or(text);
    let head = text.as_bytes();
    let head = &head[..head.len().min(HEAD_CHARS)];
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_=".contains(byte);
    head.len() == HEAD_CHARS
        && head.iter().all(is_base64)
        && encoded::decode(head, 0).is_ok_and(|bytes| is_surely_image(&bytes))
}

/// Whether bytes begin like an image in more than two of them. Two are met by chance: the base64 of a bare JPEG XL
/// file begins like many paths, `/wo`.
fn is_surely_image(bytes: &[u8]) -> bool {
    let is_chance = match bytes {
        [0xFF, 0x0A, ..] => true,
        // Four bytes of a BMP's header are always zero.
        [b'B', b'M', ..] => bytes.get(6..10) != Some(&[0; 4]),
        _ => false,
    };
    !is_chance && preprocess::is_image(bytes)
}

/// An image's bytes, each as a character, or as Python prints them.
fn is_raw_image(text: &str) -> bool {
    let head: String = text.chars().take(32).collect();
    let is_jpeg =
        |mark: &str| head.starts_with(mark) && (head.contains("JFIF") || head.contains("Exif"));
    let is_webp = || head.starts_with("RIFF") && head.contains("WEBP");
    let starts = ["\u{89}PNG\r\n", "\u{fffd}PNG\r\n", "GIF87a", "GIF89a", "\u{ff}\u{d8}\u{ff}"];
    let printed = ["\\x89PNG", "\\xff\\xd8\\xff", "GIF87a", "GIF89a"];
    let inside = head.strip_prefix("b'").or_else(|| head.strip_prefix("b\""));
    starts.iter().any(|start| head.starts_with(start))
        || inside.is_some_and(|inside| printed.iter().any(|start| inside.starts_with(start)))
        || is_jpeg("\u{fffd}\u{fffd}\u{fffd}")
        || is_webp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_and_addresses_are_no_texts() {
        for text in [
            "data:image/png;base64,iVBORw0KGgo=",
            " DATA:;BASE64,AAAA",
            "data:image/svg+xml,%3Csvg%3E",
            "iVBORw0KGgoAAAANSUhEUgAAAAkAAAAHCAIAAABV",
            "b'iVBORw0KGgoAAAANSUhEUgAAAAkAAAAHCAIAAABV'",
            "/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAAYEBQYF",
            "R0lGODlhAQABAIAAAAUEBAAAACwAAAAAAQABAAAC",
            "\u{89}PNG\r\n\u{1a}\n\0\0\0\rIHDR",
            "b'\\x89PNG\\r\\n\\x1a\\n'",
            "https://example.com/cat.png",
            " HTTP://example.com/ ",
        ] {
            assert!(check(text).is_err(), "{text}");
        }
        for text in [
            "",
            "a cat",
            "data: a plot of the numbers",
            "https://example.com is a site",
            "iVBORw0KGgo",
            "BMW car",
            "Qk1",
            "/9j/",
            "RIFF",
            "supercalifragilisticexpialidociously",
            "/words/of/a/song/that/goes/on/and/on/and/on",
            "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJC",
        ] {
            assert!(check(text).is_ok(), "{text}");
        }
        assert!(refuse_image_data("https://example.com/cat.png").is_ok());
    }
}
