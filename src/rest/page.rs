//! `/`: a page to try the models. Its files are embedded, and it sends requests only to this server.

use std::{collections::HashMap, sync::LazyLock};

use axum::{
    extract::Path,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::Response,
};

use super::{packed::Packed, problem::Failure};
use crate::error::{Code, Error};

/// Allows the page's own files, requests to this server, and the images that the user chose.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

const HEADERS: [(HeaderName, HeaderValue); 4] = [
    // Browsers must use the declared content type and not guess it from the bytes.
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    // The same as `frame-ancestors`, for old browsers.
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    // The files belong to this build. After an update, browsers must use the new files at once.
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
];

/// Adds the headers of a page for people.
pub(super) fn secured(mut response: Response, policy: &'static str) -> Response {
    let headers = response.headers_mut();
    headers.extend(HEADERS);
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

/// The page's files by their names below `/page/`.
static FILES: LazyLock<HashMap<&'static str, Packed>> = LazyLock::new(|| {
    let text = TEXTS.iter().map(|&(name, text)| (name, text.as_bytes()));
    text.chain(SAMPLES).map(|(name, bytes)| (name, Packed::new(type_of(name), bytes))).collect()
});

static INDEX: LazyLock<Packed> =
    LazyLock::new(|| Packed::new("text/html; charset=utf-8", include_str!("page/index.html")));

macro_rules! texts {
    ($($name:literal),* $(,)?) => { [$(($name, include_str!(concat!("page/", $name)))),*] };
}

/// Styles and modules.
const TEXTS: [(&str, &str); 21] = texts![
    "api.js",
    "base.css",
    "captions.js",
    "code.js",
    "dom.js",
    "images.js",
    "labels.js",
    "layout.css",
    "main.js",
    "matrix.js",
    "models.js",
    "notice.js",
    "numbers.js",
    "pairs.js",
    "parts.css",
    "search.js",
    "status.js",
    "trace.js",
    "views.css",
    "words-ko.js",
    "words.js",
];

macro_rules! samples {
    ($($name:literal),* $(,)?) => {
        [$((concat!("samples/", $name), include_bytes!(concat!("page/samples/", $name)))),*]
    };
}

/// Drawings to try the demo model. `NOTICE` names their sources and licences.
const SAMPLES: [(&str, &[u8]); 8] = samples![
    "apple.png",
    "car.png",
    "cat.png",
    "dog.jpg",
    "guitar.png",
    "pizza.webp",
    "rocket.gif",
    "sunflower.jpg",
];

fn type_of(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("png") => "image/png",
        Some("jpg") => "image/jpeg",
        Some("webp") => "image/webp",
        Some("gif") => "image/gif",
        _ => "application/octet-stream",
    }
}

pub(super) async fn index(headers: HeaderMap) -> Response {
    secured(INDEX.answer(&headers), POLICY)
}

pub(super) async fn file(
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let file = FILES.get(name.as_str());
    let file = file.ok_or_else(|| Error::new(Code::NotFound, "the page has no such file"))?;
    Ok(secured(file.answer(&headers), POLICY))
}
