//! The OpenAPI document: its general part, the errors of every route, and the route that serves it.

use std::collections::BTreeMap;

use axum::{
    extract::State,
    http::{HeaderMap, Method},
    response::Response,
};
use bytes::Bytes;
use serde::Deserialize;
use utoipa::{
    IntoParams, IntoResponses, OpenApi, ToSchema,
    openapi::{
        ContentBuilder, HeaderBuilder, ObjectBuilder, Ref, RefOr, ResponseBuilder,
        example::ExampleBuilder,
        response::Response as ResponseDoc,
        schema::Type,
        security::{
            ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
        },
    },
};

use super::{
    AppState,
    envelope::{CohereError, DetailError, Envelope, PlainError, TeiError},
    problem::{self, OpenAiError, Problem},
    routes,
};
use crate::{
    auth::KEY_HEADER,
    error::{Code, Error},
};

/// The image of every example: a red disc. It is complete, so that examples run unchanged.
pub(super) const EXAMPLE_IMAGE: &str = "data:image/png;base64,\
    iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAH0lEQVR42mP4jwMwQKg7cnJwhJBAFoXLUVkCp+VYAQAiBYKhiuHofgAAAABJ\
    RU5ErkJggg==";

/// The part above the routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "siglip-server",
        description = "Embeddings and calibrated pair probabilities of SigLIP image-text models.\n\n\
            Every response has the headers `x-request-id` and `Server-Timing`. Errors are problem \
            documents (RFC 9457), or have the error format of the API that a route follows. `code` is \
            the same in all formats.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    servers((url = "/", description = "This server")),
    tags(
        (name = "embeddings", description = "Vectors of texts and images"),
        (name = "pairs", description = "Calibrated probabilities that an image and a text match"),
        (name = "captions", description = "Captions, for models that generate them"),
        (name = "models", description = "The served models, and the limits"),
        (name = "operations", description = "Probes, metrics and this document"),
        (name = "compatible", description = "Routes in the formats of other servers"),
    ),
    components(schemas(
        Problem<'static>,
        OpenAiError<'static>,
        CohereError<'static>,
        DetailError,
        TeiError,
        PlainError,
    )),
)]
struct Frame;

/// The document without its routes.
pub(super) fn frame() -> utoipa::openapi::OpenApi {
    Frame::openapi()
}

/// The OpenAPI document of the server.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    let (mut document, table) = (super::documented().into_openapi(), routes::table());
    ask_for_keys(&mut document);
    for (path, item) in &mut document.paths.paths {
        if let Some(get) = item.get.as_mut().filter(|_| table.refuses_query(path)) {
            let errors = responses(&[Code::InvalidRequest], table.errors(path));
            get.responses.responses.extend(errors);
        }
    }
    document
}

/// Documents how a key is sent, which routes need none, and how the others refuse a request because of its key.
/// A server may have no keys, so requests without a key are documented too.
fn ask_for_keys(document: &mut utoipa::openapi::OpenApi) {
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let header = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new(KEY_HEADER)));
    let components = document.components.get_or_insert_default();
    let mut ways = vec![SecurityRequirement::default()];
    for (name, scheme) in [("bearer", bearer), ("api_key", header)] {
        components.add_security_scheme(name, scheme);
        ways.push(SecurityRequirement::new::<_, [&str; 0], &str>(name, []));
    }
    document.security = Some(ways);
    for (path, item) in &mut document.paths.paths {
        let operations = [(Method::GET, &mut item.get), (Method::POST, &mut item.post)];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            if routes::table().is_open(&method, path) {
                operation.security = Some(Vec::new());
                continue;
            }
            for (status, response) in responses(&KEY_CODES, routes::table().errors(path)) {
                operation.responses.responses.entry(status).or_insert(response);
            }
        }
    }
}

/// The document as YAML: the file `openapi.yaml`.
///
/// # Errors
/// Fails if the document cannot be serialised. No known route causes this.
pub fn yaml() -> Result<String, Error> {
    document().to_yaml().map_err(Error::internal)
}

/// The document as JSON: the response of `/openapi.json`.
#[expect(clippy::expect_used, reason = "the document is constant, and a test writes it")]
pub(super) fn json() -> Bytes {
    (document().to_json().expect("the document can be written") + "\n").into()
}

/// Returns this document
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi",
    tag = "operations",
    responses((status = 200, description = "The OpenAPI document", body = serde_json::Value)),
)]
pub(super) async fn serve(State(state): State<AppState>, headers: HeaderMap) -> Response {
    state.0.openapi_json.answer(&headers)
}

