//! How deep JSON is nested and how much there is in it, told without parsing it.

use crate::config;

/// Most strings, arrays and objects of a body. Items are bounded by the engine, which sees them once they are
/// parsed: an empty string has three bytes in a body, and a hundred in memory. Stored embeddings as strings,
/// a hundred thousand on each side, are well below.
const MAX_PARTS: usize = 1 << 19;

/// Bytes of a string that are always left to the parser, so that the refusal of a text that is too long names it.
const ALWAYS_PARSED: usize = 1 << 20;

/// What bodies are measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rest) struct Bounds {
    depth: usize,
    parts: usize,
    /// Bytes of a text, without escapes.
    text: usize,
    /// Bytes of a string that may be such a text, as it stands in the body.
    string: usize,
}

impl Bounds {
    /// Of a server with these limits.
    pub(in crate::rest) fn of(limits: &config::Limits) -> Self {
        let text = limits.max_text_bytes;
        // The longest escape of one byte has six.
        let string = text.saturating_mul(6).max(ALWAYS_PARSED);
        Self { depth: limits.max_json_depth, parts: MAX_PARTS, text, string }
    }
}

/// Why a body is not parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    /// A string is longer than a text may be, which this is, and no picture. A parser that finds it in the wrong
    /// place would quote it: with what it escapes that is several times its length, and seconds of work.
    Text(usize),
    /// Arrays and objects stand in each other more than this deep.
    Depth(usize),
    /// More strings, arrays and objects than this.
    Parts(usize),
}

/// Whether a body is more than a parser shall see. Brackets in strings nest nothing. What is no JSON at all is
/// for the parser to refuse.
pub(super) fn excess(bytes: &[u8], bounds: Bounds) -> Option<Excess> {
    let (mut depth, mut parts) = (0_usize, 0_usize);
    let mut rest = bytes;
    let is_mark = |byte: &u8| matches!(byte, b'"' | b'[' | b'{' | b']' | b'}');
    while let Some(at) = rest.iter().position(is_mark) {
        let mark = rest[at];
        rest = &rest[at + 1..];
        match mark {
            b'"' => {
                let behind = behind_string(rest);
                let string = &rest[..rest.len() - behind.len()];
                if string.len() > bounds.string && !may_be_file(string) {
                    return Some(Excess::Text(bounds.text));
                }
                rest = behind;
            }
            b'[' | b'{' => depth += 1,
            _ => {
                depth = depth.saturating_sub(1);
                continue;
            }
        }
        parts += 1;
        if depth > bounds.depth {
            return Some(Excess::Depth(bounds.depth));
        }
        if parts > bounds.parts {
            return Some(Excess::Parts(bounds.parts));
        }
    }
    None
}

/// Whether a string may be the base64 of a file: plain ASCII, of which only slashes and ends of lines are escaped,
/// and those by two characters.
fn may_be_file(string: &[u8]) -> bool {
    string.is_ascii()
        && memchr::memchr(0x7f, string).is_none()
        && memchr::memmem::find(string, b"\\u").is_none()
}

/// What stands behind the string that `rest` begins in. Most bytes of a body are base64 in strings, so
/// they are searched, not walked through.
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
        Bounds { depth, parts, text: 7, string }
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
            assert_eq!(excess(text.as_bytes(), bounds(depth, 99, 99)), None, "{text}");
            let deeper = depth.checked_sub(1);
            let deeper = deeper.map(|depth| excess(text.as_bytes(), bounds(depth, 99, 99)));
            assert_eq!(
                deeper,
                depth.checked_sub(1).map(|depth| Some(Excess::Depth(depth))),
                "{text}"
            );
        }
    }

    #[test]
    fn strings_and_brackets_are_parts_and_numbers_are_none() {
        for (text, parts) in [
            ("1", 0),
            ("[1, 2, 3]", 1),
            ("{\"a\": [\"\", \"\"]}", 5),
            ("[[], [], {}]", 4),
            ("[\"a\\\"b\", \"[{\"]", 3),
        ] {
            assert_eq!(excess(text.as_bytes(), bounds(9, parts, 99)), None, "{text}");
            let fewer = parts.checked_sub(1);
            let found = fewer.map(|parts| excess(text.as_bytes(), bounds(9, parts, 99)));
            assert_eq!(found, fewer.map(|parts| Some(Excess::Parts(parts))), "{text}");
        }
    }

    #[test]
    fn a_long_string_is_left_to_the_parser_only_where_it_may_be_a_file() {
        for (string, parsed) in [
            ("iVBORw0KGgo=", true),
            ("data:image\\/png;base64,iVBOR\\r\\n", true),
            ("a photo of a cat\\u0021", false),
            ("a photo of a \u{e9}l\u{e9}phant", false),
            ("a photo of a \u{7f}", false),
        ] {
            let text = format!("{{\"input\": \"{string}\"}}");
            let long = (!parsed).then_some(Excess::Text(7));
            assert_eq!(excess(text.as_bytes(), bounds(1, 3, 10)), long, "{text}");
            assert_eq!(excess(text.as_bytes(), bounds(1, 3, 99)), None, "{text}");
        }
    }
}
