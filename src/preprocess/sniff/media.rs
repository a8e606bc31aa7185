//! ISO base media files: HEIF's kinds, and videos, which share one structure and differ by their brands.

use super::{Foreign, SEND_BYTES};

const FRAME: &str = "send one of its frames as JPEG or PNG";

/// What a brand says of its file; nothing where it says too little.
fn kind(brand: [u8; 4]) -> Option<Foreign> {
    Some(match &brand {
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"hevm" | b"hevs" => {
            Foreign::image("a HEIC image")
        }
        b"avif" | b"avis" => Foreign::image("an AVIF image"),
        b"avci" | b"avcs" | b"j2ki" | b"jpeg" | b"jpgs" | b"vvic" | b"evbi" => {
            Foreign::image("a HEIF image")
        }
        b"crx " => Foreign::image("a camera's raw file (CR3)"),
        b"qt  " => Foreign::new("a QuickTime video", FRAME),
        b"M4A " | b"M4B " => Foreign::new("an MPEG-4 sound", SEND_BYTES),
        b"isom" | b"iso2" | b"iso3" | b"iso4" | b"iso5" | b"iso6" | b"mp41" | b"mp42" | b"avc1"
        | b"M4V " | b"MSNV" | b"dash" | b"3gp4" | b"3gp5" | b"3gp6" | b"3g2a" => {
            Foreign::new("an MP4 video", FRAME)
        }
        _ => return None,
    })
}

/// The kind of a file that begins with a `ftyp` box, or with a box of QuickTime's.
pub(super) fn find(bytes: &[u8]) -> Option<Foreign> {
    match bytes.get(4..8)? {
        b"ftyp" => {}
        b"moov" | b"mdat" | b"wide" | b"pnot" => {
            return Some(Foreign::new("a QuickTime video", FRAME));
        }
        _ => return None,
    }
    let size = u32::from_be_bytes(*bytes.first_chunk()?);
    let brands = bytes.get(8..).unwrap_or_default();
    let brands = &brands[..brands.len().min((size as usize).saturating_sub(8))];
    let (brands, _) = brands.as_chunks::<4>();
    // The major brand decides. `mif1`, a frame for any coding, leaves it to those that it is compatible with,
    // which stand behind the version: bytes that are no brand.
    let compatible = brands.iter().skip(2).filter_map(|&brand| kind(brand)).next();
    let major = brands.first().and_then(|&brand| kind(brand));
    let any = if brands.iter().any(|brand| matches!(brand, b"mif1" | b"msf1" | b"mif2")) {
        Foreign::image("a HEIF image")
    } else {
        Foreign::new("a file of the MPEG-4 family", SEND_BYTES)
    };
    Some(major.or(compatible).unwrap_or(any))
}
