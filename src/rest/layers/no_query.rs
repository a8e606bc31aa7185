//! Refuses a query on routes that do not read one.

use std::{collections::HashSet, sync::LazyLock};

use axum::{
    extract::{MatchedPath, Request},
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::rest::{body::refuse_query, openapi, problem::Failure};

/// Paths whose GET route reads no query. Currently none reads one.
static WITHOUT_QUERY: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let paths = openapi::document().paths.paths.into_iter();
    let described = paths.filter(|(path, item)| {
        item.get.as_ref().is_some_and(|get| openapi::refuses_query(path, get))
    });
    described.map(|(path, _)| path).collect()
});

/// Refuses the parameters of a GET request, because they would be ignored without an error.
pub(in crate::rest) async fn no_query(request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads && request.uri().query().is_some() {
        let path = request.extensions().get::<MatchedPath>();
        if path.is_some_and(|path| WITHOUT_QUERY.contains(path.as_str()))
            && let Err(error) = refuse_query(request.uri(), "this route takes no parameters")
        {
            return Failure(error).into_response();
        }
    }
    next.run(request).await
}
