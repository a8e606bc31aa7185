//! Recognises formats by their signatures.

use super::{CONVERT, DECODE, Foreign, RENDER, SEND_BYTES, UNPACK};

/// An offset, the bytes that a format has there, its name with an article, and what to do.
type Signature = (usize, &'static [u8], &'static str, &'static str);

const FRAME: &str = "send one of its frames as JPEG or PNG";
/// A program has treated the bytes of an image as characters.
const MANGLED: &str = "its bytes were read as text on the way and cannot be restored; \
                       read the file in binary mode and send it again";

const JXL_BOXES: &[u8] = b"\0\0\0\x0CJXL \r\n\x87\n";
const JXL_STREAM: &[u8] = b"\xFF\x0A";

/// Whether a file is JPEG XL.
#[cfg(feature = "jxl")]
pub(in super::super) fn is_jxl(bytes: &[u8]) -> bool {
    bytes.starts_with(JXL_BOXES) || bytes.starts_with(JXL_STREAM)
}

#[rustfmt::skip]
const SIGNATURES: &[Signature] = &[
    // JPEG XL has two formats: a box structure, and the bare codestream. The latter has a signature of only two
    // bytes, so it comes last.
    (0, JXL_BOXES, "a JPEG XL image", CONVERT),
    (0, b"\0\0\0\x0CjP  \r\n\x87\n", "a JPEG 2000 image", CONVERT),
    (0, b"\xFF\x4F\xFF\x51", "a JPEG 2000 image", CONVERT),
    (0, b"II\xBC", "a JPEG XR image", CONVERT),
    (0, b"8BPS", "a Photoshop document (PSD)", CONVERT),
    (0, b"gimp xcf", "a GIMP image (XCF)", CONVERT),
    (0, b"\0\0\x01\0", "an icon (ICO)", CONVERT),
    (0, b"\0\0\x02\0\0\0\0\0", "a Targa image (TGA)", CONVERT),
    (0, b"\0\0\x0A\0\0\0\0\0", "a Targa image (TGA)", CONVERT),
    (0, b"\0\0\x02\0", "a cursor (CUR)", CONVERT),
    (0, b"icns", "an icon (ICNS)", CONVERT),
    (0, b"DDS ", "a DDS texture", CONVERT),
    (0, b"\xABKTX ", "a KTX texture", CONVERT),
    (0, b"qoif", "a QOI image", CONVERT),
    (0, b"\x76\x2F\x31\x01", "an OpenEXR image", CONVERT),
    (0, b"#?RADIANCE", "a Radiance HDR image", CONVERT),
    (0, b"#?RGBE", "a Radiance HDR image", CONVERT),
    (0, b"farbfeld", "a farbfeld image", CONVERT),
    (0, b"BPG\xFB", "a BPG image", CONVERT),
    (0, b"FLIF", "a FLIF image", CONVERT),
    (0, b"\x8AMNG", "an MNG animation", FRAME),
    (0, b"\x8BJNG", "a JNG image", CONVERT),
    (0, b"AT&TFORM", "a DjVu document", RENDER),
    (128, b"DICM", "a DICOM file", CONVERT),
    (0, b"SIMPLE  =", "a FITS image", CONVERT),
    (0, b"\x59\xA6\x6A\x95", "a Sun raster image", CONVERT),
    (0, b"\x01\xDA", "an SGI image", CONVERT),
    (0, b"P1\n", "a PBM image", CONVERT), (0, b"P4\n", "a PBM image", CONVERT),
    (0, b"P2\n", "a PGM image", CONVERT), (0, b"P5\n", "a PGM image", CONVERT),
    (0, b"P3\n", "a PPM image", CONVERT), (0, b"P6\n", "a PPM image", CONVERT),
    (0, b"P4 ", "a PBM image", CONVERT), (0, b"P5 ", "a PGM image", CONVERT), (0, b"P6 ", "a PPM image", CONVERT),
    (0, b"P7\n", "a PAM image", CONVERT),
    (0, b"PF\n", "a PFM image", CONVERT), (0, b"Pf\n", "a PFM image", CONVERT),

    (0, b"%PDF-", "a PDF document", RENDER),
    (0, b"\xEF\xBB\xBF%PDF-", "a PDF document", RENDER),
    (0, b"%!PS", "a PostScript file", RENDER),
    (0, b"\xC5\xD0\xD3\xC6", "an EPS file", RENDER),
    (0, b"\xD7\xCD\xC6\x9A", "a Windows metafile (WMF)", RENDER),
    (40, b" EMF", "a Windows metafile (EMF)", RENDER),

    (0, b"\x1A\x45\xDF\xA3", "a WebM or Matroska video", FRAME),
    (0, b"FLV\x01", "a Flash video", FRAME),
    (0, b"\0\0\x01\xBA", "an MPEG video", FRAME),
    (0, b"\0\0\x01\xB3", "an MPEG video", FRAME),
    (0, b"\x30\x26\xB2\x75\x8E\x66\xCF\x11", "a Windows Media file", FRAME),
    (8, b"AVI ", "an AVI video", FRAME),
    (8, b"WAVE", "a WAVE sound", SEND_BYTES),
    (0, b"ID3", "an MP3 sound", SEND_BYTES),
    (0, b"OggS", "an Ogg file", SEND_BYTES),
    (0, b"fLaC", "a FLAC sound", SEND_BYTES),

    (0, b"PK\x03\x04", "a ZIP archive, or an office document in one", UNPACK),
    (0, b"PK\x05\x06", "an empty ZIP archive", SEND_BYTES),
    (0, b"\x1F\x8B", "gzip-compressed data", UNPACK),
    (0, b"\x28\xB5\x2F\xFD", "zstd-compressed data", UNPACK),
    (0, b"BZh", "bzip2-compressed data", UNPACK),
    (0, b"\xFD7zXZ\0", "xz-compressed data", UNPACK),
    (0, b"7z\xBC\xAF\x27\x1C", "a 7z archive", UNPACK),
    (0, b"Rar!\x1A\x07", "a RAR archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
    (0, b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1", "an old office document", UNPACK),
    (0, b"\x93NUMPY", "a numpy array", "write it as PNG; a model's own input goes to /v2/models/{model}/infer"),
    (0, b"PAR1", "a Parquet file", UNPACK),
    (0, b"\x80\x04\x95", "a Python pickle", SEND_BYTES),

    // Signatures of PNG and JPEG after such treatment: U+FFFD for bytes that are not UTF-8, Latin-1 as UTF-8,
    // and changed line ends.
    (0, b"\xEF\xBF\xBDPNG", "a PNG image that was damaged on its way", MANGLED),
    (0, b"\xC2\x89PNG", "a PNG image that was damaged on its way", MANGLED),
    (0, b"\x89PNG\n\x1A", "a PNG image that was damaged on its way", MANGLED),
    (0, b"\x89PNG\r\r\n", "a PNG image that was damaged on its way", MANGLED),
    (0, b"\x09PNG", "a PNG image that was damaged on its way", MANGLED),
    (0, b"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\0\x10JFIF", "a JPEG image that was damaged on its way", MANGLED),
    (0, b"\xC3\xBF\xC3\x98\xC3\xBF", "a JPEG image that was damaged on its way", MANGLED),
    (0, b"\\x89504e47", "a PNG image in hexadecimal", DECODE),
    (0, b"\\xffd8ff", "a JPEG image in hexadecimal", DECODE),
    (0, b"89504e47", "a PNG image in hexadecimal", DECODE),
    (0, b"ffd8ff", "a JPEG image in hexadecimal", DECODE),
    (0, b"b'\\x89PNG", "a PNG image as Python prints bytes", DECODE),
    (0, b"b'\\xff\\xd8", "a JPEG image as Python prints bytes", DECODE),

    (0, JXL_STREAM, "a JPEG XL image", CONVERT),
];

/// The format whose signature the bytes have.
pub(super) fn find(bytes: &[u8]) -> Option<Foreign> {
    let has = |&&(offset, magic, ..): &&Signature| {
        bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic))
    };
    let &(_, _, what, advice) = SIGNATURES.iter().find(has)?;
    Some(Foreign::new(what, advice))
}
