//! The REST surface: the router, its documentation and its middleware.
//!
//! [`router`] is the one function that the server and the tests share. Every API route is registered with
//! `routes!`, which takes its path and its OpenAPI description from the same attribute, so a route cannot
//! exist undocumented.

mod admin;
mod arrays;
mod body;
mod bulk;
mod captions;
mod classify;
mod compat;
mod docs;
mod embeddings;
mod envelope;
mod features;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod health;
mod info;
mod layers;
mod long_text;
mod matching_token;
mod metrics;
mod models;
mod negotiate;
mod openapi;
mod packed;
mod page;
mod paths;
mod problem;
mod respond;
mod routes;
mod rows;
mod similarity;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::Uri,
    middleware,
    routing::get,
};
use tokio::sync::Semaphore;
use tower::ServiceBuilder;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use self::{
    docs::error_page,
    layers::{Hosts, OverUnixSocket},
    openapi::{document as openapi, yaml as openapi_yaml},
    problem::error_table,
};
use self::{
    envelope::Envelope,
    layers::{
        authorize, bound_body, carry_request_id, catch_panic, check_host, compress, cors, no_query,
        observe, plain_body, plain_unless_named, render_failures, set_context,
    },
    packed::Packed,
    problem::Failure,
    routes::{Kind, Routes},
};
use crate::{
    auth::Keys,
    config::{self, WebOrigin},
    engine::Engine,
    error::{Code, Error},
    telemetry::Metrics,
};

/// A route of the server's own API, whose errors are problem documents.
const OWN: Kind = Kind::of(Envelope::Problem);
/// A route of OpenAI's API.
const OPENAI: Kind = Kind::of(Envelope::OpenAi);
/// Paths of OpenAI's API that are not supported. `/v1` may be missing in a client's base URL.
const OPENAI_PATHS: [&str; 8] = [
    "/v1/",
    "/openai/",
    "/chat/",
    "/models/",
    "/embeddings/",
    "/completions",
    "/responses",
    "/moderations",
];

/// The state that all handlers share. Cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

/// Who may use a listener, and which routes it has.
#[derive(Debug)]
pub struct Access {
    /// The API keys. Every request must present one of them. `None` means that no key is needed.
    pub keys: Option<Arc<Keys>>,
    /// Web origins whose pages may call the API from a browser (CORS).
    pub origins: Vec<WebOrigin>,
    /// The host names under which the server answers.
    pub hosts: Hosts,
    /// Whether this listener serves `/metrics`. Otherwise a separate listener does.
    pub metrics: bool,
    /// Whether this is the separate admin listener, which serves only the metrics and the probes.
    pub is_admin: bool,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            keys: None,
            origins: Vec::new(),
            hosts: Hosts::default(),
            metrics: true,
            is_admin: false,
        }
    }
}

struct Shared {
    engine: Arc<Engine>,
    access: Access,
    /// Budget in bytes for the request bodies of all connections together.
    body_budget: Arc<Semaphore>,
    /// Permits to compute. Streamed responses take turns with them.
    stream_turns: Arc<Semaphore>,
    /// `/openapi.json`, rendered once.
    openapi_json: Packed,
    /// Seconds since 1970 at which the server started: `created` in the list of models.
    started: u64,
}

impl AppState {
    /// The state of a router over `engine` without access control.
    #[must_use]
    pub fn new(engine: Arc<Engine>) -> Self {
        Self::with_access(engine, Access::default())
    }

    /// The state of a router over `engine`.
    #[must_use]
    pub fn with_access(engine: Arc<Engine>, access: Access) -> Self {
        let budget = engine.limits().max_bytes_in_flight.min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Shared {
            body_budget: Arc::new(Semaphore::new(budget)),
            // Streamed responses use only a small part of the processor.
            stream_turns: Arc::new(Semaphore::new(
                std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(4)),
            )),
            openapi_json: Packed::new("application/json", openapi::json()),
            started: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map(|since| since.as_secs())
                .unwrap_or_default(),
            access,
            engine,
        }))
    }

    fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// For responses that are still being written after their handler has returned.
    fn shared_engine(&self) -> Arc<Engine> {
        Arc::clone(&self.0.engine)
    }

    fn limits(&self) -> &config::Limits {
        self.0.engine.limits()
    }

    fn metrics(&self) -> &Arc<Metrics> {
        self.0.engine.metrics()
    }
}

/// Routes that read a body of unlimited length. Each row has a limit, which is checked while the row is read.
fn streams() -> Routes {
    Routes::default().add(OWN, routes!(bulk::embeddings))
}

/// Routes that read the whole body into memory.
fn bounded() -> Routes {
    Routes::default()
        .add(OPENAI, routes!(embeddings::embeddings))
        .add(OWN, routes!(features::features))
        .add(OWN, routes!(similarity::similarity))
        .add(OWN, routes!(classify::classify))
        .add(OWN, routes!(captions::captions))
        .add(OPENAI, routes!(models::list))
        .add(OPENAI, routes!(models::retrieve))
        .add(OWN, routes!(info::info))
        .merge(compat::routes())
        .merge(probes())
        .add(OWN.open(), routes!(openapi::serve))
        .unsupported(Envelope::OpenAi, &OPENAI_PATHS)
        .unsupported(Envelope::Problem, &["/v1/bulk/"])
}

