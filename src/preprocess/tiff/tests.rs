//! Tests limits and refusals. The golden tests compare pixels with Pillow.

use image::ImageError;

use super::*;

/// A file with one directory, whose values all fit into its entries; `data` follows the header, at offset 8.
fn file(tags: &[(u16, u16, u32)], data: &[u8]) -> Vec<u8> {
    let data: Vec<u8> = data.iter().copied().chain(vec![0; data.len() % 2]).collect();
    let mut bytes = b"II*\0".to_vec();
    bytes.extend((8 + data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes.extend((tags.len() as u16).to_le_bytes());
    for &(tag, kind, value) in tags {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    bytes
}

/// Grey, of one strip.
fn grey(width: u32, height: u32, compression: u32, data: &[u8]) -> Vec<(u16, u16, u32)> {
    vec![
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, compression),
        (262, 3, 1),
        (273, 4, 8),
        (279, 4, data.len() as u32),
    ]
}

fn with(mut tags: Vec<(u16, u16, u32)>, tag: (u16, u16, u32)) -> Vec<(u16, u16, u32)> {
    tags.retain(|(other, ..)| *other != tag.0);
    tags.push(tag);
    tags
}

fn decoded(bytes: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let reason = |error: ImageError| {
        let source = std::error::Error::source(&error);
        source.map_or_else(|| error.to_string(), ToString::to_string)
    };
    let decoder = TiffDecoder::new(bytes).map_err(reason)?;
    let mut pixels = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut pixels).map_err(reason)?;
    Ok(pixels)
}

#[test]
fn grey_is_read_as_it_stands() {
    let data = [1, 2, 3, 4, 5, 6];
    assert_eq!(decoded(&file(&grey(3, 2, 1, &data), &data)), Ok(data.to_vec()));
    let tags = with(grey(3, 2, 1, &data), (262, 3, 0));
    assert_eq!(decoded(&file(&tags, &data)), Ok(data.map(|sample| 255 - sample).to_vec()));
    let tags = with(grey(3, 2, 1, &data), (266, 3, 2));
    assert_eq!(decoded(&file(&tags, &data)), Ok(data.map(u8::reverse_bits).to_vec()));
}

#[test]
fn associated_alpha_is_divided_out() {
    // The second pixel has no opacity, and the third has a colour larger than its opacity.
    let data = [50, 25, 0, 100, 9, 9, 9, 0, 200, 0, 0, 100];
    let mut tags = grey(3, 1, 1, &data);
    for tag in [(262, 3, 2), (277, 3, 4), (338, 3, 1)] {
        tags = with(tags, tag);
    }
    let expected = [127, 63, 0, 100, 0, 0, 0, 0, 255, 0, 0, 100];
    assert_eq!(decoded(&file(&tags, &data)), Ok(expected.to_vec()));
    let tags = with(tags, (338, 3, 2));
    assert_eq!(decoded(&file(&tags, &data)), Ok(data.to_vec()));
}

#[test]
fn missing_rows_are_no_rows() {
    for (compression, data) in [
        (1, vec![7; 11]),
        (32773, vec![0xF5, 7]),
        (5, vec![0x80, 0x01, 0xC0, 0x20]),
        (4, vec![0x00, 0x10, 0x01, 0x00]),
    ] {
        let mut tags = grey(4, 4, compression, &data);
        if compression == 4 {
            tags = with(tags, (258, 3, 1));
        }
        // The file ends after the strip.
        let mut bytes = file(&tags, &[]);
        let end = bytes.len() as u32;
        tags = with(tags, (273, 4, end));
        bytes = file(&tags, &[]);
        bytes.extend(data);
        let error = decoded(&bytes).expect_err("rows are missing");
        assert!(error.contains("early") || error.contains("damaged"), "{compression}: {error}");
    }
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    let data = [0; 64];
    for (tag, says) in [
        ((259, 3, 6), "old-style JPEG"),
        ((259, 3, 34925), "LZMA"),
        ((259, 3, 50000), "Zstandard"),
        ((262, 3, 8), "L*a*b*"),
        ((339, 3, 2), "signed samples of 8 bits"),
        ((258, 3, 12), "samples of 12 bits"),
        ((258, 3, 32), "unsigned samples of 32 bits"),
        ((266, 3, 3), "fill order"),
        ((277, 3, 2), "further samples"),
        ((278, 3, 2), "another number"),
    ] {
        let error = decoded(&file(&with(grey(4, 4, 1, &data), tag), &data)).expect_err(says);
        assert!(error.contains(says), "{tag:?}: {error}");
    }
    let error = decoded(b"II*\0\xFF\xFF\0\0").expect_err("no directory");
    assert!(error.contains("ends early"), "{error}");
}

#[test]
fn strips_that_share_bytes_are_bounded() {
    // 40,000 strips of one row, which all share the same 4,000 bytes. Two arrays follow the directory.
    let strips = 40_000_u32;
    let data = vec![0x80; 4000];
    let mut tags = grey(16, strips, 5, &data);
    tags.push((278, 4, 1));
    let mut bytes = file(&tags, &data);
    let end = bytes.len() as u32;
    for (place, tag) in [(5, end), (6, end + 4 * strips)] {
        let entry = 8 + data.len() + 2 + place * 12;
        bytes[entry + 4..entry + 8].copy_from_slice(&strips.to_le_bytes());
        bytes[entry + 8..entry + 12].copy_from_slice(&tag.to_le_bytes());
    }
    for value in [8, data.len() as u32] {
        bytes.extend(value.to_le_bytes().repeat(strips as usize));
    }
    let error = decoded(&bytes).expect_err("too much work");
    assert!(error.contains("share the same bytes"), "{error}");
}

#[test]
fn a_larger_jpeg_within_is_refused_by_its_header() {
    let mut stream = Vec::new();
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut stream, 90);
    image::GrayImage::from_pixel(64, 64, image::Luma([9])).write_with_encoder(encoder).expect("ok");
    let error = decoded(&file(&grey(16, 16, 7, &stream), &stream)).expect_err("another size");
    assert!(error.contains("64 x 64 pixels where the tags say 16 x 16"), "{error}");
    let pixels = decoded(&file(&grey(64, 64, 7, &stream), &stream)).expect("the same size");
    assert!(pixels.iter().all(|pixel| pixel.abs_diff(9) < 2));
    let half = &stream[..stream.len() - 3];
    let error = decoded(&file(&grey(64, 64, 7, half), half)).expect_err("cut");
    assert!(error.contains("ends early"), "{error}");
}

#[test]
fn large_tiles_of_a_small_image_are_refused() {
    let data = [0; 64];
    let mut tags = with(grey(4, 4, 1, &data), (322, 4, 1 << 15));
    tags.retain(|(tag, ..)| !matches!(tag, 273 | 279));
    tags.extend([(323, 4, 1 << 15), (324, 4, 8), (325, 4, 64)]);
    let error = decoded(&file(&tags, &data)).expect_err("too large");
    assert!(error.contains("much larger than the image"), "{error}");
}

#[test]
fn no_file_makes_it_panic() {
    let data: Vec<u8> = (0..64).collect();
    for compression in [1, 2, 3, 4, 5, 7, 8, 32773] {
        for bits in [1, 8, 16] {
            let tags = with(grey(5, 5, compression, &data), (258, 3, bits));
            let whole = file(&tags, &data);
            for at in 0..whole.len() {
                for value in [0, 1, 0x7F, 0xFF] {
                    let mut bytes = whole.clone();
                    bytes[at] = value;
                    let pixels = TiffDecoder::new(&bytes).map(|decoder| decoder.total_bytes());
                    if pixels.is_ok_and(|bytes| bytes < 1 << 16) {
                        drop(decoded(&bytes));
                    }
                }
            }
        }
    }
}
