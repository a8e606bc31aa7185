//! How deep JSON is nested and how much there is in it, told without parsing it.

/// Most strings, arrays and objects of a body. Items are bounded by the engine, which sees them once they are
/// parsed: an empty string has three bytes in a body, and a hundred in memory. Stored embeddings as strings,
/// a hundred thousand on each side, are well below.
const MAX_PARTS: usize = 1 << 19;

/// Why a body is not parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    /// Arrays and objects stand in each other more than this deep.
    Depth(usize),
    /// More strings, arrays and objects than this.
    Parts(usize),
}

/// Whether a body is more than a parser shall see. Brackets in strings nest nothing. What is no JSON at all is
/// for the parser to refuse.
pub(super) fn excess(bytes: &[u8], max_depth: usize) -> Option<Excess> {
    scan(bytes, max_depth, MAX_PARTS)
}

fn scan(bytes: &[u8], max_depth: usize, max_parts: usize) -> Option<Excess> {
    let (mut depth, mut parts) = (0_usize, 0_usize);
    let mut rest = bytes;
    let is_mark = |byte: &u8| matches!(byte, b'"' | b'[' | b'{' | b']' | b'}');
    while let Some(at) = rest.iter().position(is_mark) {
        let mark = rest[at];
        rest = &rest[at + 1..];
        match mark {
            b'"' => rest = behind_string(rest),
            b'[' | b'{' => depth += 1,
            _ => {
                depth = depth.saturating_sub(1);
                continue;
            }
        }
        parts += 1;
        if depth > max_depth {
            return Some(Excess::Depth(max_depth));
        }
        if parts > max_parts {
            return Some(Excess::Parts(max_parts));
        }
    }
    None
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
            assert_eq!(excess(text.as_bytes(), depth), None, "{text}");
            let deeper = depth.checked_sub(1).map(|depth| scan(text.as_bytes(), depth, 99));
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
            assert_eq!(scan(text.as_bytes(), 9, parts), None, "{text}");
            let fewer = parts.checked_sub(1);
            let found = fewer.map(|parts| scan(text.as_bytes(), 9, parts));
            assert_eq!(found, fewer.map(|parts| Some(Excess::Parts(parts))), "{text}");
        }
    }
}