/// Headers that every route of the engine reads.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only describes the headers; the middleware reads them")]
pub(super) struct RequestHeaders {
    /// An id for logs and errors, up to 128 printable ASCII characters. Without it, the server creates one.
    #[serde(rename = "x-request-id")]
    request_id: Option<String>,
    /// Deadline for the response in milliseconds. It can only shorten the server's own.
    #[serde(rename = "x-request-timeout-ms")]
    #[param(minimum = 1)]
    timeout_ms: Option<u64>,
    /// `interactive` (the default), or `bulk` for work that should not delay interactive requests.
    #[serde(rename = "x-priority")]
    #[param(inline)]
    priority: Option<PriorityHeader>,
}

/// The priority of a request.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum PriorityHeader {
    /// Somebody waits for the response.
    Interactive,
    /// A background job that should not delay interactive requests.
    Bulk,
}

/// The error codes of a route that uses the engine.
const ENGINE_CODES: [Code; 21] = [
    Code::InvalidRequest,
    Code::Unauthorized,
    Code::ModelNotFound,
    Code::PayloadTooLarge,
    Code::TooManyItems,
    Code::TextTooLarge,
    Code::JsonTooDeep,
    Code::ImageTooLarge,
    Code::TooManyPixels,
    Code::DecodeTooLarge,
    Code::UnsupportedMediaType,
    Code::UndecodableImage,
    Code::TextTooLong,
    Code::FetchForbidden,
    Code::Overloaded,
    Code::FetchFailed,
    Code::ShuttingDown,
    Code::NotReady,
    Code::DeadlineExceeded,
    Code::Internal,
    Code::DeviceFailed,
];

/// Groups of errors: the codes and their format.
macro_rules! errors {
    ($($(#[$doc:meta])+ $name:ident: $codes:expr, $envelope:ident;)+) => {$(
        $(#[$doc])+
        pub(super) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<ResponseDoc>> {
                responses(&$codes, Envelope::$envelope)
            }
        }
    )+};
}

/// The error codes of a route that needs a key: the key is missing or unknown, or has its maximum number of
/// requests in flight.
const KEY_CODES: [Code; 2] = [Code::Unauthorized, Code::Overloaded];

/// The error codes of a probe.
const PROBE_CODES: [Code; 2] = [Code::NotReady, Code::ShuttingDown];

errors! {
    /// The errors of a route with problem documents.
    ProblemErrors: ENGINE_CODES, Problem;
    /// The errors of a route in OpenAI's format.
    OpenAiErrors: ENGINE_CODES, OpenAi;
    /// The errors of a route in Cohere's format.
    CohereErrors: ENGINE_CODES, Cohere;
    /// The errors of a route in FastAPI's format.
    DetailErrors: ENGINE_CODES, Detail;
    /// The errors of a route in the format of text-embeddings-inference.
    TeiErrors: ENGINE_CODES, Tei;
    /// The errors of a route that returns them as one string.
    PlainErrors: ENGINE_CODES, Plain;
    /// The errors of a route that only looks up a model.
    UnknownModelErrors: [Code::ModelNotFound], OpenAi;
    /// The same as one string, including the errors of a model that is not ready.
    PlainUnknownModelErrors: [Code::ModelNotFound, Code::NotReady, Code::ShuttingDown], Plain;
    /// The errors of the readiness probe.
    NotReadyErrors: PROBE_CODES, Problem;
    /// The same in the format of text-embeddings-inference.
    TeiNotReadyErrors: PROBE_CODES, Tei;
    /// The same as one string.
    PlainNotReadyErrors: PROBE_CODES, Plain;
}

/// One response per status, with an example for each code that has this status.
fn responses(codes: &[Code], envelope: Envelope) -> BTreeMap<String, RefOr<ResponseDoc>> {
    let mut by_status = BTreeMap::<u16, Vec<Code>>::new();
    for &code in codes {
        by_status.entry(envelope.status(code).as_u16()).or_default().push(code);
    }
    by_status
        .into_iter()
        .map(|(status, codes)| (status.to_string(), RefOr::T(response(&codes, envelope))))
        .collect()
}

fn response(codes: &[Code], envelope: Envelope) -> ResponseDoc {
    let examples = codes.iter().map(|code| {
        let error = Error::new(*code, "what is wrong with this very request");
        let value = problem::document(&error, envelope);
        (code.slug(), ExampleBuilder::new().value(Some(value)).build())
    });
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(envelope.schema())))
        .examples_from_iter(examples)
        .build();
    let titles: Vec<_> =
        codes.iter().map(|code| format!("{} (`{code}`)", code.spec().title)).collect();
    let mut response = ResponseBuilder::new()
        .description(titles.join("; "))
        .content(envelope.content_type(), content);
    if codes.contains(&Code::Overloaded) {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer);
        let header = HeaderBuilder::new()
            .schema(Some(seconds))
            .description(Some("Seconds after which a retry is worth it."));
        response = response.header("Retry-After", header.build());
    }
    response.build()
}
