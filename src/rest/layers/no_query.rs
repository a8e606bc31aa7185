//! Refuses a query on routes that do not read one.

use axum::{
    extract::{MatchedPath, Request},
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::rest::{body::refuse_query, problem::Failure, routes};

/// Refuses the parameters of a GET request, because they would be ignored without an error.
pub(in crate::rest) async fn no_query(request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads && request.uri().query().is_some() {
        let path = request.extensions().get::<MatchedPath>();
        if path.is_some_and(|path| routes::table().refuses_query(path.as_str()))
            && let Err(error) = refuse_query(request.uri(), "this route takes no parameters")
        {
            return Failure(error).into_response();
        }
    }
    next.run(request).await
}
