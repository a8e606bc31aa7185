//! Allows web pages of the configured origins to call the API (CORS).

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::config::WebOrigin;

/// Headers that a page may send in addition to the standard ones.
const REQUEST_HEADERS: [HeaderName; 6] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-priority"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-request-timeout-ms"),
];
/// Response headers that a page may read.
const RESPONSE_HEADERS: [HeaderName; 5] = [
    header::RETRY_AFTER,
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("server-timing"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-siglip-truncated-texts"),
];

/// The layer for these origins. `None` without origins. Cookies are not allowed, because the API does not use
/// them.
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
