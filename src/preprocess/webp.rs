//! WebP files whose header does not match their chunks. libwebp goes by the chunks, so they are read.

use std::{borrow::Cow, io::Cursor};

use image::{
    ColorType, ImageDecoder, ImageFormat, ImageResult, Limits, codecs::webp, metadata::Orientation,
};

use super::reason::Reason;

/// Bits of the header for parts of the file other than the image.
const ALPHA: u8 = 0x10;
const EXIF: u8 = 0x08;
const XMP: u8 = 0x04;
const ANIMATION: u8 = 0x02;
/// The offset of these bits.
const FLAGS: usize = 20;

/// Bytes per pixel that the first frame of an animation takes in addition to the image: the canvas, the frame,
/// luma, chroma and alpha.
const ANIMATION_BYTES: u64 = 11;

/// Bytes per pixel that a lossy image takes in addition to the image if its alpha is a separate lossless image.
const ALPHA_BYTES: u64 = 7;

/// A WebP whose header was read.
pub(super) struct WebPDecoder<'b> {
    inner: webp::WebPDecoder<Cursor<Cow<'b, [u8]>>>,
    orientation: Orientation,
    /// Bytes per pixel that decoding takes in addition to the image.
    extra_per_pixel: u64,
}

impl<'b> WebPDecoder<'b> {
    /// Reads the header.
    ///
    /// # Errors
    /// Fails for a header that is damaged.
    pub(super) fn new(bytes: &'b [u8]) -> ImageResult<Self> {
        if !is_whole(bytes) {
            return Err(Reason::new("the WebP data ends early").of(ImageFormat::WebP));
        }
        let orientation = orientation(bytes).unwrap_or(Orientation::NoTransforms);
        let inner = webp::WebPDecoder::new(Cursor::new(mended(bytes)))?;
        let extra_per_pixel = if inner.has_animation() {
            ANIMATION_BYTES
        } else if chunks(bytes).any(|(kind, _)| kind == *b"ALPH") {
            ALPHA_BYTES
        } else {
            0
        };
        Ok(Self { inner, orientation, extra_per_pixel })
    }

    /// Bytes that decoding takes in addition to the image.
    pub(super) fn extra_bytes(&self) -> u64 {
        let (width, height) = self.inner.dimensions();
        u64::from(width) * u64::from(height) * self.extra_per_pixel
    }
}

impl ImageDecoder for WebPDecoder<'_> {
    fn dimensions(&self) -> (u32, u32) {
        self.inner.dimensions()
    }

    fn color_type(&self) -> ColorType {
        self.inner.color_type()
    }

    fn orientation(&mut self) -> ImageResult<Orientation> {
        Ok(self.orientation)
    }

    fn set_limits(&mut self, limits: Limits) -> ImageResult<()> {
        self.inner.set_limits(limits)
    }

    fn read_image(self, buf: &mut [u8]) -> ImageResult<()> {
        self.inner.read_image(buf)
    }

    fn read_image_boxed(self: Box<Self>, buf: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(buf)
    }
}

/// The header's bits, if the file has them.
fn flags(bytes: &[u8]) -> Option<u8> {
    (bytes.get(12..16)? == b"VP8X").then(|| bytes.get(FLAGS).copied())?
}

/// Whether the first image is complete: a decoder would read missing bytes as zeros.
fn is_whole(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(12..).unwrap_or_default();
    while let Some((kind, length, data)) = chunk(rest) {
        match &kind {
            b"VP8 " | b"VP8L" | b"ANMF" => return data.len() >= length,
            _ => rest = data.get(length.saturating_add(length % 2)..).unwrap_or_default(),
        }
    }
    // The decoder reports what is missing.
    true
}

/// The orientation, if both the header and a chunk declare EXIF data.
fn orientation(bytes: &[u8]) -> Option<Orientation> {
    if flags(bytes)? & EXIF == 0 {
        return None;
    }
    let (_, exif) = chunks(bytes).find(|(kind, _)| kind == b"EXIF")?;
    // Some writers put the prefix of a JPEG's segment before the data.
    Orientation::from_exif_chunk(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif))
}

