//! Measures the nesting depth and the number of parts of JSON without parsing it.

use std::ops::Range;

use super::null;
use crate::config;

/// Maximum number of strings, arrays and objects in a body. The engine limits the number of items, but only
/// after parsing. 100,000 stored embeddings as strings on each side are well below this limit.
const MAX_PARTS: usize = 1 << 19;
/// Maximum number of bytes that a parsed string, array or object takes, without the characters of the body. It
/// includes the unused capacity of a growing list and its copy while it is moved. A test measures it for every
/// route.
const PART_BYTES: usize = 576;
/// The same for a number. Most numbers are 32-bit floats.
const NUMBER_BYTES: usize = 8;

/// Strings up to this many bytes are never replaced. For these, a parser error that quotes the string costs
/// only milliseconds.
const ALWAYS_KEPT: usize = 1 << 20;

/// The limits for bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rest) struct Bounds {
    depth: usize,
    parts: usize,
    /// Maximum number of bytes of a string that can be a text, with its escapes.
    string: usize,
}

impl Bounds {
    /// For input that was already checked.
    pub(super) const NONE: Self = Self { depth: usize::MAX, parts: usize::MAX, string: usize::MAX };

    /// The limits of a server with this configuration.
    pub(in crate::rest) fn of(limits: &config::Limits) -> Self {
        // The longest escape of one byte has six bytes.
        let string = limits.max_text_bytes.saturating_mul(6).max(ALWAYS_KEPT);
        Self { depth: limits.max_json_depth, parts: MAX_PARTS, string }
    }
}

/// The reason why a body is not parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    /// Arrays and objects are nested deeper than this.
    Depth(usize),
    /// The body has more strings, arrays and objects than this.
    Parts(usize),
}

/// The result of [`measure`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Number of strings, arrays and objects.
    parts: usize,
    /// Number of commas outside of strings. The number of list elements is at most a little higher.
    commas: usize,
    /// The contents of strings that are too long for a text and are no file.
    pub(super) useless: Vec<Range<usize>>,
    /// Object members whose value is null, without the comma next to them.
    pub(super) nulls: Vec<Range<usize>>,
}

impl Found {
    /// Whether the body can be given to the parser unchanged.
    pub(super) fn is_clean(&self) -> bool {
        self.useless.is_empty() && self.nulls.is_empty()
    }

    /// Maximum number of bytes that the parsed values take in addition to the body.
    pub(super) fn parsed_bytes(&self) -> usize {
        self.parts * PART_BYTES + self.commas * NUMBER_BYTES
    }
}

/// Measures a body. Brackets in strings do not count. Invalid JSON is not detected here: the parser refuses it.
///
/// # Errors
/// Fails if the body exceeds a limit.
pub(super) fn measure(bytes: &[u8], bounds: Bounds) -> Result<Found, Excess> {
    // For each enclosing array or object: whether it is an object.
    let mut around = Vec::new();
    let mut found = Found::default();
    let mut rest = bytes;
    let is_mark = |byte: &u8| matches!(byte, b'"' | b'[' | b'{' | b']' | b'}');
    while let Some(at) = rest.iter().position(is_mark) {
        found.commas += memchr::memchr_iter(b',', &rest[..at]).count();
        let mark = rest[at];
        rest = &rest[at + 1..];
        match mark {
            b'"' => {
                let start = bytes.len() - rest.len();
                let behind = behind_string(rest);
                // Without the closing quote.
                let string = &rest[..(rest.len() - behind.len()).saturating_sub(1)];
                if string.len() > bounds.string && !may_be_file(string) {
                    found.useless.push(start..start + string.len());
                }
                rest = behind;
                if around.last() == Some(&true)
                    && let Some(length) = null::value(behind)
                    && null::is_key(&bytes[..start - 1], string)
                {
                    let end = bytes.len() - rest.len() + length;
                    found.nulls.push(start - 1..end);
                }
            }
            b'[' | b'{' => around.push(mark == b'{'),
            _ => {
                around.pop();
                continue;
            }
        }
        found.parts += 1;
        if around.len() > bounds.depth {
            return Err(Excess::Depth(bounds.depth));
        }
        if found.parts > bounds.parts {
            return Err(Excess::Parts(bounds.parts));
        }
    }
    found.commas += memchr::memchr_iter(b',', rest).count();
    Ok(found)
}

