//! How deep JSON is nested, told without parsing it.

/// Whether arrays and objects stand in each other more than `limit` deep. Brackets in strings nest nothing.
/// What is no JSON at all is for the parser to refuse.
pub(super) fn exceeds(bytes: &[u8], limit: usize) -> bool {
    let mut depth = 0_usize;
    let mut rest = bytes;
    let is_mark = |byte: &u8| matches!(byte, b'"' | b'[' | b'{' | b']' | b'}');
    while let Some(at) = rest.iter().position(is_mark) {
        let mark = rest[at];
        rest = &rest[at + 1..];
        match mark {
            b'"' => rest = behind_string(rest),
            b'[' | b'{' => depth += 1,
            _ => depth = depth.saturating_sub(1),
        }
        if depth > limit {
            return true;
        }
    }
    false
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
            assert!(!exceeds(text.as_bytes(), depth), "{text}");
            assert!(depth == 0 || exceeds(text.as_bytes(), depth - 1), "{text}");
        }
    }
}
