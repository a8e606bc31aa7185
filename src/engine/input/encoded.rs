//! Base64 as clients send it.

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use crate::error::{Code, Error};

/// For what the vectorised decoders refuse: bits behind the last byte that are not zero.
const FORGIVING: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Ends of file names that images have.
const EXTENSIONS: [&str; 11] =
    [".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif", ".jxl"];

/// Decodes either alphabet, padded or not, in lines or not.
///
/// * `text`: what the client sent
/// * `start`: where the base64 begins in it, behind a data URI's head
///
/// # Errors
/// [`Code::InvalidRequest`], with the first character that is not base64.
pub(super) fn decode(text: &[u8], start: usize) -> Result<Vec<u8>, Error> {
    let payload = text[start..].trim_ascii();
    let unpadded = match payload {
        [head @ .., b'=', b'='] | [head @ .., b'='] => head,
        _ => payload,
    };
    let url_safe = memchr::memchr2(b'-', b'_', unpadded).is_some();
    let decoder =
        if url_safe { base64_simd::URL_SAFE_NO_PAD } else { base64_simd::STANDARD_NO_PAD };
    decoder.decode_to_vec(unpadded).or_else(|_| decode_slowly(text, start))
}

/// The same without white space, and in one alphabet.
fn decode_slowly(text: &[u8], start: usize) -> Result<Vec<u8>, Error> {
    let mut clean = Vec::with_capacity(text.len() - start);
    let mut is_padded = false;
    // A blank that stands alone between two characters was a `+` before a form was decoded.
    let mut lone_blank = None;
    for (at, &byte) in text.iter().enumerate().skip(start) {
        match (lone_blank, byte) {
            (_, b' ') if at > start && !text[at - 1].is_ascii_whitespace() => lone_blank = Some(at),
            (_, b' ' | b'\t' | b'\r' | b'\n' | b'\x0c' | b'=') => lone_blank = None,
            (Some(blank), _) => return Err(unexpected(text, start, blank)),
            (None, _) => {}
        }
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' | b'\x0c' => {}
            b'=' if !clean.is_empty() => is_padded = true,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' if !is_padded => clean.push(byte),
            b'-' if !is_padded => clean.push(b'+'),
            b'_' if !is_padded => clean.push(b'/'),
            _ => return Err(unexpected(text, start, at)),
        }
    }
    FORGIVING.decode(&clean).map_err(|_| {
        let message = "the image's base64 is cut off: a single character is left at its end";
        Error::new(Code::InvalidRequest, message)
    })
}

fn unexpected(text: &[u8], start: usize, at: usize) -> Error {
    let whole = String::from_utf8_lossy(&text[..text.len().min(1024)]);
    let message = if start == 0 && looks_like_path(whole.trim()) {
        "the image looks like a file path: the server reads no files, send its bytes in base64"
            .to_owned()
    } else if start == 0 && (whole.trim().starts_with("b'") || whole.trim().starts_with("b\"")) {
        "the image looks like Python's `b'...'`: send the text inside, as `.decode()` gives it"
            .to_owned()
    } else {
        let rest = String::from_utf8_lossy(&text[at..text.len().min(at + 4)]);
        let character = rest.chars().next().unwrap_or_default().escape_debug().to_string();
        let what = if start == 0 { "the image" } else { "the data URI" };
        format!("{what} is not valid base64: unexpected `{character}` at position {at}")
    };
    Error::new(Code::InvalidRequest, message)
}

/// Whether a text that is not base64 names a file. A JPEG's base64 begins with a slash too.
fn looks_like_path(text: &str) -> bool {
    let starts = ["/", "./", "../", "~", "@", "\\", ".\\", "..\\"];
    let has_drive = matches!(text.as_bytes(), [b'A'..=b'Z' | b'a'..=b'z', b':', b'\\' | b'/', ..]);
    let begins = has_drive || starts.iter().any(|start| text.starts_with(start));
    let lower = text.to_ascii_lowercase();
    let ends = text.len() < 1000 && EXTENSIONS.iter().any(|end| lower.ends_with(end));
    (begins && !text.starts_with("/9j/")) || ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        for (text, start, message) in [
            ("iVBO?w0KGgo=", 0, "unexpected `?` at position 4"),
            ("iVBO\u{e9}w0KGgo=", 0, "unexpected `\u{e9}` at position 4"),
            ("AAAA=AAAA", 0, "unexpected `A` at position 5"),
            ("A=", 0, "cut off"),
            ("iVBO w0KGgo=", 0, "unexpected ` ` at position 4"),
            (
                "data:image/png;base64,iVBORw0...",
                22,
                "the data URI is not valid base64: unexpected `.`",
            ),
            ("/home/me/my cat.png", 0, "file path"),
            ("C:\\cat.png", 0, "file path"),
            ("photos/cat.JPG", 0, "file path"),
            ("@cat.png", 0, "file path"),
            ("/9j/4AAQ?", 0, "unexpected `?`"),
            ("b'iVBORw0KGgo='", 0, "Python"),
            ("A", 0, "cut off"),
            ("AAA\nAA", 0, "cut off"),
        ] {
            let error = decode(text.as_bytes(), start).expect_err(text);
            assert_eq!(error.code(), Code::InvalidRequest);
            assert!(error.message().contains(message), "{text}: {error}");
        }
    }
}
