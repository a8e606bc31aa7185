//! Recognises ISO base media files: the kinds of HEIF, and videos. They share one structure and differ in their
//! brands.

use super::{Foreign, SEND_BYTES};

const FRAME: &str = "send one of its frames as JPEG or PNG";

/// The kinds of HEIF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Heif {
    /// Coded in HEVC.
    Heic,
    /// Coded in AV1.
    Avif,
    /// Another coding, or none is named.
    Other,
}

/// The kind of file that a brand stands for; none if it is not specific.
fn kind(brand: [u8; 4]) -> Option<Result<Heif, Foreign>> {
    Some(match &brand {
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"hevm" | b"hevs" => {
            Ok(Heif::Heic)
        }
        b"avif" | b"avis" => Ok(Heif::Avif),
        b"avci" | b"avcs" | b"j2ki" | b"jpeg" | b"jpgs" | b"vvic" | b"evbi" => Ok(Heif::Other),
        b"crx " => Err(Foreign::image("a camera's raw file (CR3)")),
        b"qt  " => Err(Foreign::new("a QuickTime video", FRAME)),
        b"M4A " | b"M4B " => Err(Foreign::new("an MPEG-4 sound", SEND_BYTES)),
        b"isom" | b"iso2" | b"iso3" | b"iso4" | b"iso5" | b"iso6" | b"mp41" | b"mp42" | b"avc1"
        | b"M4V " | b"MSNV" | b"dash" | b"3gp4" | b"3gp5" | b"3gp6" | b"3g2a" => {
            Err(Foreign::new("an MP4 video", FRAME))
        }
        _ => return None,
    })
}

/// The kind of HEIF of a file; none if it is another file.
#[cfg(any(feature = "heic", feature = "avif"))]
pub(in super::super) fn heif(bytes: &[u8]) -> Option<Heif> {
    file_type(bytes)?.ok()
}

/// The kind of a file with a `ftyp` box.
fn file_type(bytes: &[u8]) -> Option<Result<Heif, Foreign>> {
    if bytes.get(4..8)? != b"ftyp" {
        return None;
    }
    let size = u32::from_be_bytes(*bytes.first_chunk()?);
    let brands = bytes.get(8..).unwrap_or_default();
    let brands = &brands[..brands.len().min((size as usize).saturating_sub(8))];
    let (brands, _) = brands.as_chunks::<4>();
    // The major brand decides. `mif1` stands for any coding, so the compatible brands decide then. They follow
    // the version, whose bytes are not a brand.
    let major = brands.first().and_then(|&brand| kind(brand));
    let compatible = || brands.iter().skip(2).find_map(|&brand| kind(brand));
    let any = || match brands.iter().any(|brand| matches!(brand, b"mif1" | b"msf1" | b"mif2")) {
        true => Ok(Heif::Other),
        false => Err(Foreign::new("a file of the MPEG-4 family", SEND_BYTES)),
    };
    Some(major.or_else(compatible).unwrap_or_else(any))
}

/// The kind of a file that begins with a `ftyp` box, or with a box of QuickTime's.
pub(super) fn find(bytes: &[u8]) -> Option<Foreign> {
    let name = |heif| match heif {
        Heif::Heic => Foreign::image("a HEIC image"),
        Heif::Avif => Foreign::image("an AVIF image"),
        Heif::Other => Foreign::image("a HEIF image"),
    };
    if let Some(file_type) = file_type(bytes) {
        return Some(file_type.map_or_else(|foreign| foreign, name));
    }
    let known = matches!(bytes.get(4..8)?, b"moov" | b"mdat" | b"wide" | b"pnot");
    known.then(|| Foreign::new("a QuickTime video", FRAME))
}
