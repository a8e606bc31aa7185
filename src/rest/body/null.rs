//! Object members that are null count as absent, whatever the field.
//!
//! Many clients send every option that they know, with null for those that are not set. No field of any request
//! has a meaning for null, so these members are overwritten with spaces before parsing. This costs nothing for
//! a body without them.

use std::ops::Range;

fn blanks(bytes: &[u8]) -> usize {
    bytes.len() - bytes.trim_ascii_start().len()
}

/// If the value after a key is null: the length from the key's closing quote to the end of the null.
pub(super) fn value(behind: &[u8]) -> Option<usize> {
    let colon = behind.trim_ascii_start().strip_prefix(b":")?;
    let rest = colon.trim_ascii_start().strip_prefix(b"null")?;
    let is_whole = matches!(rest.get(blanks(rest)), Some(b',' | b'}'));
    is_whole.then_some(behind.len() - rest.len())
}

/// Whether a string is a key. Invalid JSON stays unchanged, so that the parser refuses it.
pub(super) fn is_key(before: &[u8], string: &[u8]) -> bool {
    let is_plain = |byte: &u8| (b' '..=b'~').contains(byte) && *byte != b'\\';
    matches!(before.trim_ascii_end().last(), Some(b'{' | b',')) && string.iter().all(is_plain)
}

/// Overwrites object members with spaces, and the commas that would be left over.
pub(super) fn blank(bytes: &mut [u8], members: &[Range<usize>]) {
    for member in members {
        bytes[member.clone()].fill(b' ');
        let next = member.end + blanks(&bytes[member.end..]);
        if bytes.get(next) == Some(&b',') {
            bytes[next] = b' ';
            continue;
        }
        // The last member of its object: overwrite the comma before it, if there still is one.
        let before = bytes[..member.start].trim_ascii_end();
        if let [earlier @ .., b','] = before
            && !matches!(earlier.trim_ascii_end().last(), Some(b'{' | b','))
        {
            let comma = earlier.len();
            bytes[comma] = b' ';
        }
    }
}