/// Whether a string can be the base64 of a file: ASCII, escaped or not. Some encoders escape slashes, and some
/// escape every character that has a meaning in HTML, such as `+` as `\u002B`.
fn may_be_file(string: &[u8]) -> bool {
    let is_ascii =
        |at: usize| matches!(string.get(at + 2..at + 5), Some([b'0', b'0', b'0'..=b'7']));
    string.is_ascii()
        && memchr::memchr(0x7f, string).is_none()
        && memchr::memmem::find_iter(string, b"\\u").all(is_ascii)
}

/// The part after the string in which `rest` begins. Most bytes of a body are base64 in strings, so this uses a
/// fast search instead of a loop over the bytes.
fn behind_string(mut rest: &[u8]) -> &[u8] {
    while let Some(at) = memchr::memchr2(b'"', b'\\', rest) {
        if rest[at] == b'"' {
            return &rest[at + 1..];
        }
        rest = rest.get(at + 2..).unwrap_or_default();
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(depth: usize, parts: usize, string: usize) -> Bounds {
        Bounds { depth, parts, string }
    }

    #[test]
    fn brackets_are_counted_and_strings_are_not() {
        for (text, depth) in [
            ("1", 0),
            ("[]", 1),
            ("{\"a\": [1, {\"b\": []}], \"c\": {}}", 4),
            ("[\"[[[[\", \"\\\"[[[[\", \"\\\\\", [1]]", 2),
            ("[[[", 3),
            ("\"[[[", 0),
            ("\"\\", 0),
            ("]]][", 1),
        ] {
            let found = measure(text.as_bytes(), bounds(depth, 99, 99)).expect(text);
            assert!(found.is_clean(), "{text}");
            let deeper = depth.checked_sub(1);
            let deeper = deeper.map(|depth| measure(text.as_bytes(), bounds(depth, 99, 99)));
            assert_eq!(
                deeper,
                depth.checked_sub(1).map(|depth| Err(Excess::Depth(depth))),
                "{text}"
            );
        }
    }

    #[test]
    fn strings_and_brackets_are_parts_and_numbers_are_none() {
        for (text, parts, commas) in [
            ("1", 0, 0),
            ("[1, 2, 3]", 1, 2),
            ("{\"a\": [\"\", \"\"]}", 5, 1),
            ("[[], [], {}],", 4, 3),
            ("[\"a\\\"b,\", \"[{,\"]", 3, 1),
        ] {
            let found = measure(text.as_bytes(), bounds(9, parts, 99)).expect(text);
            assert_eq!(
                (found.parts, found.commas, found.is_clean()),
                (parts, commas, true),
                "{text}"
            );
            let fewer = parts.checked_sub(1);
            let found = fewer.map(|parts| measure(text.as_bytes(), bounds(9, parts, 99)));
            assert_eq!(found, fewer.map(|parts| Err(Excess::Parts(parts))), "{text}");
        }
    }

    #[test]
    fn a_long_string_is_of_use_only_where_it_may_be_a_file() {
        for (string, of_use) in [
            ("iVBORw0KGgo=", true),
            ("data:image\\/png;base64,iVBOR\\r\\n", true),
            ("iVBORw0KGgo\\u003d\\u002B", true),
            ("a photo of a cat\\u0301", false),
            ("a photo of a \u{e9}l\u{e9}phant", false),
            ("a photo of a \u{7f}", false),
            ("a photo of a cat\\u00", false),
        ] {
            let text = format!("{{\"input\": \"{string}\"}}");
            let inside = 11..11 + string.len();
            let useless = if of_use { vec![] } else { vec![inside] };
            let found = measure(text.as_bytes(), bounds(1, 3, 10)).expect(&text);
            assert_eq!(found.useless, useless, "{text}");
            let found = measure(text.as_bytes(), bounds(1, 3, 99)).expect(&text);
            assert!(found.is_clean(), "{text}");
        }
    }
}