/// Returns the file itself, or a copy whose header matches its chunks.
fn mended(bytes: &[u8]) -> Cow<'_, [u8]> {
    let Some(flags) = flags(bytes) else { return Cow::Borrowed(bytes) };
    let mut named = flags;
    let find = |name: &[u8; 4]| chunks(bytes).find(|(kind, _)| kind == name);
    if find(b"EXIF").is_none() {
        named &= !EXIF;
    }
    if find(b"XMP ").is_none() {
        named &= !XMP;
    }
    if flags & ANIMATION == 0 {
        // After a byte of signature come width and height minus one with 14 bits each, and whether there is
        // alpha.
        let own = |data: &[u8]| data.get(4).is_some_and(|byte| byte & 0x10 != 0);
        let has_alpha = match find(b"VP8L") {
            Some((_, data)) => own(data),
            None => flags & ALPHA != 0 && find(b"ALPH").is_some(),
        };
        named = if has_alpha { named | ALPHA } else { named & !ALPHA };
    }
    if named == flags {
        return Cow::Borrowed(bytes);
    }
    let mut copy = bytes.to_vec();
    copy[FLAGS] = named;
    Cow::Owned(copy)
}

/// Names and data of the top-level chunks; those inside an animation's frames are not listed.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let mut rest = bytes.get(12..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (kind, length, data) = chunk(rest)?;
        rest = data.get(length.saturating_add(length % 2)..).unwrap_or_default();
        Some((kind, data.get(..length).unwrap_or(data)))
    })
}

/// Name and length of the first chunk, and the bytes after its header.
fn chunk(bytes: &[u8]) -> Option<([u8; 4], usize, &[u8])> {
    let (kind, behind) = bytes.split_first_chunk::<4>()?;
    let (length, data) = behind.split_first_chunk::<4>()?;
    Some((*kind, u32::from_le_bytes(*length) as usize, data))
}

#[cfg(test)]
mod tests {
    use image::{ExtendedColorType, codecs::webp::WebPEncoder};

    use super::*;

    /// A file with these bits in its header, an image, and one more chunk.
    fn file(flags: u8, more: [u8; 4]) -> Vec<u8> {
        let mut plain = Vec::new();
        let pixels = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let encoder = WebPEncoder::new_lossless(&mut plain);
        encoder.encode(&pixels, 2, 2, ExtendedColorType::Rgb8).expect("encodes");
        let mut body = b"WEBPVP8X\x0A\0\0\0".to_vec();
        body.extend([flags, 0, 0, 0, 1, 0, 0, 1, 0, 0]);
        body.extend(&plain[12..]);
        // An orientation of 6: the first row becomes the last column.
        let exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        body.extend(more);
        body.extend((exif.len() as u32).to_le_bytes());
        body.extend(exif);
        let mut bytes = b"RIFF".to_vec();
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_header_that_names_what_is_not_there_does_not_matter() {
        for flags in [0, EXIF, XMP, ALPHA, EXIF | XMP | ALPHA] {
            for name in [*b"Exif", *b"exif", *b"ABCD", *b"EXIF", *b"XMP "] {
                let bytes = file(flags, name);
                let mut decoder = WebPDecoder::new(&bytes).expect("reads the header");
                let turned = decoder.orientation().expect("none or one") == Orientation::Rotate90;
                assert_eq!(turned, flags & EXIF != 0 && name == *b"EXIF", "{flags:x} {name:?}");
                let mut pixels = vec![0; decoder.total_bytes() as usize];
                decoder.read_image(&mut pixels).expect("reads the image");
                assert_eq!(pixels, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], "{flags:x} {name:?}");
            }
        }
    }

    #[test]
    fn an_image_without_its_end_is_refused() {
        let bytes = file(0, *b"ABCD");
        let end = bytes.len() - 40;
        assert!(WebPDecoder::new(&bytes[..end]).is_ok(), "only what is behind the image is cut");
        let error = WebPDecoder::new(&bytes[..end - 4]).err().expect("cut");
        assert!(error.to_string().contains("the WebP data ends early"), "{error}");
    }
}
