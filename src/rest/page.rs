//! `/`: a page to try the model with. Three embedded files, no network beyond this server.

use std::sync::LazyLock;

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::Response,
};

use super::packed::Packed;

/// Allows the page's own files, requests to this server, and the picture that the user picked.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

const HEADERS: [(HeaderName, HeaderValue); 4] = [
    // A file is what its type says, never what its bytes look like.
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    // The same as `frame-ancestors`, for old browsers.
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    // The files belong to this build; a new one must be seen at once.
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
];

/// Adds the headers of a page for people.
pub(super) fn secured(mut response: Response, policy: &'static str) -> Response {
    let headers = response.headers_mut();
    headers.extend(HEADERS);
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

static INDEX: LazyLock<Packed> =
    LazyLock::new(|| Packed::new("text/html; charset=utf-8", include_str!("page/index.html")));
static STYLE: LazyLock<Packed> =
    LazyLock::new(|| Packed::new("text/css; charset=utf-8", include_str!("page/page.css")));
static SCRIPT: LazyLock<Packed> =
    LazyLock::new(|| Packed::new("text/javascript; charset=utf-8", include_str!("page/page.js")));

pub(super) async fn index(headers: HeaderMap) -> Response {
    secured(INDEX.answer(&headers), POLICY)
}

pub(super) async fn style(headers: HeaderMap) -> Response {
    secured(STYLE.answer(&headers), POLICY)
}

pub(super) async fn script(headers: HeaderMap) -> Response {
    secured(SCRIPT.answer(&headers), POLICY)
}