/// The server's own probes.
fn probes() -> Routes {
    Routes::default()
        .add(OWN.open().probe(), routes!(health::live))
        .add(OWN.open().probe(), routes!(health::ready))
}

/// The web pages.
fn pages() -> Routes {
    Routes::default()
        .page("/", get(page::index))
        .page("/page/{*file}", get(page::file))
        .page("/docs", get(docs::redirect))
        .page("/docs/", get(docs::index))
        .page("/docs/errors", get(docs::errors))
        .page("/docs/{*file}", get(docs::file))
}

/// The whole HTTP service over an engine: routes, fallbacks and middleware.
///
/// The metrics of every route are created here, so that they exist before the first request.
pub fn router(state: AppState) -> Router {
    let document = documented().into_openapi();
    let unmatched = std::iter::once(layers::UNMATCHED);
    for route in document.paths.paths.keys().map(String::as_str).chain(unmatched) {
        state.metrics().touch_route(route);
    }
    let api = if state.0.access.metrics { bounded().merge(metrics()) } else { bounded() };
    finished(api.merge(pages()).into_router().into(), streams().into_router().into(), state)
}

/// Only the metrics, the probes and the models' towers, for the admin listener. It needs no key, since it should
/// not be publicly reachable.
pub fn admin_router(engine: Arc<Engine>, hosts: Hosts) -> Router {
    let access = Access { hosts, is_admin: true, ..Access::default() };
    let routes = Router::from(metrics().merge(probes()).into_router()).merge(admin::routes());
    finished(routes, Router::new(), AppState::with_access(engine, access))
}

/// The documented route of the metrics, which may be served on a separate listener.
fn metrics() -> Routes {
    Routes::default().add(OWN.quiet(), routes!(metrics::scrape))
}

/// Every documented route.
fn documented() -> OpenApiRouter<AppState> {
    let all = bounded().merge(streams()).merge(metrics()).into_router();
    OpenApiRouter::with_openapi(openapi::frame()).merge(all)
}

/// Every route, with the pages.
fn everything() -> Routes {
    bounded().merge(streams()).merge(metrics()).merge(pages())
}

/// Adds the fallbacks and the middleware to the routes: those that read a whole body, and those that stream.
fn finished(bounded: Router<AppState>, streams: Router<AppState>, state: AppState) -> Router {
    // Outermost first. The comment on each layer gives the reason for its position.
    let layers = ServiceBuilder::new()
        // Outermost, so that the layers below count, time and render the uncompressed response.
        .layer(middleware::from_fn(plain_unless_named))
        .layer(compress())
        // Before the rest, so that all logs and responses from the layers below have the request id.
        .layer(middleware::from_fn(carry_request_id))
        // Counts, times and logs the response that the client gets, including rendered failures and panics.
        .layer(middleware::from_fn_with_state(state.clone(), observe))
        // Answers a browser's preflight request, which has no key. It also adds the CORS headers to failures:
        // without them, a page could not read what is wrong.
        .option_layer(cors(&state.0.access.origins))
        // In the layers below, a failure is a typed error without a body. This layer writes the body. Only this
        // layer needs to know the route's error format and the request id.
        .layer(middleware::from_fn(render_failures))
        // Sets the deadline and the priority, and ends the request when the deadline passes. It also writes
        // `Server-Timing`. It is outside of the panic handler, so that a response after a panic has the times
        // too.
        .layer(middleware::from_fn_with_state(state.clone(), set_context))
        // Before the key is checked: a page of another site must not learn whether a key is needed.
        .layer(middleware::from_fn_with_state(state.clone(), check_host))
        // Before the body is read and before any work is done for the request.
        .layer(middleware::from_fn_with_state(state.clone(), authorize))
        // No route accepts a compressed body, including the streams.
        .layer(middleware::from_fn(plain_body))
        // No GET route reads a query.
        .layer(middleware::from_fn(no_query))
        // If a handler panics, the response is `internal`, and other requests are not affected.
        .layer(middleware::from_fn(catch_panic));
    // Innermost: the limit applies while the body is read, and the budget is released when the handler is done.
    let bound = middleware::from_fn_with_state(state.clone(), bound_body);
    let routes = bounded
        .layer(bound)
        // Without this, the library's limit of 2 MB on forms would apply before ours.
        .layer(DefaultBodyLimit::disable())
        .merge(streams)
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(layers)
        .with_state(state);
    // Outside of the router, because the router's layers run after the route was chosen.
    Router::new()
        .fallback_service(ServiceBuilder::new().map_request(paths::canonical).service(routes))
}

async fn no_route(State(state): State<AppState>, uri: Uri) -> Failure {
    if state.0.access.is_admin {
        let message = "this listener has /metrics, /health/live, /health/ready and /admin/models alone; all else is on the HTTP listener";
        return Failure(Error::new(Code::NotFound, message));
    }
    let hint = match paths::near(uri.path()) {
        Some(route) => {
            format!("there is no such route; did you mean {route}? /docs lists them all")
        }
        None => "there is no such route; /docs lists them".to_owned(),
    };
    Failure(Error::new(Code::NotFound, hint))
}

async fn no_method() -> Failure {
    Failure(Error::new(
        Code::MethodNotAllowed,
        "this route does not take this method; the `allow` header lists those it takes",
    ))
}
