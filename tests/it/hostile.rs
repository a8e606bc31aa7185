//! Generated harmful images, each with the expected response.

use std::io::{Cursor, Write as _};

use flate2::{Compression, write::ZlibEncoder};
use image::{DynamicImage, ImageFormat, RgbImage};

/// An image, or a file that claims to be one.
pub(crate) struct Hostile {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    /// The code of the error. `None` if the image is accepted.
    pub(crate) code: Option<&'static str>,
}

fn hostile(name: impl Into<String>, bytes: impl Into<Vec<u8>>, code: &'static str) -> Hostile {
    Hostile { name: name.into(), bytes: bytes.into(), code: Some(code) }
}

const UNDECODABLE: &str = "undecodable_image";
const PIXELS: &str = "too_many_pixels";
const MEMORY: &str = "decode_too_large";

/// The formats that are read.
pub(crate) const FORMATS: [(&str, ImageFormat); 6] = [
    ("png", ImageFormat::Png),
    ("jpeg", ImageFormat::Jpeg),
    ("webp", ImageFormat::WebP),
    ("gif", ImageFormat::Gif),
    ("bmp", ImageFormat::Bmp),
    ("tiff", ImageFormat::Tiff),
];

/// An image with some structure, so that a changed byte is likely to have an effect.
pub(crate) fn encoded(format: ImageFormat, width: u32, height: u32) -> Vec<u8> {
    let shade = |x: u32, y: u32| ((x * 7 + y * 13) % 256) as u8;
    let picture = RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([shade(x, y), shade(y, x), shade(x + y, 3)])
    });
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::from(picture).write_to(&mut bytes, format).expect("written to memory");
    bytes.into_inner()
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut hash = crc32fast::Hasher::new();
    hash.update(kind);
    hash.update(data);
    let length = u32::try_from(data.len()).expect("short").to_be_bytes();
    [&length, &kind[..], data, &hash.finalize().to_be_bytes()].concat()
}

/// Zeros compressed with zlib, a thousand to one.
fn zeros(bytes: usize) -> Vec<u8> {
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::fast());
    let block = [0_u8; 1 << 16];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(block.len());
        packed.write_all(&block[..now]).expect("written to memory");
        left -= now;
    }
    packed.finish().expect("written to memory")
}

/// A PNG whose data may not match its header.
fn png(size: [u32; 2], depth: u8, colour: u8, data: &[u8], before_data: &[u8]) -> Vec<u8> {
    let mut header = [size[0].to_be_bytes(), size[1].to_be_bytes()].concat();
    header.extend([depth, colour, 0, 0, 0]);
    [
        &b"\x89PNG\r\n\x1a\n"[..],
        &chunk(b"IHDR", &header),
        before_data,
        &chunk(b"IDAT", data),
        &chunk(b"IEND", b""),
    ]
    .concat()
}

fn bmp(width: i32, height: i32) -> Vec<u8> {
    let mut bytes = b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
    bytes.extend(width.to_le_bytes());
    bytes.extend(height.to_le_bytes());
    bytes.extend(b"\x01\0\x18\0\0\0\0\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    bytes.extend([0; 4]);
    bytes
}

/// A GIF's header and screen, followed by `rest`.
fn gif(width: u16, height: u16, rest: &[u8]) -> Vec<u8> {
    [b"GIF89a", &width.to_le_bytes()[..], &height.to_le_bytes(), &[0x80, 0, 0], &[0; 6], rest]
        .concat()
}

/// One frame of a GIF of this size, with data for a single pixel.
fn gif_frame(width: u16, height: u16) -> Vec<u8> {
    let size = [width.to_le_bytes(), height.to_le_bytes()].concat();
    [b"\x2c\0\0\0\0", &size[..], &[0], b"\x02\x02\x44\x01\x00\x3b"].concat()
}

/// A JPEG whose frame has this size, with almost no scan data.
fn jpeg(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = b"\xff\xd8\xff\xc0\x00\x11\x08".to_vec();
    bytes.extend(height.to_be_bytes());
    bytes.extend(width.to_be_bytes());
    bytes.extend(b"\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01");
    bytes.extend(b"\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00\xff\xd9");
    bytes
}

/// A lossless WebP of this size, without data.
fn webp(width: u32, height: u32) -> Vec<u8> {
    let size = ((width - 1) | ((height - 1) << 14)).to_le_bytes();
    let data = [&[0x2f][..], &size, &[0; 11]].concat();
    riff(&[&b"VP8L\x10\0\0\0"[..], &data].concat())
}

/// A WebP whose canvas has this size, and whose one frame is another image.
fn webp_canvas(width: u32, height: u32, frame: &[u8]) -> Vec<u8> {
    let canvas =
        [&[0; 4][..], &(width - 1).to_le_bytes()[..3], &(height - 1).to_le_bytes()[..3]].concat();
    riff(&[&b"VP8X\x0a\0\0\0"[..], &canvas, frame].concat())
}

fn riff(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len() + 4).expect("short").to_le_bytes();
    [b"RIFF", &length[..], b"WEBP", content].concat()
}

/// A TIFF of one strip: its tags as `(tag, type, value)`, the strip behind them.
fn tiff(width: u32, height: u32, compression: u32, strip: &[u8]) -> Vec<u8> {
    let strip_bytes = u32::try_from(strip.len()).expect("short");
    let tags: [(u16, u16, u32); 9] = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, compression),
        (262, 3, 1),
        (273, 4, 8 + 2 + 9 * 12 + 4),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, strip_bytes),
    ];
    let mut bytes = b"II*\0\x08\0\0\0\x09\0".to_vec();
    for (tag, kind, value) in tags {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    bytes.extend(strip);
    bytes
}

