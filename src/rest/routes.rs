//! The table of routes: what the middleware and the document must know about a route besides its handler. Each
//! route says it where it is registered.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use axum::{http::Method, routing::MethodRouter};
use utoipa::openapi::{
    RefOr,
    path::{Operation, Parameter, ParameterIn, PathItem},
};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use super::{AppState, envelope::Envelope};

/// The properties of a route.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    errors: Envelope,
    is_open: bool,
    is_quiet: bool,
    is_probe: bool,
}

impl Kind {
    /// A route that needs a key, is logged, and has errors in this format.
    pub(super) const fn of(errors: Envelope) -> Self {
        Self { errors, is_open: false, is_quiet: false, is_probe: false }
    }

    /// GET requests need no key. Only for probes, and for files that are the same in every installation.
    pub(super) const fn open(self) -> Self {
        Self { is_open: true, ..self }
    }

    /// Requests come every few seconds: if one succeeds, it is logged at level `debug`, and it is not traced.
    pub(super) const fn quiet(self) -> Self {
        Self { is_quiet: true, ..self }
    }

    /// A quiet route that ignores its query: if a load balancer adds one, the server must not seem to be down.
    pub(super) const fn probe(self) -> Self {
        Self { is_probe: true, ..self.quiet() }
    }
}

/// Routes with their properties.
#[derive(Default)]
pub(super) struct Routes {
    router: OpenApiRouter<AppState>,
    table: Table,
}

impl Routes {
    /// Adds documented routes of one path.
    pub(super) fn add(mut self, kind: Kind, route: UtoipaMethodRouter<AppState>) -> Self {
        for (path, item) in &route.1.paths {
            self.table.insert(path, kind, item);
        }
        Self { router: self.router.routes(route), ..self }
    }

    /// Adds a web page, or a folder of pages. They are not part of the API, so the document does not list them.
    /// Nobody needs a key for them.
    pub(super) fn page(mut self, path: &'static str, page: MethodRouter<AppState>) -> Self {
        self.table.open.insert(path.to_owned());
        Self { router: self.router.route(path, page), ..self }
    }

    /// Names paths of an API that are not supported. A request for one comes from a client of this API, so the
    /// error has its format.
    ///
    /// * `paths`: each is one path, or everything below it if it ends with a slash
    pub(super) fn unsupported(mut self, errors: Envelope, paths: &[&'static str]) -> Self {
        self.table.near.extend(paths.iter().map(|&path| (path.to_owned(), errors)));
        self
    }

    pub(super) fn merge(mut self, other: Self) -> Self {
        self.table.extend(other.table);
        Self { router: self.router.merge(other.router), ..self }
    }

    pub(super) fn into_router(self) -> OpenApiRouter<AppState> {
        self.router
    }
}

/// The properties of all routes.
#[derive(Debug, Default)]
pub(super) struct Table {
    routes: BTreeMap<String, Kind>,
    /// Routes whose GET requests need no key.
    open: BTreeSet<String>,
    /// Routes whose GET requests are refused if they have a query.
    without_query: BTreeSet<String>,
    /// The formats of paths without a route.
    near: Vec<(String, Envelope)>,
}

/// The table of the whole API.
static TABLE: LazyLock<Table> = LazyLock::new(|| super::everything().table);

/// The table of the whole API.
pub(super) fn table() -> &'static Table {
    &TABLE
}

impl Table {
    fn insert(&mut self, path: &str, kind: Kind, item: &PathItem) {
        self.routes.insert(path.to_owned(), kind);
        if let Some((folder, _)) = path.split_once('{') {
            self.near.push((folder.to_owned(), kind.errors));
        }
        let Some(get) = &item.get else { return };
        if kind.is_open {
            self.open.insert(path.to_owned());
        }
        if !kind.is_probe && !reads_query(get) {
            self.without_query.insert(path.to_owned());
        }
    }

    fn extend(&mut self, other: Self) {
        self.routes.extend(other.routes);
        self.open.extend(other.open);
        self.without_query.extend(other.without_query);
        self.near.extend(other.near);
    }

