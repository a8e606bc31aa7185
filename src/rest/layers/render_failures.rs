//! Writes the body of every failure, in the format of its route.

use axum::{
    extract::Request,
    http::{StatusCode, header},
    middleware::Next,
    response::Response,
};

use super::request_id::RequestId;
use crate::{
    error::{Code, Error},
    rest::{
        problem::{Failure, Ids, render},
        routes,
    },
    telemetry::Trace,
};

/// Writes the body of typed failures. An error status without a type, such as a rejection by the framework,
/// gets a type first.
pub(in crate::rest) async fn render_failures(request: Request, next: Next) -> Response {
    let envelope = routes::table().errors(request.uri().path());
    let id = request.extensions().get::<RequestId>().cloned();
    let trace = request.extensions().get::<Trace>().map(Trace::id);
    let mut response = next.run(request).await;

    let failure = match response.extensions_mut().remove::<Failure>() {
        Some(failure) => failure,
        None => match untyped(response.status()) {
            Some(code) => Failure(Error::new(code, "the request was refused")),
            None => return response,
        },
    };
    let ids = Ids { request: id.as_ref().map(RequestId::as_str), trace: trace.as_deref() };
    let mut rendered = render(&failure.0, envelope, ids);
    // Keep the headers that the layers below added, such as `allow` of a 405, or `server-timing`.
    for (name, value) in response.headers() {
        if name != header::CONTENT_LENGTH && name != header::CONTENT_TYPE {
            rendered.headers_mut().insert(name, value.clone());
        }
    }
    rendered.extensions_mut().insert(failure);
    rendered
}

/// The closest code for an error status without a code.
fn untyped(status: StatusCode) -> Option<Code> {
    match status {
        status if !status.is_client_error() && !status.is_server_error() => None,
        StatusCode::NOT_FOUND => Some(Code::NotFound),
        StatusCode::METHOD_NOT_ALLOWED => Some(Code::MethodNotAllowed),
        StatusCode::PAYLOAD_TOO_LARGE => Some(Code::PayloadTooLarge),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Some(Code::UnsupportedMediaType),
        status if status.is_client_error() => Some(Code::InvalidRequest),
        _ => Some(Code::Internal),
    }
}
