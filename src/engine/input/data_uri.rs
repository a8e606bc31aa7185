//! Data URIs: `data:image/png;base64,...`, as browsers, libraries and people write them.

use super::strip_prefix_ignore_case;

/// The longest head: searching the payload would cost a pass over megabytes.
const MAX_HEAD_BYTES: usize = 512;

/// What follows the head of a data URI, by where it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payload {
    Base64(usize),
    /// Bytes, of which some are written as `%` and two digits (RFC 2397).
    Percent(usize),
    /// Nothing: it has no comma.
    Missing,
}

/// The payload of a data URI; none for what is no data URI. Scheme, media type and `;base64` may be of any case, with
/// blanks and line breaks around them.
pub(super) fn payload(text: &str) -> Option<Payload> {
    let rest = strip_prefix_ignore_case(text.trim_start(), "data:")?;
    let head = &rest.as_bytes()[..rest.len().min(MAX_HEAD_BYTES)];
    let start = |comma: usize| text.len() - rest.len() + comma + 1;
    let mut commas = memchr::memchr_iter(b',', head);
    // A parameter may hold a comma: the head ends at the first one behind the mark.
    let marked = commas.clone().find(|&comma| ends_in_mark(&head[..comma]));
    Some(match marked {
        Some(comma) => Payload::Base64(start(comma)),
        None => commas.next().map_or(Payload::Missing, |comma| Payload::Percent(start(comma))),
    })
}

/// The bytes that a payload without `;base64` stands for.
pub(super) fn percent_decoded(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).filter(|_| byte == b'%');
        let digit = |digit: u8| char::from(digit).to_digit(16);
        let value = digits.and_then(|pair| Some(digit(pair[0])? * 16 + digit(pair[1])?));
        // Two hexadecimal digits are at most 255. A sign without them stands for itself.
        decoded.push(value.map_or(byte, |value| value as u8));
        at += if value.is_some() { 3 } else { 1 };
    }
    decoded
}

/// Whether this is a data URI of an image, or of anything in base64. A caption may begin with `data:` as well.
pub(super) fn is_one(text: &str) -> bool {
    matches!(payload(text), Some(Payload::Base64(_)))
        || strip_prefix_ignore_case(text.trim_start(), "data:image/").is_some()
}

fn ends_in_mark(head: &[u8]) -> bool {
    let head = head.trim_ascii_end();
    let Some((before, mark)) = head.split_last_chunk::<6>() else { return false };
    mark.eq_ignore_ascii_case(b"base64") && before.trim_ascii_end().ends_with(b";")
}
