//! Members that are null: they are absent, whatever field they name.
//!
//! Many clients write every option that they know and null where none was chosen. No field of any request has a
//! meaning for null, so such members are blanked before the parser comes, at no cost where there are none.

use std::ops::Range;

fn blanks(bytes: &[u8]) -> usize {
    bytes.len() - bytes.trim_ascii_start().len()
}

/// How long the null is that stands as a value behind a key, from the key's last quote to its own end.
pub(super) fn value(behind: &[u8]) -> Option<usize> {
    let colon = behind.trim_ascii_start().strip_prefix(b":")?;
    let rest = colon.trim_ascii_start().strip_prefix(b"null")?;
    let is_whole = matches!(rest.get(blanks(rest)), Some(b',' | b'}'));
    is_whole.then_some(behind.len() - rest.len())
}

/// Whether a string is a key: what is no JSON stays as it is for the parser to refuse.
pub(super) fn is_key(before: &[u8], string: &[u8]) -> bool {
    let is_plain = |byte: &u8| (b' '..=b'~').contains(byte) && *byte != b'\\';
    matches!(before.trim_ascii_end().last(), Some(b'{' | b',')) && string.iter().all(is_plain)
}

/// Writes blanks over members of objects, and over the commas that would be too many.
pub(super) fn blank(bytes: &mut [u8], members: &[Range<usize>]) {
    for member in members {
        bytes[member.clone()].fill(b' ');
        let next = member.end + blanks(&bytes[member.end..]);
        if bytes.get(next) == Some(&b',') {
            bytes[next] = b' ';
            continue;
        }
        // The last of its object: the comma before it goes, where one is left.
        let before = bytes[..member.start].trim_ascii_end();
        if let [earlier @ .., b','] = before
            && !matches!(earlier.trim_ascii_end().last(), Some(b'{' | b','))
        {
            let comma = earlier.len();
            bytes[comma] = b' ';
        }
    }
}
