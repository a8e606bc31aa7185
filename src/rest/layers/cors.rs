//! Lets pages of other origins call, where the operator lists them.

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::config::WebOrigin;

/// What a page may send beside what every page may.
const REQUEST_HEADERS: [HeaderName; 6] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-priority"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-request-timeout-ms"),
];
/// What a page may read of an answer beside its body.
const RESPONSE_HEADERS: [HeaderName; 5] = [
    header::RETRY_AFTER,
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("server-timing"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-siglip-truncated-texts"),
];

/// The layer for these origins; none without any. Cookies are never of use here, so they are not allowed.
pub(in crate::rest) fn cors(origins: &[WebOrigin]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let listed = origins.iter().filter_map(|origin| match origin {
        WebOrigin::Any => None,
        WebOrigin::Of(origin) => HeaderValue::from_str(origin).ok(),
    });
    let allowed = if origins.contains(&WebOrigin::Any) {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(listed)
    };
    Some(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::POST])
            .allow_headers(REQUEST_HEADERS)
            .expose_headers(RESPONSE_HEADERS),
    )
}
