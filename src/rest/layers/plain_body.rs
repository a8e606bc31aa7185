//! Refuses compressed request bodies.

use axum::{
    extract::Request,
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{
    error::{Code, Error},
    rest::problem::Failure,
};

/// Refuses a compressed body. The limit on its bytes would not limit the decompressed size. Images, the largest
/// part of requests, are already compressed.
pub(in crate::rest) async fn plain_body(request: Request, next: Next) -> Response {
    let plain = |value: &[u8]| value.trim_ascii().eq_ignore_ascii_case(b"identity");
    let encodings = request.headers().get_all(header::CONTENT_ENCODING);
    if encodings.iter().all(|value| plain(value.as_bytes())) {
        return next.run(request).await;
    }
    let error =
        Error::new(Code::UnsupportedMediaType, "bodies are read without a content encoding");
    Failure(error.with_field("content-encoding")).into_response()
}
