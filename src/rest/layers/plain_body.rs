//! Bodies come as they are.

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

/// Refuses a body that is packed. A limit on its bytes would say nothing of what comes out of it, and what is
/// large here, pictures, is packed already.
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
