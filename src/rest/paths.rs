//! Corrects paths as clients send them: with a slash at the end, without `/v1`, or with a typing error.
//!
//! A client builds its paths from a base URL that somebody typed, so `/v1/embeddings/` and `/embeddings` are
//! common. They are served directly: with a redirect, many clients would lose the body, and a plain 404 would
//! not help the user of an SDK.

use std::{cmp::Reverse, sync::LazyLock};

use axum::{
    extract::Request,
    http::{Uri, uri::PathAndQuery},
};
use percent_encoding::percent_decode_str;

/// Azure's API has a separate path for images, with the same request and response.
const EMBEDDINGS: &str = "/v1/embeddings";
/// What Azure's API puts before the paths of OpenAI's API, and the query key that every request to it has.
const AZURE: &str = "/openai";
const AZURE_VERSION: &str = "api-version=";
/// The path of the API reference pages. The path itself is one of the pages.
const PAGES: &str = "/docs/";
/// Longer paths are not typing errors, and comparing them would cost time.
const MAX_COMPARED_BYTES: usize = 64;

/// Every documented path without parameters.
static ROUTES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let paths = super::openapi::document().paths.paths;
    paths.into_keys().filter(|path| !path.contains('{') && path != "/").collect()
});

/// The model that a path names, in Azure's form. It counts more than the model that the body names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Deployment(pub(super) String);

/// Replaces the path of a request with that of the intended route. Metrics and logs then have one name per
/// route.
pub(super) fn canonical<B>(mut request: Request<B>) -> Request<B> {
    if let Some((uri, deployment)) = without_azure(request.uri()) {
        *request.uri_mut() = uri;
        if let Some(deployment) = deployment {
            request.extensions_mut().insert(deployment);
        }
    }
    if let Some(uri) = rewritten(request.uri()) {
        *request.uri_mut() = uri;
    }
    request
}

/// A URI of Azure's API as one of OpenAI's: `/openai/v1/...`, or `/openai/deployments/MODEL/embeddings`. `None` for
/// any other URI.
fn without_azure(uri: &Uri) -> Option<(Uri, Option<Deployment>)> {
    let path = uri.path().strip_prefix(AZURE)?;
    let (path, deployment) = match path.strip_prefix("/deployments/") {
        Some(rest) => {
            let name = rest.trim_end_matches('/').strip_suffix("/embeddings")?;
            let name = percent_decode_str(name).decode_utf8().ok()?;
            (EMBEDDINGS, Some(Deployment(name.into_owned())))
        }
        None if path.starts_with("/v1/") => (path, None),
        None => return None,
    };
    let query = uri.query().unwrap_or_default().split('&');
    let kept = query.filter(|pair| !pair.is_empty() && !pair.starts_with(AZURE_VERSION));
    let kept = kept.collect::<Vec<_>>().join("&");
    let mark = if kept.is_empty() { "" } else { "?" };
    Some((with_path(uri, &format!("{path}{mark}{kept}"))?, deployment))
}

/// The same URI with another path and query.
fn with_path(uri: &Uri, path_and_query: &str) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(path_and_query).ok();
    Uri::from_parts(parts).ok()
}

/// The URI with the path of the route. `None` if nothing has to change.
fn rewritten(uri: &Uri) -> Option<Uri> {
    let given = uri.path();
    let path = given.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(given);
    if given.starts_with(PAGES) {
        return None;
    }
    let (prefix, path) = match path {
        "/images/embeddings" | "/v1/images/embeddings" => ("", EMBEDDINGS),
        _ if is_unprefixed(path) => ("/v1", path),
        _ if path == given => return None,
        _ => ("", path),
    };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    with_path(uri, &format!("{prefix}{path}{query}"))
}

/// The paths of infinity's server, which are also those of OpenAI's clients if `/v1` is missing from the base
/// URL.
fn is_unprefixed(path: &str) -> bool {
    path == "/embeddings"
        || path == "/classify"
        || path == "/models"
        || path.starts_with("/models/")
}

