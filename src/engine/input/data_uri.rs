//! Data URIs: `data:image/png;base64,...`, as browsers, libraries and people write them.

use super::strip_prefix_ignore_case;

/// The longest head: searching the payload would cost a pass over megabytes.
const MAX_HEAD_BYTES: usize = 512;

/// Where the payload of a data URI begins; `None` inside for one that is not base64, outside for what is no data
/// URI. Scheme, media type and `;base64` may be of any case, with blanks and line breaks around them.
pub(super) fn payload(text: &str) -> Option<Option<usize>> {
    let rest = strip_prefix_ignore_case(text.trim_start(), "data:")?;
    let head = &rest.as_bytes()[..rest.len().min(MAX_HEAD_BYTES)];
    // A parameter may hold a comma: the head ends at the first one behind the mark.
    let end = memchr::memchr_iter(b',', head).find(|&comma| ends_in_mark(&head[..comma]));
    Some(end.map(|comma| text.len() - rest.len() + comma + 1))
}

/// Whether this is a data URI of an image, or of anything in base64. A caption may begin with `data:` as well.
pub(super) fn is_one(text: &str) -> bool {
    payload(text).is_some_and(|start| start.is_some())
        || strip_prefix_ignore_case(text.trim_start(), "data:image/").is_some()
}

fn ends_in_mark(head: &[u8]) -> bool {
    let head = head.trim_ascii_end();
    let Some((before, mark)) = head.split_last_chunk::<6>() else { return false };
    mark.eq_ignore_ascii_case(b"base64") && before.trim_ascii_end().ends_with(b";")
}
