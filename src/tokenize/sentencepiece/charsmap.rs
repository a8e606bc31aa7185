//! SentencePiece's precompiled replacements (NFKC and the like): a double-array trie from prefixes of a text to
//! their replacements.

/// Maximum number of bytes of one replacement. The longest of Unicode's has 33.
const MAX_REPLACEMENT_BYTES: usize = 64;

/// A double-array trie in the layout of darts-clone, and the texts that its values point to.
#[derive(Debug)]
pub(in crate::tokenize) struct Charsmap {
    units: Vec<u32>,
    /// Each text ends with a zero byte.
    replacements: String,
}

impl Charsmap {
    /// * `bytes`: the trie's size in bytes (u32), its units (u32 each), the replacements
    ///
    /// # Errors
    /// Says that the map is damaged, or that it would make a text far longer.
    pub(in crate::tokenize) fn read(bytes: &[u8]) -> Result<Self, String> {
        let damaged = || "its precompiled_charsmap is damaged".to_owned();
        let (size, rest) = bytes.split_first_chunk().ok_or_else(damaged)?;
        let size = usize::try_from(u32::from_le_bytes(*size)).map_err(|_| damaged())?;
        let (trie, replacements) = rest.split_at_checked(size).ok_or_else(damaged)?;
        let (units, []) = trie.as_chunks() else { return Err(damaged()) };
        let replacements = String::from_utf8(replacements.to_vec()).map_err(|_| damaged())?;
        if replacements.split('\0').any(|text| text.len() > MAX_REPLACEMENT_BYTES) {
            let message = "its precompiled_charsmap has a replacement of more than";
            return Err(format!("{message} {MAX_REPLACEMENT_BYTES} bytes"));
        }
        Ok(Self {
            units: units.iter().map(|&unit| u32::from_le_bytes(unit)).collect(),
            replacements,
        })
    }

    /// The replacement of the longest prefix of `text` that has one, and the prefix's length in bytes.
    pub(super) fn longest(&self, text: &str) -> Option<(&str, usize)> {
        let mut found = None;
        let mut at = offset(*self.units.first()?);
        for (length, byte) in text.bytes().enumerate() {
            at ^= usize::from(byte);
            let Some(&unit) = self.units.get(at) else { break };
            if label(unit) != u32::from(byte) {
                break;
            }
            at ^= offset(unit);
            if has_leaf(unit) {
                let value = self.units.get(at).map_or(0, |&unit| unit & 0x7FFF_FFFF);
                found = Some((value as usize, length + 1));
            }
        }
        // A prefix that ends inside a character is a fault of the file and is ignored.
        let (start, length) = found.filter(|&(_, length)| text.is_char_boundary(length))?;
        let replacement = self.replacements.get(start..)?;
        Some((replacement.split('\0').next().unwrap_or_default(), length))
    }
}

/// The offset of a node's children, which is combined by exclusive or.
fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize
}

/// The byte that leads to a node. The value of a leaf has a bit that no byte has.
fn label(unit: u32) -> u32 {
    unit & (0x8000_0000 | 0xFF)
}

fn has_leaf(unit: u32) -> bool {
    unit >> 8 & 1 == 1
}
