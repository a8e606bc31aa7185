//! Recognises a file that is not what its name says.

use serde::de::IgnoredAny;
use serde_json::{Value, error::Category};

/// Maximum number of bytes of a value or a file that a message quotes.
const MAX_SHOWN_BYTES: usize = 60;
/// A pointer of Git LFS is shorter than this.
const MAX_POINTER_BYTES: usize = 1024;

/// Describes the fault in a file's content. The message follows the file's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReadError(String);

impl ReadError {
    /// Makes an error from a message in lower case, without a full stop.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Recognises what is often in the place of a file: nothing, a pointer of Git LFS, a page of HTML or XML.
///
/// # Errors
/// Says what the content is, and where to get the file itself.
pub fn check(bytes: &[u8]) -> Result<(), ReadError> {
    if bytes.is_empty() {
        return Err(ReadError::new("the file is empty"));
    }
    let head = &bytes[..bytes.len().min(MAX_POINTER_BYTES)];
    if head.starts_with(b"version https://git-lfs.github.com/spec/") {
        let text = String::from_utf8_lossy(head);
        let size = text.lines().find_map(|line| line.strip_prefix("size "));
        let size = size.map(|size| format!(" of {} bytes", size.trim()));
        return Err(ReadError::new(format!(
            "this is a Git LFS pointer, not the file{} that it stands for: fetch that with `git lfs pull`",
            size.unwrap_or_default()
        )));
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let begins = |with: &str| {
        text.get(..with.len()).is_some_and(|head| head.eq_ignore_ascii_case(with.as_bytes()))
    };
    let what = if ["<!doctype html", "<html", "<head", "<body"].into_iter().any(begins) {
        "an HTML page"
    } else if begins("<?xml") || begins("<error") {
        "an XML document"
    } else {
        return Ok(());
    };
    Err(ReadError::new(format!(
        "this is {what}, not the file: a page of an error or a login was saved in its place; download it again"
    )))
}

/// Reads a JSON file.
///
/// # Errors
/// Says what the file is, or at which place it is not JSON.
pub fn json(bytes: &[u8]) -> Result<Value, ReadError> {
    check(bytes)?;
    serde_json::from_slice(bytes).map_err(|error| not_json(bytes, &error))
}

/// Checks that a file is JSON, for readers whose own errors do not say it.
///
/// # Errors
/// As [`json`].
pub fn check_json(bytes: &[u8]) -> Result<(), ReadError> {
    check(bytes)?;
    match serde_json::from_slice::<IgnoredAny>(bytes) {
        Ok(IgnoredAny) => Ok(()),
        Err(error) => Err(not_json(bytes, &error)),
    }
}

fn not_json(bytes: &[u8], error: &serde_json::Error) -> ReadError {
    let (line, column) = (error.line(), error.column());
    if error.classify() == Category::Eof {
        return ReadError::new(format!(
            "the JSON is cut short: it ends inside of a value at line {line}"
        ));
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return ReadError::new(
            "the JSON begins with a byte order mark; save it as UTF-8 without one",
        );
    }
    let text = bytes.trim_ascii_start();
    if !text.starts_with(b"{") {
        let head = String::from_utf8_lossy(&text[..text.len().min(MAX_SHOWN_BYTES)]).into_owned();
        return ReadError::new(format!("this is not JSON: it begins with {head:?}"));
    }
    ReadError::new(format!("this is not valid JSON: see line {line}, column {column}"))
}

/// A value as messages quote it, cut if it is long.
#[must_use]
pub fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.len() <= MAX_SHOWN_BYTES {
        return text;
    }
    format!("{}...", &text[..text.floor_char_boundary(MAX_SHOWN_BYTES)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_a_files_place_is_recognised() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 815\n";
        for (bytes, expected) in [
            ("", "the file is empty"),
            (pointer, "this is a Git LFS pointer, not the file of 815 bytes that it stands for"),
            (pointer, "`git lfs pull`"),
            ("<!DOCTYPE html><html>", "this is an HTML page"),
            ("\u{feff}\n <HTML lang=en>", "this is an HTML page"),
            ("<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>", "this is an XML document"),
            ("Entry not found", "this is not JSON: it begins with \"Entry not found\""),
            ("{\"a\": [1, 2", "the JSON is cut short"),
            ("{", "the JSON is cut short"),
            ("{\"a\": 1,\n \"b\" 2}", "this is not valid JSON: see line 2, column 6"),
            ("\u{feff}{}", "byte order mark"),
        ] {
            let error = json(bytes.as_bytes()).expect_err(bytes).to_string();
            assert!(error.contains(expected), "{bytes}: {error}");
            assert_eq!(check_json(bytes.as_bytes()).expect_err(bytes).to_string(), error);
        }
        assert!(json(b"{}").is_ok() && check_json(b" []").is_ok());
    }

    #[test]
    fn values_are_quoted_short() {
        assert_eq!(shown(&Value::from("a\"b")), r#""a\"b""#);
        let long = shown(&Value::from("é".repeat(100)));
        assert!(long.len() <= MAX_SHOWN_BYTES + 3 && long.ends_with("..."), "{long}");
    }
}
