//! Recognises cameras' raw files. Most are TIFF files whose first image is a tiny preview, so reading them as
//! TIFF would give the vector of the preview.

use super::Foreign;

/// Maximum number of tags of the first directory that are read; no camera writes more.
const MAX_TAGS: usize = 256;

/// Recognises a camera's raw file that is also a TIFF file.
pub(in super::super) fn camera_raw(bytes: &[u8]) -> Option<Foreign> {
    // Canon's mark is at a place where other TIFF files may have any bytes.
    if bytes.get(8..10) == Some(b"CR") && bytes.starts_with(b"II*\0") {
        return Some(Foreign::image("a camera's raw file (CR2)"));
    }
    let directory = Directory::first(bytes)?;
    const NEW_SUBFILE_TYPE: u16 = 254;
    const SUB_IFDS: u16 = 330;
    const DNG_VERSION: u16 = 50_706;
    if directory.value(DNG_VERSION).is_some() {
        return Some(Foreign::image("a camera's raw file (DNG)"));
    }
    // Nikon, Sony and Pentax write a reduced image first, and the photograph in a directory below it.
    let reduced = directory.value(NEW_SUBFILE_TYPE).is_some_and(|value| value & 1 == 1);
    (reduced && directory.value(SUB_IFDS).is_some())
        .then(|| Foreign::image("a camera's raw file (NEF, ARW or the like)"))
}

/// Recognises a camera's raw file with its own signature.
pub(super) fn other_raw(bytes: &[u8]) -> Option<Foreign> {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    let what = if starts(b"IIRO") || starts(b"IIRS") || starts(b"MMOR") {
        "a camera's raw file (ORF)"
    } else if starts(b"IIU\0") {
        "a camera's raw file (RW2)"
    } else if starts(b"FUJIFILMCCD-RAW") {
        "a camera's raw file (RAF)"
    } else if starts(b"FOVb") {
        "a camera's raw file (X3F)"
    } else if starts(b"\0MRM") {
        "a camera's raw file (MRW)"
    } else if bytes.get(6..14) == Some(b"HEAPCCDR") {
        "a camera's raw file (CRW)"
    } else {
        return None;
    };
    Some(Foreign::image(what))
}

/// The entries of a TIFF file's first directory.
struct Directory<'b> {
    entries: &'b [[u8; 12]],
    little: bool,
}

impl<'b> Directory<'b> {
    fn first(bytes: &'b [u8]) -> Option<Self> {
        let little = match bytes.first_chunk()? {
            b"II*\0" => true,
            b"MM\0*" => false,
            _ => return None,
        };
        let offset = *bytes.get(4..8)?.first_chunk()?;
        let offset = if little { u32::from_le_bytes(offset) } else { u32::from_be_bytes(offset) };
        let directory = bytes.get(usize::try_from(offset).ok()?..)?;
        let count = short(*directory.first_chunk()?, little);
        let (entries, _) = directory.get(2..)?.as_chunks::<12>();
        let count = usize::from(count).min(MAX_TAGS).min(entries.len());
        Some(Self { entries: &entries[..count], little })
    }

    /// The first number in a tag's entry, of at most 32 bits.
    fn value(&self, tag: u16) -> Option<u32> {
        const SHORT: u16 = 3;
        let entry =
            self.entries.iter().find(|entry| short([entry[0], entry[1]], self.little) == tag)?;
        let value = [entry[8], entry[9], entry[10], entry[11]];
        Some(match (short([entry[2], entry[3]], self.little), self.little) {
            (SHORT, little) => u32::from(short([value[0], value[1]], little)),
            (_, true) => u32::from_le_bytes(value),
            (_, false) => u32::from_be_bytes(value),
        })
    }
}

fn short(bytes: [u8; 2], little: bool) -> u16 {
    if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) }
}