    /// The error format of a path. A path without a route has the format of the longest path that begins it.
    pub(super) fn errors(&self, path: &str) -> Envelope {
        if let Some(kind) = self.routes.get(path) {
            return kind.errors;
        }
        let is_near = |near: &str| path == near || (near.ends_with('/') && path.starts_with(near));
        let near = self.near.iter().filter(|(near, _)| is_near(near));
        near.max_by_key(|(near, _)| near.len()).map_or(Envelope::Problem, |(_, errors)| *errors)
    }

    /// Whether a request needs no key. `GET /` is the web page, but `POST /` runs a model.
    ///
    /// * `route`: the route's path, with its parameters' names
    pub(super) fn is_open(&self, method: &Method, route: &str) -> bool {
        matches!(*method, Method::GET | Method::HEAD) && self.open.contains(route)
    }

    /// Whether requests for the route come every few seconds.
    pub(super) fn is_quiet(&self, route: &str) -> bool {
        self.routes.get(route).is_some_and(|kind| kind.is_quiet)
    }

    /// Whether a GET request for the route is refused if it has a query.
    pub(super) fn refuses_query(&self, route: &str) -> bool {
        self.without_query.contains(route)
    }
}

/// Whether the document has a parameter in the query.
fn reads_query(get: &Operation) -> bool {
    let in_query = |one: &RefOr<Parameter>| matches!(one, RefOr::T(one) if one.parameter_in == ParameterIn::Query);
    get.parameters.iter().flatten().any(in_query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_paths_near_a_compatible_one_keep_its_format() {
        for (path, errors) in [
            ("/v2/models/m/infer", Envelope::Plain),
            ("/v2/models/m/versions/1/x", Envelope::Plain),
            ("/v2/repository/index", Envelope::Plain),
            ("/v2", Envelope::Plain),
            ("/v1/models/x", Envelope::OpenAi),
            ("/v1/similarity", Envelope::Problem),
            ("/v1/bulk/x", Envelope::Problem),
            ("/v1/v1/embeddings", Envelope::OpenAi),
            ("/v1/embed", Envelope::Cohere),
            ("/chat/completions", Envelope::OpenAi),
            ("/models/x", Envelope::OpenAi),
            ("/v2/chat", Envelope::Cohere),
            ("/api/generate", Envelope::Plain),
            ("/.well-known/x", Envelope::Plain),
            ("/embed_all", Envelope::Tei),
            ("/score", Envelope::OpenAi),
            ("/responses", Envelope::OpenAi),
            ("/nothing", Envelope::Problem),
            ("/embed_all/x", Envelope::Problem),
            ("/metrics", Envelope::Problem),
        ] {
            assert_eq!(table().errors(path), errors, "{path}");
        }
    }

    #[test]
    fn only_get_requests_are_open() {
        assert!(table().is_open(&Method::GET, "/"));
        assert!(table().is_open(&Method::HEAD, "/docs/{*file}"));
        assert!(!table().is_open(&Method::POST, "/"));
        assert!(!table().is_open(&Method::GET, "/info"));
        assert!(!table().is_open(&Method::GET, "/v2/models/{model}/ready"));
    }

    #[test]
    fn probes_and_metrics_are_quiet() {
        for route in ["/metrics", "/health", "/ping", "/health/live", "/v2/models/{model}/ready"] {
            assert!(table().is_quiet(route), "{route}");
        }
        assert!(!table().is_quiet("/info"));
        assert!(table().refuses_query("/metrics"));
        assert!(!table().refuses_query("/health/ready"));
    }

    /// The document of a route names the format that its errors have.
    #[test]
    fn every_documented_error_has_the_format_of_its_route() {
        let document = serde_json::to_value(crate::rest::openapi()).expect("JSON");
        let mut count = 0;
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                for (status, response) in operation["responses"].as_object().expect("responses") {
                    if status.starts_with('2') {
                        continue;
                    }
                    let errors = table().errors(path);
                    let schema = &response["content"][errors.content_type()]["schema"]["$ref"];
                    let expected = format!("#/components/schemas/{}", errors.schema());
                    assert_eq!(schema, &expected, "{method} {path} {status}");
                    count += 1;
                }
            }
        }
        assert!(count > 200, "{count}");
    }
}
