//! Answers in fewer bytes, for clients that ask for it.

use axum::{body::HttpBody, http};
use tower_http::{
    CompressionLevel,
    compression::{
        CompressionLayer,
        predicate::{NotForContentType, Predicate, SizeAbove},
    },
};

/// Below this an answer fits a packet or two either way.
const MIN_BYTES: u64 = 1400;

/// What is not worth the time: numbers in binary hardly shrink, and a stream of rows would wait for a
/// compressor to have enough of them.
const AS_THEY_ARE: [&str; 6] = [
    "application/x-npy",
    "application/vnd.safetensors",
    "application/vnd.siglip.rows",
    "application/x-ndjson",
    "application/octet-stream",
    "image/",
];

/// Which answers are compressed.
#[derive(Debug, Clone, Copy)]
pub(in crate::rest) struct Worthwhile;

impl Predicate for Worthwhile {
    fn should_compress<B: HttpBody>(&self, response: &http::Response<B>) -> bool {
        let worth = AS_THEY_ARE.map(NotForContentType::const_new);
        SizeAbove::new(MIN_BYTES).should_compress(response)
            && worth.iter().all(|kind| kind.should_compress(response))
    }
}

/// gzip or brotli, as `Accept-Encoding` has it; at their fastest, since answers are made to be waited
/// for.
pub(in crate::rest) fn compress() -> CompressionLayer<Worthwhile> {
    CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(Worthwhile)
}