/// The documented path that is closest to a path without a route.
pub(super) fn near(path: &str) -> Option<&'static str> {
    let path = path.trim_matches('/').to_ascii_lowercase();
    if path.is_empty() || path.len() > MAX_COMPARED_BYTES {
        return None;
    }
    let routes = || ROUTES.iter().map(String::as_str);
    let name = |route: &'static str| route.trim_start_matches('/');
    let too_long = routes().filter(|route| ends_in(&path, name(route)));
    let too_short = routes().filter(|route| ends_in(name(route), &path));
    let misspelt = routes()
        .map(|route| {
            let bare = name(route).trim_start_matches("v1/");
            let distance = |name| strsim::damerau_levenshtein(path.as_str(), name);
            (distance(name(route)).min(distance(bare)), route)
        })
        .filter(|(distance, route)| *distance <= route.len().div_ceil(6));
    too_long
        .min_by_key(|route| (Reverse(route.len()), *route))
        .or_else(|| too_short.min_by_key(|route| (route.len(), *route)))
        .or_else(|| misspelt.min().map(|(_, route)| route))
}

/// Whether the last segments of a path are those of another.
fn ends_in(path: &str, end: &str) -> bool {
    path.strip_suffix(end).is_some_and(|start| start.is_empty() || start.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_at_the_end_and_missing_prefixes_are_put_right() {
        for (given, meant) in [
            ("/v1/embeddings/", "/v1/embeddings"),
            ("/embeddings", "/v1/embeddings"),
            ("/embeddings/?model=a&b=%2F", "/v1/embeddings?model=a&b=%2F"),
            ("/images/embeddings?a", "/v1/embeddings?a"),
            ("/v1/images/embeddings/", "/v1/embeddings"),
            ("/models/a%2Fb/", "/v1/models/a%2Fb"),
            ("/classify?top_k=1", "/v1/classify?top_k=1"),
            ("http://localhost:1/models?x", "http://localhost:1/v1/models?x"),
            ("/docs/", "/docs/"),
            ("/", "/"),
            ("/?a", "/?a"),
            ("/v1/embeddings?a=/", "/v1/embeddings?a=/"),
            ("/openai/v1/embeddings/?api-version=preview", "/v1/embeddings"),
            ("/openai/v1/models?a=b&api-version=1&c=d", "/v1/models?a=b&c=d"),
            ("/openai/deployments/a%2Fb/embeddings?api-version=1", "/v1/embeddings"),
            ("/openai/deployments/a/completions", "/openai/deployments/a/completions"),
        ] {
            let request = Request::builder().uri(given).body(()).expect(given);
            assert_eq!(canonical(request).uri(), meant, "{given}");
        }
        let azure = "/openai/deployments/a%2Fb/embeddings?api-version=1";
        let request = canonical(Request::builder().uri(azure).body(()).expect("a request"));
        let named = request.extensions().get::<Deployment>();
        assert_eq!(named, Some(&Deployment("a/b".to_owned())));
        // A path with more than one slash at the end is not corrected.
        let request = Request::builder().uri("/v1/embeddings//").body(()).expect("a request");
        assert_eq!(canonical(request).uri(), "/v1/embeddings/");
    }

    #[test]
    fn near_misses_are_recognised() {
        for (path, route) in [
            ("/v1/v1/embeddings", "/v1/embeddings"),
            ("/openai/v1/embeddings", "/v1/embeddings"),
            ("//v1/embeddings", "/v1/embeddings"),
            ("/v1/embedding", "/v1/embeddings"),
            ("/embedding", "/v1/embeddings"),
            ("/v1/Embeddings", "/v1/embeddings"),
            ("/multimodalembeddings", "/v1/multimodalembeddings"),
            ("/v1/clasify", "/v1/classify"),
            ("/metric", "/metrics"),
        ] {
            assert_eq!(near(path), Some(route), "{path}");
        }
        for path in ["/", "/v1/nothing", "/v1/chat/completions", "/wp-login.php", &"/v1".repeat(50)]
        {
            assert_eq!(near(path), None, "{path}");
        }
    }
}
