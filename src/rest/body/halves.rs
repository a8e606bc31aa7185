//! Half a surrogate pair: an emoji that was cut in two, as JavaScript and Java do it. JSON can write it, no text
//! can hold it.
//!
//! A parser refuses the whole body for it. Where items fail one by one, each half is replaced by a character that
//! Unicode keeps for such uses, and the item that has it fails alone.

use std::cell::Cell;

use bytes::{Bytes, BytesMut};

use crate::error::{Code, Error};

thread_local! {
    /// Whether halves are marked in the body that this thread is parsing.
    static MARKED: Cell<bool> = const { Cell::new(false) };
    /// How many of them were met in items.
    static MET: Cell<usize> = const { Cell::new(0) };
}

/// Why a text is refused.
pub(super) const MESSAGE: &str =
    "holds half a surrogate pair (a character that was cut in two), so it is no text";

/// What a half is replaced by: a noncharacter. A body that has it already is refused as a whole.
const STAND_IN: char = '\u{fdd0}';
const STAND_IN_UNIT: u16 = 0xfdd0;
const STAND_IN_ESCAPE: &[u8; 6] = b"\\ufdd0";

/// Most halves that are told apart.
const MAX_HALVES: usize = 1 << 16;

/// Parses a body in which halves are marked.
///
/// * returns none if a half stands elsewhere than in an item, or if the rest is faulty too
pub(super) fn parse_marked<T>(bytes: &Bytes, parse: impl FnOnce(&Bytes) -> Option<T>) -> Option<T> {
    /// Forgets the mark, after a panic too.
    struct Unmark;
    impl Drop for Unmark {
        fn drop(&mut self) {
            MARKED.set(false);
        }
    }
    let places = places(bytes)?;
    let mut marked = BytesMut::from(&bytes[..]);
    for &place in &places {
        marked[place..place + STAND_IN_ESCAPE.len()].copy_from_slice(STAND_IN_ESCAPE);
    }
    let _unmark = Unmark;
    MARKED.set(true);
    MET.set(0);
    parse(&marked.freeze()).filter(|_| MET.get() == places.len())
}

/// Why an item's text is none, where halves in it were marked.
pub(in crate::rest) fn check(text: &str) -> Result<(), Error> {
    let count = if MARKED.get() { text.matches(STAND_IN).count() } else { 0 };
    if count == 0 {
        return Ok(());
    }
    MET.set(MET.get() + count);
    Err(Error::new(Code::InvalidRequest, MESSAGE))
}

/// Where the escapes of halves stand; none if they cannot be marked.
fn places(bytes: &[u8]) -> Option<Vec<usize>> {
    if memchr::memmem::find(bytes, STAND_IN.encode_utf8(&mut [0; 4]).as_bytes()).is_some() {
        return None;
    }
    let unit = |at: usize| {
        let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut places = Vec::new();
    let mut at = 0;
    while let Some(next) = memchr::memchr(b'\\', &bytes[at..]) {
        at += next;
        at += match unit(at) {
            Some(0xd800..=0xdbff) if matches!(unit(at + 6), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => {
                places.push(at);
                6
            }
            Some(STAND_IN_UNIT) => return None,
            Some(_) => 6,
            None => 2,
        };
        at = at.min(bytes.len());
        if places.len() > MAX_HALVES {
            return None;
        }
    }
    Some(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_found_and_pairs_are_not() {
        for (text, expected) in [
            ("[\"\\ud83c\\udf33\", \"a \\ud83c\"]", vec![20]),
            ("\"\\\\ud83c\"", vec![]),
            ("\"\\udc00\\ud800\"", vec![1, 7]),
            ("\"\\ud800\\ud83c\\udf33\\u00e9\"", vec![1]),
            ("\"\\ud8", vec![]),
            ("\\", vec![]),
        ] {
            assert_eq!(places(text.as_bytes()), Some(expected), "{text}");
        }
        assert_eq!(places("\u{fdd0} \\ud800".as_bytes()), None);
        assert_eq!(places(b"\\uFDD0 \\ud800"), None);
    }
}
