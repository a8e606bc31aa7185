//! Checks the name of each kind of file with a made-up beginning.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::*;

const PNG: &[u8] = b"\x89PNG\r\n\x1A\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0";

/// A `ftyp` box.
fn brands(major: &str, compatible: &str) -> Vec<u8> {
    let size = 16 + compatible.len() as u32;
    [&size.to_be_bytes()[..], b"ftyp", major.as_bytes(), b"\0\0\0\0", compatible.as_bytes()]
        .concat()
}

/// The name of bytes in builds that do not read them.
fn called(bytes: &[u8]) -> String {
    name(bytes).what.map(Cow::into_owned).unwrap_or_default()
}

#[test]
fn image_files_of_other_kinds_are_named() {
    for (bytes, name) in [
        (brands("heic", "mif1heic"), "a HEIC image"),
        (brands("mif1", "mif1heicmiaf"), "a HEIC image"),
        (brands("msf1", "hevcmsf1"), "a HEIC image"),
        (brands("heix", ""), "a HEIC image"),
        (brands("avif", "avifmif1miaf"), "an AVIF image"),
        (brands("mif1", "avifmif1"), "an AVIF image"),
        (brands("avis", "msf1"), "an AVIF image"),
        (brands("mif1", "miaf"), "a HEIF image"),
        (brands("avci", "mif1"), "a HEIF image"),
        (brands("crx ", "isom"), "a camera's raw file (CR3)"),
        (brands("isom", "iso2avc1mp41"), "an MP4 video"),
        (brands("qt  ", ""), "a QuickTime video"),
        (brands("zzzz", "mp42"), "an MP4 video"),
        (brands("zzzz", ""), "a file of the MPEG-4 family"),
        (b"\0\0\0\x08wide\0\0\x10\0mdat".to_vec(), "a QuickTime video"),
        (b"\0\0\0\x0CJXL \r\n\x87\n\0\0\0\x14ftypjxl ".to_vec(), "a JPEG XL image"),
        (b"\xFF\x0A\xFA\x1F\x41\x91\x08\x06\x01\0\x48\0".to_vec(), "a JPEG XL image"),
        (b"\0\0\0\x0CjP  \r\n\x87\n".to_vec(), "a JPEG 2000 image"),
        (b"\xFF\x4F\xFF\x51\0\x2F\0\0\0\0\0\x40".to_vec(), "a JPEG 2000 image"),
        (b"8BPS\0\x01\0\0\0\0\0\0\0\x03".to_vec(), "a Photoshop document (PSD)"),
        (b"\0\0\x01\0\x01\0\x10\x10\0\0\x01\0".to_vec(), "an icon (ICO)"),
        (b"\0\0\x02\0\x01\0\x10\x10\0\0\x01\0".to_vec(), "a cursor (CUR)"),
        (b"\0\0\x02\0\0\0\0\0\0\0\0\0\x10\0\x10\0\x18\0".to_vec(), "a Targa image (TGA)"),
        (b"P6\n2 2\n255\n\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(), "a PPM image"),
        (b"%PDF-1.7\n%\xE2\xE3\xCF\xD3\n".to_vec(), "a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n".to_vec(), "a PostScript file"),
        (b"\xC5\xD0\xD3\xC6\x20\0\0\0\0\0\0\0".to_vec(), "an EPS file"),
        (b"\x1A\x45\xDF\xA3\x01\0\0\0\0\0\0\x1F".to_vec(), "a WebM or Matroska video"),
        (b"RIFF\x24\0\0\0AVI LIST".to_vec(), "an AVI video"),
        (b"RIFF\x24\0\0\0WAVEfmt ".to_vec(), "a WAVE sound"),
        (b"IIRO\x08\0\0\0\0\0\0\0".to_vec(), "a camera's raw file (ORF)"),
        (b"FUJIFILMCCD-RAW 0201".to_vec(), "a camera's raw file (RAF)"),
        (b"PK\x03\x04\x14\0\0\0\x08\0\0\0".to_vec(), "a ZIP archive, or an office document in one"),
        (b"\x1F\x8B\x08\0\0\0\0\0\0\x03".to_vec(), "gzip-compressed data"),
    ] {
        assert_eq!(called(&bytes), name, "{}", bytes.escape_ascii());
    }
}

#[test]
fn texts_are_named() {
    let encoded = BASE64_STANDARD.encode(PNG);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    let form = "--x\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\nx";
    for (text, name) in [
        (pointer, "a Git LFS pointer"),
        ("<!DOCTYPE html><title>Not found</title>", "an HTML page"),
        ("\u{FEFF}\n <HTML><body><svg/></body></HTML>", "an HTML page"),
        ("<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        ("<?xml version='1.0'?>\n<!-- x -->\n<svg width='2'/>", "an SVG drawing"),
        ("<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML document"),
        ("{\"error\": \"not found\"}", "JSON"),
        (" [1, 2, 3, 4, 5, 6]", "JSON"),
        ("https://example.com/cat.png", "a URL"),
        ("data:image/png;base64,iVBORw0KGgo=", "a data URI"),
        (&encoded, "base64 text of a PNG image"),
        (&format!("\"{encoded}\"\n"), "base64 text of a PNG image"),
        ("/9j/4AAQSkZJRgABAQ==", "base64 text of a JPEG image"),
        ("_9j_4AAQSkZJRgABAQ", "base64 text of a JPEG image"),
        ("\\x89504e470d0a1a0a", "a PNG image in hexadecimal"),
        ("b'\\x89PNG\\r\\n\\x1a\\n'", "a PNG image as Python prints bytes"),
        (form, "a multipart form"),
        ("HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n", "an HTTP response with its headers"),
        ("a cat", "plain text"),
        ("고양이", "plain text"),
        (" \n", "nothing but blanks"),
    ] {
        assert_eq!(called(text.as_bytes()), name, "{text}");
    }
    // A long text may be cut within a character.
    assert_eq!(called("고".repeat(4000).as_bytes()), "plain text");
    assert_eq!(called("é".repeat(4000).as_bytes()), "plain text");
    assert_eq!(called(b"\xFF\xFE<\0h\0t\0m\0l\0"), "text in UTF-16");
}

#[test]
fn images_that_were_taken_for_text_are_named() {
    let lossy = String::from_utf8_lossy(PNG).into_owned();
    let latin: String = PNG.iter().map(|&byte| char::from(byte)).collect();
    let lines = [b"\x89PNG\n\x1A\n", &PNG[8..]].concat();
    for bytes in [lossy.as_bytes(), latin.as_bytes(), &lines] {
        assert_eq!(called(bytes), "a PNG image that was damaged on its way");
    }
    let jpeg = b"\xFF\xD8\xFF\xE0\0\x10JFIF\0\x01";
    let lossy = String::from_utf8_lossy(jpeg).into_owned();
    assert_eq!(called(lossy.as_bytes()), "a JPEG image that was damaged on its way");
}

#[test]
fn what_is_left_of_a_file_is_named() {
    assert_eq!(called(b""), "an empty file");
    assert_eq!(called(&[0; 4096]), "a run of zeros");
    assert_eq!(called(b"\x89PN"), "a file of only 3 bytes");
    assert_eq!(called(b"\x12\x00\xFE\x34\x00\x99\x00\x01\x02\x03\x04\x05\x06"), "");
}

#[test]
fn a_message_says_what_came_and_what_to_do() {
    assert_eq!(
        name(&brands("heic", "mif1")).to_string(),
        format!(
            "this is a HEIC image, not an image in a supported format ({Listed}): \
             convert it to JPEG or PNG"
        )
    );
    assert_eq!(
        name(b"\x12\x00\xFE\x34\x00\x99\x00\x01\x02\x03\x04\x05\x06").to_string(),
        format!("the bytes are not a supported image format ({Listed})")
    );
}

/// A TIFF header and a directory of `(tag, type, value)`.
fn tiff(little: bool, entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let short = |value: u16| if little { value.to_le_bytes() } else { value.to_be_bytes() };
    let long = |value: u32| if little { value.to_le_bytes() } else { value.to_be_bytes() };
    let mut bytes = if little { b"II*\0".to_vec() } else { b"MM\0*".to_vec() };
    bytes.extend(long(8));
    bytes.extend(short(entries.len() as u16));
    for &(tag, kind, value) in entries {
        bytes.extend(short(tag).into_iter().chain(short(kind)).chain(long(1)));
        match kind {
            3 => bytes.extend(short(value as u16).into_iter().chain([0, 0])),
            _ => bytes.extend(long(value)),
        }
    }
    bytes.extend([0; 4]);
    bytes
}

#[test]
fn raw_files_are_told_from_tiff() {
    let what = |bytes: &[u8]| camera_raw(bytes).and_then(|foreign| foreign.what);
    for little in [true, false] {
        // A reduced image, and the photograph in a directory below it.
        let nef = tiff(little, &[(254, 4, 1), (256, 3, 160), (330, 4, 200)]);
        assert_eq!(what(&nef).as_deref(), Some("a camera's raw file (NEF, ARW or the like)"));
        let dng = tiff(little, &[(254, 4, 0), (50_706, 1, 0x0104_0000)]);
        assert_eq!(what(&dng).as_deref(), Some("a camera's raw file (DNG)"));
        // A whole image with smaller copies of it below, and a reduced image alone, are TIFF.
        assert_eq!(what(&tiff(little, &[(254, 4, 0), (330, 4, 200)])), None);
        assert_eq!(what(&tiff(little, &[(254, 4, 1), (256, 3, 160)])), None);
    }
    let cr2 = b"II*\0\x10\0\0\0CR\x02\0\0\0\0\0";
    assert_eq!(what(cr2).as_deref(), Some("a camera's raw file (CR2)"));
    for cut in 0..cr2.len() {
        drop(camera_raw(&cr2[..cut]));
    }
}