/// Files whose headers claim sizes that a server must not allocate.
pub(crate) fn bombs() -> Vec<Hostile> {
    let row = |width: u32| width.div_ceil(8) as usize + 1;
    vec![
        hostile("png, header alone", png([65_535, 65_535], 8, 2, b"", b""), PIXELS),
        hostile(
            "png, 400 megapixels",
            png([20_000, 20_000], 1, 0, &zeros(20_000 * row(20_000)), b""),
            PIXELS,
        ),
        hostile(
            "png, the largest sides",
            png([u32::MAX >> 1, u32::MAX >> 1], 16, 6, b"", b""),
            MEMORY,
        ),
        hostile("png, a strip", png([1, 1_000_001], 1, 0, &zeros(2_000_002), b""), PIXELS),
        hostile("png, deep colours", png([7000, 7000], 16, 6, b"", b""), MEMORY),
        hostile("jpeg, header alone", jpeg(65_535, 65_535), PIXELS),
        hostile("webp, header alone", webp(16_383, 16_383), PIXELS),
        hostile("gif, header alone", gif(65_535, 65_535, b""), UNDECODABLE),
        hostile("gif, small data", gif(65_535, 65_535, &gif_frame(65_535, 65_535)), PIXELS),
        hostile("bmp, header alone", bmp(65_535, 65_535), PIXELS),
        hostile("tiff, header alone", tiff(65_535, 65_535, 1, b""), PIXELS),
        hostile("tiff, packed", tiff(60_000, 60_000, 8, &zeros(1 << 22)), PIXELS),
    ]
}

/// Files with small images whose data would be large if all of it were decompressed. Whether the image is valid
/// depends on the format, so both responses are right. The test checks the cost.
pub(crate) fn inflated() -> Vec<Vec<u8>> {
    let packed = zeros(256 << 20);
    let profile = [&b"profile\0\0"[..], &packed].concat();
    let text = [&b"Comment\0\0"[..], &packed].concat();
    let pixel = zeros(4);
    vec![
        png([1, 1], 8, 2, &packed, b""),
        png([1, 1], 8, 2, &pixel, &chunk(b"iCCP", &profile)),
        png([1, 1], 8, 2, &pixel, &chunk(b"zTXt", &text)),
        tiff(1, 1, 8, &packed),
    ]
}

/// Files without a pixel.
pub(crate) fn without_pixels() -> Vec<Hostile> {
    vec![
        hostile("no bytes", b"", UNDECODABLE),
        hostile("png 0x0", png([0, 0], 8, 2, &zeros(0), b""), UNDECODABLE),
        hostile("png 0x9", png([0, 9], 8, 2, &zeros(9), b""), UNDECODABLE),
        hostile("jpeg 0x0", jpeg(0, 0), UNDECODABLE),
        hostile("gif 0x0", gif(0, 0, &gif_frame(0, 0)), UNDECODABLE),
        hostile("bmp 0x0", bmp(0, 0), UNDECODABLE),
        hostile("tiff 0x0", tiff(0, 0, 1, b""), UNDECODABLE),
    ]
}

/// Files of other types, and files that are of several types at the same time.
pub(crate) fn impostors() -> Vec<Hostile> {
    let svg =
        "<svg xmlns=\"http://www.w3.org/2000/svg\"><image href=\"file:///etc/passwd\"/></svg>";
    let page = "<!doctype html><img src=x onerror=alert(1)>";
    let png = encoded(ImageFormat::Png, 5, 4);
    let mut found = vec![
        hostile("svg", svg, UNDECODABLE),
        hostile("svg with an xml head", format!("<?xml version=\"1.0\"?>{svg}"), UNDECODABLE),
        hostile("html", page, UNDECODABLE),
        hostile("pdf", "%PDF-1.7\n1 0 obj\n", UNDECODABLE),
        hostile("zip", b"PK\x03\x04\x14\0\0\0\0\0".as_slice(), UNDECODABLE),
        hostile("elf", b"\x7fELF\x02\x01\x01\0".as_slice(), UNDECODABLE),
        hostile("avif", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1".as_slice(), UNDECODABLE),
        hostile("ico", b"\0\0\x01\0\x01\0\x01\x01\0\0\x01\0\x18\0".as_slice(), UNDECODABLE),
        hostile("pnm", b"P6 99999 99999 255\n".as_slice(), UNDECODABLE),
        hostile(
            "png's signature, then html",
            [b"\x89PNG\r\n\x1a\n", page.as_bytes()].concat(),
            UNDECODABLE,
        ),
        hostile("gif's signature, then a script", "GIF89a/*\0\0\0*/=1;alert(1)//", UNDECODABLE),
        hostile(
            "bmp's signature, then a script",
            "BM=1;/*aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa*/",
            UNDECODABLE,
        ),
        hostile(
            "a canvas larger than its frame",
            webp_canvas(9, 9, &encoded(ImageFormat::WebP, 5, 4)[12..]),
            UNDECODABLE,
        ),
    ];
    // Data after the end of an image is not read, so it is harmless.
    for (name, tail) in [("html", page.as_bytes()), ("zip", b"PK\x03\x04"), ("another png", &png)] {
        let bytes = [&png[..], tail].concat();
        found.push(Hostile { name: format!("png, then {name}"), bytes, code: None });
    }
    found
}
