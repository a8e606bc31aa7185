//! `/docs`: the API's pages. Everything comes out of the binary, so they work offline.

mod errors;

use std::sync::{Arc, LazyLock};

use axum::{
    extract::Path,
    http::header,
    response::{IntoResponse, Redirect, Response},
};
use utoipa_swagger_ui::Config;

pub use self::errors::error_page;
pub(super) use self::errors::{errors, problem_type};
use super::{page::secured, problem::Failure};
use crate::error::{Code, Error};

/// Allows what the pages need and nothing from elsewhere: their icons are data URIs, and their scripts set
/// inline styles.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    // The default would ask a public validator about the document.
    Arc::new(Config::from("/openapi.json").validator_url("none").display_request_duration(true))
});

/// The pages link to their files relatively, so they live under a path that ends in a slash.
pub(super) async fn redirect() -> Redirect {
    Redirect::permanent("/docs/")
}

pub(super) async fn index() -> Result<Response, Failure> {
    asset("index.html")
}

pub(super) async fn file(Path(name): Path<String>) -> Result<Response, Failure> {
    asset(&name)
}

fn asset(name: &str) -> Result<Response, Failure> {
    let found = utoipa_swagger_ui::serve(name, Arc::clone(&CONFIG))
        .map_err(|error| Error::internal(error.to_string()))?
        .ok_or_else(|| Error::new(Code::NotFound, "the API's pages have no such file"))?;
    let response = ([(header::CONTENT_TYPE, found.content_type)], found.bytes.into_owned());
    Ok(secured(response.into_response(), POLICY))
}
