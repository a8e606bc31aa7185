//! Converts a panic in the layers below to the error `internal`.

use std::panic::AssertUnwindSafe;

use axum::{
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt;

use crate::{
    error::{Error, text},
    rest::problem::Failure,
};

/// Responds with `internal` if the handler panicked. The panic message is logged and not sent to the client.
pub(in crate::rest) async fn catch_panic(request: Request, next: Next) -> Response {
    // The request and everything it owns are dropped with the future, so no broken state remains.
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            let text = text::of_panic(&*panic);
            Failure(Error::internal(format!("the handler panicked: {text}"))).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, http::Request, middleware, routing::get};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;
    use crate::rest::layers::render_failures;

    #[tokio::test]
    async fn the_panic_is_answered_and_its_text_kept_back() {
        async fn handler() {
            panic!("a secret");
        }
        let router = Router::new()
            .route("/", get(handler))
            .layer(middleware::from_fn(catch_panic))
            .layer(middleware::from_fn(render_failures));
        let request = Request::get("/").body(Body::empty()).expect("a request");
        let response = router.oneshot(request).await.expect("a router does not fail");
        assert_eq!(response.status(), 500);
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        let text = String::from_utf8_lossy(&body);
        assert!(text.contains("\"code\":\"internal\"") && !text.contains("secret"), "{text}");
    }
}
