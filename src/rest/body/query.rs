//! Options in a query and in form fields.

use axum::http::Uri;
use serde::de::DeserializeOwned;

use super::fault::{self, quoted};
use crate::error::{Code, Error};

/// The value of a form field. `None` for `null`, which scripts write when nothing was chosen.
///
/// # Errors
/// [`Code::InvalidRequest`], which names the field `name`.
pub(in crate::rest) fn option<T: DeserializeOwned>(
    name: &'static str,
    text: &str,
) -> Result<Option<T>, Error> {
    if text == "null" {
        return Ok(None);
    }
    // Numbers and booleans are JSON. Everything else is a string.
    serde_json::from_str(text)
        .or_else(|_| serde_json::from_value(serde_json::Value::from(text)))
        .map(Some)
        .map_err(|error| fault::of(name, &error.to_string()))
}

/// The options in a query.
///
/// # Errors
/// [`Code::InvalidRequest`], which names the parameter.
pub(in crate::rest) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Error> {
    let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let parser = serde_urlencoded::Deserializer::new(pairs);
    serde_path_to_error::deserialize(parser).map_err(|error| {
        let path = error.path().to_string();
        fault::of(&path, &error.into_inner().to_string())
    })
}

/// Refuses a query on a route that reads none, because its options would be ignored.
///
/// * `reason`: why the route does not read a query
///
/// # Errors
/// [`Code::InvalidRequest`], which names the first parameter.
pub(in crate::rest) fn refuse_query(uri: &Uri, reason: &str) -> Result<(), Error> {
    let query = uri.query().unwrap_or_default();
    let Some((name, _)) = form_urlencoded::parse(query.as_bytes()).next() else { return Ok(()) };
    let message = format!("the query is not read here: {reason}");
    Err(Error::new(Code::InvalidRequest, message).with_field(quoted(&name)))
}
