//! Recognises text that clients send instead of an image.

use super::{super::formats, ANSWER, DECODE, Foreign, RENDER, SEND_BYTES};

/// The part of a text that is enough to recognise its kind.
const HEAD_BYTES: usize = 4096;

/// The kind of a text; none if the bytes are not text.
pub(super) fn find(bytes: &[u8]) -> Option<Foreign> {
    if bytes.is_empty() {
        return None;
    }
    if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
        return Some(Foreign::new("text in UTF-16", SEND_BYTES));
    }
    let text = head(bytes)?.trim_start_matches('\u{FEFF}').trim_start();
    let starts = |prefix: &str| {
        text.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
    };
    let any = |prefixes: &[&str]| prefixes.iter().any(|prefix| starts(prefix));
    Some(if text.is_empty() {
        Foreign::new("nothing but blanks", SEND_BYTES)
    } else if starts("version https://git-lfs.github.com/spec/") {
        Foreign::new("a Git LFS pointer", "fetch the file that it stands for with `git lfs pull`")
    } else if starts("<") {
        markup(text)
    } else if starts("data:") {
        Foreign::new("a data URI", DECODE)
    } else if any(&["http://", "https://", "s3://", "gs://", "file://"]) {
        Foreign::new("a URL", "send the bytes of the image that it leads to")
    } else if starts("HTTP/") {
        Foreign::new("an HTTP response with its headers", "send its body alone")
    } else if starts("--") && text.contains("ontent-") {
        let advice = "send it with its own content type, `multipart/form-data; boundary=...`";
        Foreign::new("a multipart form", advice)
    } else if let Some(name) = base64(text) {
        Foreign::new(format!("base64 text of a {name} image"), DECODE)
    } else if starts("{") || starts("[") {
        Foreign::new("JSON", ANSWER)
    } else {
        Foreign::new("plain text", SEND_BYTES)
    })
}

/// The first characters, if all their bytes are text.
fn head(bytes: &[u8]) -> Option<&str> {
    let head = &bytes[..bytes.len().min(HEAD_BYTES)];
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The cut may be inside a character.
        Err(error) if error.error_len().is_none() && head.len() < bytes.len() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return None,
    };
    let is_control = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\x0C' | '\x1B');
    (!text.contains(is_control)).then_some(text)
}

/// HTML, SVG or XML of another kind, by the names of its first elements.
fn markup(text: &str) -> Foreign {
    let lower = text.to_ascii_lowercase();
    let has = |name: &str| lower.contains(name);
    // An SVG within a page belongs to the page.
    if has("<html") || has("<!doctype html") || has("<head") || has("<body") || has("<script") {
        Foreign::new("an HTML page", ANSWER)
    } else if has("<svg") || has("<!doctype svg") {
        Foreign::new("an SVG drawing", RENDER)
    } else {
        Foreign::new("an XML document", ANSWER)
    }
}

/// The format of an image in base64, in quotes or not: of text that decodes to the first bytes of one.
fn base64(text: &str) -> Option<&'static str> {
    /// As many characters as encode 48 bytes, which is more than any signature needs.
    const CHARACTERS: usize = 64;
    let packed: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace() && !matches!(byte, b'"' | b'\''))
        .take_while(|&byte| byte != b'=')
        .take(CHARACTERS)
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            byte => byte,
        })
        .collect();
    let whole = packed.len() / 4 * 4;
    let bytes = base64_simd::STANDARD_NO_PAD.decode_to_vec(&packed[..whole]).ok()?;
    formats::format(&bytes).map(formats::name)
}
