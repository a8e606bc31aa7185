//! Static files that are compressed only once. They need no key, so anybody could otherwise make the server
//! compress them for each request.

use std::{io::Write as _, sync::OnceLock};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};

use super::respond::uncompressed;

/// A smaller file fits in one or two packets even without compression.
const MIN_BYTES: usize = 1400;

/// A file, and its gzip after the first request for it.
#[derive(Debug)]
pub(super) struct Packed {
    content_type: HeaderValue,
    plain: Bytes,
    gzip: OnceLock<Option<Bytes>>,
}

impl Packed {
    pub(super) fn new(content_type: &str, plain: impl Into<Bytes>) -> Self {
        let content_type = HeaderValue::from_str(content_type);
        Self {
            content_type: content_type
                .unwrap_or(HeaderValue::from_static("application/octet-stream")),
            plain: plain.into(),
            gzip: OnceLock::new(),
        }
    }

    /// The file as a response: gzip if the client accepts it, otherwise uncompressed.
    pub(super) fn answer(&self, asked: &HeaderMap) -> Response {
        let packed = accepts_gzip(asked).then(|| self.gzip.get_or_init(|| gzip(&self.plain)));
        let packed = packed.and_then(Clone::clone);
        let is_packed = packed.is_some();
        let mut answer = Body::from(packed.unwrap_or_else(|| self.plain.clone())).into_response();
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, self.content_type.clone());
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if is_packed {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        uncompressed(answer)
    }
}

/// `None` if compression is not worth it.
fn gzip(plain: &[u8]) -> Option<Bytes> {
    if plain.len() < MIN_BYTES {
        return None;
    }
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(plain).ok()?;
    let packed = packed.finish().ok()?;
    (packed.len() < plain.len()).then(|| packed.into())
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let is_gzip = |entry: &str| {
        let (coding, weight) = entry.split_once(';').unwrap_or((entry, ""));
        let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok());
        ["gzip", "x-gzip"].iter().any(|name| coding.trim().eq_ignore_ascii_case(name))
            && weight != Some(0.0)
    };
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .any(|value| value.to_str().is_ok_and(|text| text.split(',').any(is_gzip)))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_file_is_packed_for_who_takes_it() {
        let file = Packed::new("text/plain", "a".repeat(5000));
        for (accepted, encoding) in [
            ("gzip", Some("gzip")),
            ("br;q=1, GZIP;q=0.1", Some("gzip")),
            ("gzip;q=0", None),
            ("br", None),
        ] {
            let headers = HeaderMap::from_iter([(
                header::ACCEPT_ENCODING,
                HeaderValue::from_static(accepted),
            )]);
            let answer = file.answer(&headers);
            let named = answer.headers().get(header::CONTENT_ENCODING);
            assert_eq!(named.map(HeaderValue::as_bytes), encoding.map(str::as_bytes), "{accepted}");
            let length = answer.into_body().collect().await.expect("bytes").to_bytes().len();
            assert_eq!(length < 100, encoding.is_some(), "{accepted}");
        }
        assert!(gzip(b"short").is_none());
    }
}
