//! Compresses responses for clients that ask for it.

use axum::{
    body::HttpBody,
    extract::Request,
    http::{self, HeaderValue, header::ACCEPT_ENCODING},
    middleware::Next,
    response::Response,
};
use tower_http::{
    CompressionLevel,
    compression::{
        CompressionLayer,
        predicate::{NotForContentType, Predicate, SizeAbove},
    },
};

use crate::rest::respond::Uncompressed;

/// A smaller response fits in one or two packets even without compression.
const MIN_BYTES: u64 = 1400;

/// Content types that are not compressed. Binary numbers hardly shrink, and a compressor would delay the rows
/// of a stream.
const AS_THEY_ARE: [&str; 6] = [
    "application/x-npy",
    "application/vnd.safetensors",
    "application/vnd.siglip.rows",
    "application/x-ndjson",
    "application/octet-stream",
    "image/",
];

/// Decides which responses are compressed.
#[derive(Debug, Clone, Copy)]
pub(in crate::rest) struct Worthwhile;

impl Predicate for Worthwhile {
    fn should_compress<B: HttpBody>(&self, response: &http::Response<B>) -> bool {
        let worth = AS_THEY_ARE.map(NotForContentType::const_new);
        response.extensions().get::<Uncompressed>().is_none()
            && SizeAbove::new(MIN_BYTES).should_compress(response)
            && worth.iter().all(|kind| kind.should_compress(response))
    }
}

/// gzip or brotli, depending on `Accept-Encoding`, at the fastest level, because clients wait for the response.
pub(in crate::rest) fn compress() -> CompressionLayer<Worthwhile> {
    CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(Worthwhile)
}

/// Removes `Accept-Encoding` if it names no supported coding. A client that also forbids uncompressed responses
/// gets one anyway, as RFC 9110 allows, instead of an error status that no route documents.
pub(in crate::rest) async fn plain_unless_named(mut request: Request, next: Next) -> Response {
    let headers = request.headers_mut();
    if !headers.get_all(ACCEPT_ENCODING).iter().any(names_a_coding) {
        headers.remove(ACCEPT_ENCODING);
    }
    next.run(request).await
}

fn names_a_coding(value: &HeaderValue) -> bool {
    let is_wanted = |entry: &str| {
        let (coding, weight) = entry.split_once(';').unwrap_or((entry, ""));
        let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok());
        ["gzip", "x-gzip", "br"].iter().any(|served| coding.trim().eq_ignore_ascii_case(served))
            && weight != Some(0.0)
    };
    value.to_str().is_ok_and(|text| text.split(',').any(is_wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codings_are_named_unless_they_weigh_nothing() {
        for (value, named) in [
            ("gzip", true),
            ("deflate, BR;q=0.5", true),
            ("identity;q=0, gzip;q=1", true),
            ("identity;q=0", false),
            ("*;q=0", false),
            ("gzip;q=0, br;q=0.0", false),
            ("", false),
        ] {
            assert_eq!(names_a_coding(&HeaderValue::from_static(value)), named, "{value}");
        }
    }
}
