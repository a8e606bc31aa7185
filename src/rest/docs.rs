//! `/docs`: the pages with the API reference. All files are embedded in the binary, so they work offline.

mod errors;

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use axum::{
    extract::Path,
    http::HeaderMap,
    response::{Redirect, Response},
};
use parking_lot::Mutex;
use utoipa_swagger_ui::Config;

pub use self::errors::error_page;
pub(super) use self::errors::{errors, problem_type};
use super::{packed::Packed, page::secured, problem::Failure};
use crate::error::{Code, Error};

/// Allows only what the pages need and nothing from other sites. The icons are data URIs, and the scripts set
/// inline styles.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    // Relative, so that a path prefix of a proxy is kept. By default, the page would send the document to a
    // public validator.
    Arc::new(Config::from("../openapi.json").validator_url("none").display_request_duration(true))
});

/// The pages have relative links to their files, so their path must end in a slash.
pub(super) async fn redirect() -> Redirect {
    Redirect::permanent("docs/")
}

/// The files that were requested so far.
static FILES: LazyLock<Mutex<HashMap<String, Arc<Packed>>>> = LazyLock::new(Mutex::default);

pub(super) async fn index(headers: HeaderMap) -> Result<Response, Failure> {
    asset("index.html", &headers)
}

pub(super) async fn file(
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    asset(&name, &headers)
}

fn asset(name: &str, headers: &HeaderMap) -> Result<Response, Failure> {
    let known = FILES.lock().get(name).cloned();
    if let Some(file) = known {
        return Ok(secured(file.answer(headers), POLICY));
    }
    let found = utoipa_swagger_ui::serve(name, Arc::clone(&CONFIG))
        .map_err(|error| Error::internal(error.to_string()))?
        .ok_or_else(|| Error::new(Code::NotFound, "the API's pages have no such file"))?;
    let file = Arc::new(Packed::new(&found.content_type, found.bytes.into_owned()));
    FILES.lock().insert(name.to_owned(), Arc::clone(&file));
    Ok(secured(file.answer(headers), POLICY))
}
