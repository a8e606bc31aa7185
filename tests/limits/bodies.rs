//! Bodies at the limits. Each is made once.

use std::io::Write as _;

use bytes::Bytes;
use flate2::{Compression, write::ZlibEncoder};

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut hash = crc32fast::Hasher::new();
    hash.update(kind);
    hash.update(data);
    let length = u32::try_from(data.len()).expect("short").to_be_bytes();
    [&length, &kind[..], data, &hash.finalize().to_be_bytes()].concat()
}

/// A black 16-bit PNG with alpha: the image that needs the most memory for its bytes.
fn png(width: u32, height: u32) -> Bytes {
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    header.extend([16, 6, 0, 0, 0]);
    let row = vec![0; width as usize * 8 + 1];
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::fast());
    for _ in 0..height {
        packed.write_all(&row).expect("written to memory");
    }
    let data = packed.finish().expect("written to memory");
    let chunks = [chunk(b"IHDR", &header), chunk(b"IDAT", &data), chunk(b"IEND", b"")].concat();
    [&b"\x89PNG\r\n\x1a\n"[..], &chunks].concat().into()
}

/// An image as large as `limits.max_decode_bytes` allows.
pub(crate) fn large_png() -> Bytes {
    png(5700, 5800)
}

pub(crate) fn small_png() -> Bytes {
    png(40, 30)
}

/// The maximum number of one-pixel images. No two are equal over all requests: the bytes after the end of an
/// image are not decoded, but make it different.
pub(crate) fn tiny_images(request: u64) -> Bytes {
    let image = png(1, 1);
    let items: Vec<_> = (0..1024_u64)
        .map(|number| {
            let bytes = [&image[..], &request.to_le_bytes(), &number.to_le_bytes()].concat();
            format!("{{\"image\":\"{}\"}}", base64_simd::STANDARD.encode_to_string(bytes))
        })
        .collect();
    format!("{{\"input\":[{}]}}", items.join(",")).into()
}

/// A file of maximum length whose first bytes look like an image.
pub(crate) fn long_image() -> Bytes {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    bytes.resize(20 << 20, 0);
    bytes.into()
}

fn repeated(before: &str, element: &str, count: usize, after: &str) -> Bytes {
    let elements = format!("{element},").repeat(count - 1) + element;
    format!("{before}{elements}{after}").into()
}

/// A list of objects that are a hundred times as large after parsing.
pub(crate) fn empty_objects() -> Bytes {
    repeated("{\"inputs\":[", "{}", 260_000, "]}")
}

/// Thirty megabytes of numbers.
pub(crate) fn numbers() -> Bytes {
    let row = format!("[{}]", vec!["0.125"; 192].join(","));
    repeated("{\"texts\":[\"a\"],\"image_embeddings\":[", &row, 25_000, "]}")
}

/// Stored vectors on both sides, with very many scores.
pub(crate) fn all_pairs() -> Bytes {
    let row = format!("[{}1]", "0,".repeat(191));
    let side = vec![row.as_str(); 20_000].join(",");
    format!("{{\"image_embeddings\":[{side}],\"text_embeddings\":[{side}]}}").into()
}

/// Stored vectors and long labels, which the response repeats for each vector.
pub(crate) fn long_labels() -> Bytes {
    let row = format!("[{}1]", "0,".repeat(191));
    let rows = vec![row.as_str(); 100].join(",");
    let labels: Vec<_> =
        (0..20).map(|number| format!("\"{number}{}\"", "x".repeat(60_000))).collect();
    format!("{{\"image_embeddings\":[{rows}],\"labels\":[{}]}}", labels.join(",")).into()
}

/// The maximum number of texts of maximum length.
pub(crate) fn long_texts() -> Bytes {
    let text = format!("\"{}\"", "word ".repeat(12_000));
    repeated("{\"input\":[", &text, 1000, "]}")
}

/// A request with a large response.
pub(crate) fn many_texts() -> Bytes {
    repeated("{\"input\":[", "\"a\"", 1024, "]}")
}

/// The same over gRPC: a field of a text of one byte, again and again.
pub(crate) fn many_texts_over_grpc() -> Bytes {
    let message = [18, 3, 10, 1, b'a'].repeat(1024);
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    [&[0], &length[..], &message].concat().into()
}

/// An Open Inference Protocol body of millions of empty elements, and the length of its JSON.
pub(crate) fn empty_elements() -> (Bytes, usize) {
    let count = 14 << 20;
    let head = format!(
        "{{\"inputs\":[{{\"name\":\"TEXT\",\"shape\":[{count}],\"datatype\":\"BYTES\",\"parameters\":{{\"binary_data_size\":{}}}}}]}}",
        4 * count
    );
    let length = head.len();
    let mut bytes = head.into_bytes();
    bytes.resize(length + 4 * count, 0);
    (bytes.into(), length)
}

/// The beginning of a row of a bulk stream that does not end.
pub(crate) fn unfinished_line() -> Bytes {
    format!("{{\"text\": \"{}", "a".repeat(26 << 20)).into()
}

/// The beginning of a gRPC message of sixty megabytes.
pub(crate) fn unfinished_message() -> Bytes {
    let length = u32::try_from(60 << 20).expect("short").to_be_bytes();
    [&[0], &length[..], &vec![0; 50 << 20]].concat().into()
}

/// Rows of a bulk stream.
pub(crate) fn lines() -> Bytes {
    let image = base64_simd::STANDARD.encode_to_string(large_png());
    format!("{{\"id\": 1, \"image\": \"{image}\"}}\n").repeat(4).into()
}
