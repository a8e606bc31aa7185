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
#[cfg(debug_assertions)]
pub(crate) mod fuzz;
mod health;
mod info;
mod layers;
mod long_text;
mod metrics;
mod models;
mod negotiate;
mod openapi;
mod packed;
mod page;
mod paths;
mod problem;
mod respond;
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
    layers::{
        authorize, bound_body, carry_request_id, catch_panic, check_host, compress, cors, no_query,
        observe, plain_body, plain_unless_named, render_failures, set_context,
    },
    packed::Packed,
    problem::Failure,
};
use crate::{
    auth::Keys,
    config::{self, WebOrigin},
    engine::Engine,
    error::{Code, Error},
    telemetry::Metrics,
};

/// What every handler shares. Cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

/// Who may use a listener, and what is on it.
#[derive(Debug)]
pub struct Access {
    /// The keys of which every request must present one; none are asked for without.
    pub keys: Option<Arc<Keys>>,
    /// Origins whose pages may call from a browser.
    pub origins: Vec<WebOrigin>,
    /// The host names under which the server answers.
    pub hosts: Hosts,
    /// Whether `/metrics` is here, and not on a listener of its own.
    pub metrics: bool,
    /// Whether this is that listener, which has nothing else but the probes.
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
    /// Bytes of request bodies that may be held at once, over all connections.
    body_budget: Arc<Semaphore>,
    /// Turns of streamed answers at computing.
    stream_turns: Arc<Semaphore>,
    /// `/openapi.json`, rendered once.
    openapi_json: Packed,
    /// Seconds since 1970 at which the server started: `created` in the list of models.
    started: u64,
}

impl AppState {
    /// The state of a router over `engine` that is open to everybody.
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
            // They shall leave most of the processor to others.
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

    /// For answers that outlive their handler.
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

/// Every documented route but that of the metrics.
fn api() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::frame()).merge(bounded()).merge(streams())
}

/// Routes whose body is read without an end: their rows are bounded one by one, where they are read.
fn streams() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(bulk::embeddings))
}

/// Routes whose body is held whole.
fn bounded() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(embeddings::embeddings))
        .routes(routes!(features::features))
        .routes(routes!(similarity::similarity))
        .routes(routes!(classify::classify))
        .routes(routes!(captions::captions))
        .routes(routes!(models::list))
        .routes(routes!(models::retrieve))
        .routes(routes!(info::info))
        .merge(compat::routes())
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(openapi::serve))
}

/// The pages for people. They are not part of the API, so the document leaves them out.
fn pages() -> Router<AppState> {
    Router::new()
        .route("/", get(page::index))
        .route("/page/{*file}", get(page::file))
        .route("/docs", get(docs::redirect))
        .route("/docs/", get(docs::index))
        .route("/docs/errors", get(docs::errors))
        .route("/docs/{*file}", get(docs::file))
}

/// The whole HTTP service over an engine: routes, fallbacks and middleware.
///
/// The metrics of every route are created here, so that a scrape before the first request shows them.
pub fn router(state: AppState) -> Router {
    let document = documented().into_openapi();
    let unmatched = std::iter::once(layers::UNMATCHED);
    for route in document.paths.paths.keys().map(String::as_str).chain(unmatched) {
        state.metrics().touch_route(route);
    }
    let api = if state.0.access.metrics { bounded().merge(metrics()) } else { bounded() };
    finished(Router::from(api).merge(pages()), streams().into(), state)
}

/// The metrics, the probes and the models' towers, for a listener that is not reachable from everywhere: no key is
/// asked for.
pub fn admin_router(engine: Arc<Engine>, hosts: Hosts) -> Router {
    let health = OpenApiRouter::new().routes(routes!(health::live)).routes(routes!(health::ready));
    let access = Access { hosts, is_admin: true, ..Access::default() };
    let routes = Router::from(metrics().merge(health)).merge(admin::routes());
    finished(routes, Router::new(), AppState::with_access(engine, access))
}

/// The documented route of the metrics, which may stand on a listener of its own.
fn metrics() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(metrics::scrape))
}

/// Every documented route.
fn documented() -> OpenApiRouter<AppState> {
    api().merge(metrics())
}

/// Routes with their fallbacks and the middleware: those whose body is held whole, and those that stream.
fn finished(bounded: Router<AppState>, streams: Router<AppState>, state: AppState) -> Router {
    // Outermost first. Each layer says why it stands where it does.
    let layers = ServiceBuilder::new()
        // Outside of everything: what is counted, timed and rendered below is the answer itself.
        .layer(middleware::from_fn(plain_unless_named))
        .layer(compress())
        // Before the rest, so that whatever happens below is logged and answered under the request's id.
        .layer(middleware::from_fn(carry_request_id))
        // Counts, times and logs what the client really got, rendered failures and panics included.
        .layer(middleware::from_fn_with_state(state.clone(), observe))
        // Answers a browser's preflight, which carries no key, and marks failures too: a page that may not
        // read them could not tell what is wrong.
        .option_layer(cors(&state.0.access.origins))
        // Below here a failure is a typed error without a body. Only this layer knows the route's error
        // format and the request id, so handlers and layers need not.
        .layer(middleware::from_fn(render_failures))
        // Sets the deadline and the priority, and ends the wait when the deadline passes. It also writes
        // `Server-Timing`, so it stands outside of the panic trap: such an answer has its times too.
        .layer(middleware::from_fn_with_state(state.clone(), set_context))
        // Before a key is looked at: a page of another site shall not even learn whether one is asked for.
        .layer(middleware::from_fn_with_state(state.clone(), check_host))
        // Before anything is read of the body or done for the request.
        .layer(middleware::from_fn_with_state(state.clone(), authorize))
        // Every route, streams included, reads bodies as they come.
        .layer(middleware::from_fn(plain_body))
        // The same for what no route that is only read would look at.
        .layer(middleware::from_fn(no_query))
        // A panicking handler answers `internal` and takes nothing else down.
        .layer(middleware::from_fn(catch_panic));
    // Innermost: the body is bounded where it is read, and what it holds is released once the handler is
    // done with it.
    let bound = middleware::from_fn_with_state(state.clone(), bound_body);
    let routes = bounded
        .layer(bound)
        // The library's own limit of 2 MB on forms would come before ours.
        .layer(DefaultBodyLimit::disable())
        .merge(streams)
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(layers)
        .with_state(state);
    // Outside of the router, whose layers run once the route is chosen.
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
