//! BMP files with 16 bits per pixel whose header declares opacity bits. Pillow and viewers ignore these bits.

use std::borrow::Cow;

/// Offsets of the second header's length, of the bits per pixel, and of the opacity mask.
const HEADER: usize = 14;
const BITS: usize = 28;
const ALPHA_MASK: usize = 66;

/// Returns the file itself, or a copy without the opacity mask.
pub(super) fn opaque(bytes: &[u8]) -> Cow<'_, [u8]> {
    let part = |at: usize, length: usize| bytes.get(at..at + length).unwrap_or_default();
    let has_mask = part(HEADER, 4).first_chunk().is_some_and(|&length| {
        u32::from_le_bytes(length) >= 56 && part(ALPHA_MASK, 4).iter().any(|&byte| byte != 0)
    });
    if !has_mask || part(BITS, 2) != [16, 0] {
        return Cow::Borrowed(bytes);
    }
    let mut copy = bytes.to_vec();
    copy[ALPHA_MASK..ALPHA_MASK + 4].fill(0);
    Cow::Owned(copy)
}
