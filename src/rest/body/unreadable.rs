//! JSON strings that cannot be a text. Some have half of a surrogate pair, as JavaScript and Java write when
//! they cut an emoji in two. Others have bytes that are not UTF-8, from a file in another encoding.
//!
//! A parser refuses the whole body for either. For requests whose items can fail one by one, each such place is
//! replaced with a Unicode noncharacter before parsing, and only the item with this character fails.

use std::cell::Cell;

use bytes::Bytes;

use crate::error::{Code, Error};

thread_local! {
    /// Whether unreadable places are marked in the body that this thread is parsing.
    static MARKED: Cell<bool> = const { Cell::new(false) };
    /// How many marks were found in items.
    static MET: Cell<usize> = const { Cell::new(0) };
}

/// A kind of content that a JSON string can have, but a text cannot.
struct Kind {
    /// Its replacement, a noncharacter. A body that already has this character is refused as a whole.
    stand_in: char,
    /// The error message for the text.
    message: &'static str,
}

const HALF: Kind = Kind {
    stand_in: '\u{fdd0}',
    message: "holds half a surrogate pair (a character that was cut in two), so it is no text",
};
const BYTES: Kind =
    Kind { stand_in: '\u{fdd1}', message: "holds bytes that are not UTF-8, so it is no text" };
const KINDS: [&Kind; 2] = [&HALF, &BYTES];

const HALF_ESCAPE: &[u8; 6] = b"\\ufdd0";
/// The UTF-16 units of the stand-ins.
const STAND_INS: std::ops::RangeInclusive<u16> = 0xfdd0..=0xfdd1;

/// The error message for a string that the JSON parser refused with this message.
pub(super) fn message_of(parser: &str) -> Option<&'static str> {
    if parser.contains("surrogate") || parser.contains("end of hex escape") {
        Some(HALF.message)
    } else if parser.contains("unicode code point") {
        Some(BYTES.message)
    } else {
        None
    }
}

/// Whether an error is about an unreadable string.
pub(super) fn is_cause(error: &Error) -> bool {
    KINDS.iter().any(|kind| kind.message == error.message())
}

/// Maximum number of marked places. It also limits how much longer the body gets.
const MAX_PLACES: usize = 1 << 16;

/// Parses a body with marks at the unreadable places.
///
/// * returns `None` if a mark is outside of an item, or if the rest of the body is also invalid
pub(super) fn parse_marked<T>(bytes: &Bytes, parse: impl FnOnce(&Bytes) -> Option<T>) -> Option<T> {
    /// Resets the flag, even after a panic.
    struct Unmark;
    impl Drop for Unmark {
        fn drop(&mut self) {
            MARKED.set(false);
        }
    }
    let (marked, count) = marked(bytes)?;
    let _unmark = Unmark;
    MARKED.set(true);
    MET.set(0);
    parse(&marked.into()).filter(|_| MET.get() == count)
}

/// Fails if the text of an item has a mark.
pub(in crate::rest) fn check(text: &str) -> Result<(), Error> {
    if !MARKED.get() {
        return Ok(());
    }
    let mut fault = None;
    for kind in KINDS {
        let count = text.matches(kind.stand_in).count();
        MET.set(MET.get() + count);
        if count > 0 {
            fault = fault.or(Some(kind.message));
        }
    }
    fault.map_or(Ok(()), |message| Err(Error::new(Code::InvalidRequest, message)))
}

/// A copy of a body with marks, and the number of marks. `None` if it cannot be marked.
fn marked(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let is_there = |kind: &&Kind| {
        memchr::memmem::find(bytes, kind.stand_in.encode_utf8(&mut [0; 4]).as_bytes()).is_some()
    };
    if KINDS.iter().any(is_there) {
        return None;
    }
    let mut marked = Vec::with_capacity(bytes.len());
    let mut count = 0;
    for chunk in bytes.utf8_chunks() {
        marked.extend_from_slice(chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            marked.extend_from_slice(BYTES.stand_in.encode_utf8(&mut [0; 4]).as_bytes());
            count += 1;
        }
        if count > MAX_PLACES {
            return None;
        }
    }
    let halves = halves(&marked)?;
    for &place in &halves {
        marked[place..place + HALF_ESCAPE.len()].copy_from_slice(HALF_ESCAPE);
    }
    Some((marked, count + halves.len()))
}

/// The positions of the escapes of half surrogate pairs. `None` if they cannot be marked.
fn halves(bytes: &[u8]) -> Option<Vec<usize>> {
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
            Some(unit) if STAND_INS.contains(&unit) => return None,
            Some(_) => 6,
            None => 2,
        };
        at = at.min(bytes.len());
        if places.len() > MAX_PLACES {
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
            assert_eq!(halves(text.as_bytes()), Some(expected), "{text}");
        }
        for text in ["\u{fdd0} \\ud800", "\u{fdd1}", "\\uFDD0 \\ud800", "\\ufdd1"] {
            assert_eq!(marked(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_marked_once_a_sequence() {
        let (text, count) = marked(b"\"a\xff \xe2\x82 \\ud83c\"").expect("marked");
        assert_eq!(String::from_utf8(text).expect("UTF-8"), "\"a\u{fdd1} \u{fdd1} \\ufdd0\"");
        assert_eq!(count, 3);
        assert_eq!(marked(&vec![0xff; MAX_PLACES + 1]), None);
    }
}
