//! Entry points for fuzzing this API: they read bodies into requests. Only in builds with debug assertions.

use axum::{
    body::Body,
    extract::Request,
    http::{Uri, header},
};
use bytes::Bytes;
use futures::stream;

pub(crate) use super::bulk::fuzz::{frames, lines};
use super::{
    body::{self, Form, FromPayload},
    classify::ClassifyRequest,
    compat::{cohere, oip::wire::Call, rerank, score, tei, voyage, weaviate},
    embeddings::EmbeddingsRequest,
    features::FeaturesRequest,
    similarity::SimilarityRequest,
};
use crate::{config, error::Error, oip::InferRequest};

/// The boundary between the parts of the forms that [`form`] reads.
pub(crate) const BOUNDARY: &str = "X";

/// A route's request type, as far as it can be read without a model.
trait Fuzzed: FromPayload {
    fn resolve_all(self) -> Result<(), Error>;
}

impl Fuzzed for EmbeddingsRequest {
    fn resolve_all(self) -> Result<(), Error> {
        self.split().map(drop)
    }
}

impl Fuzzed for SimilarityRequest {
    fn resolve_all(self) -> Result<(), Error> {
        self.split().map(drop)
    }
}

impl Fuzzed for ClassifyRequest {
    fn resolve_all(self) -> Result<(), Error> {
        self.split().map(drop)
    }
}

impl Fuzzed for FeaturesRequest {
    fn resolve_all(self) -> Result<(), Error> {
        self.resolve().map(drop)
    }
}

impl Fuzzed for cohere::EmbedBody {
    fn resolve_all(mut self) -> Result<(), Error> {
        self.split().map(drop)
    }
}

impl Fuzzed for rerank::RerankBody {
    fn resolve_all(self) -> Result<(), Error> {
        self.split().map(drop)
    }
}

/// Request types whose items are read in the handler, in the same way as those above.
macro_rules! parsed_only {
    ($($body:ty),+) => {
        $(impl Fuzzed for $body {
            fn resolve_all(self) -> Result<(), Error> {
                Ok(())
            }
        })+
    };
}

parsed_only!(
    cohere::rerank::RerankBody,
    score::ScoreBody,
    tei::endpoint::Task,
    voyage::EmbedBody,
    weaviate::VectorizeBody
);

/// Reads a JSON body as the request type of each route.
pub(crate) async fn json(bytes: Bytes) {
    read_json::<EmbeddingsRequest>(bytes.clone()).await;
    read_json::<SimilarityRequest>(bytes.clone()).await;
    read_json::<ClassifyRequest>(bytes.clone()).await;
    read_json::<FeaturesRequest>(bytes.clone()).await;
    read_json::<cohere::EmbedBody>(bytes.clone()).await;
    read_json::<cohere::rerank::RerankBody>(bytes.clone()).await;
    read_json::<rerank::RerankBody>(bytes.clone()).await;
    read_json::<score::ScoreBody>(bytes.clone()).await;
    read_json::<tei::endpoint::Task>(bytes.clone()).await;
    read_json::<voyage::EmbedBody>(bytes.clone()).await;
    read_json::<weaviate::VectorizeBody>(bytes).await;
}

async fn read_json<T: Fuzzed>(bytes: Bytes) {
    let intake = body::Intake::uncounted(&config::Limits::default());
    let outcome = body::json::<T>(bytes, intake).await.and_then(T::resolve_all);
    if let Err(error) = outcome {
        check(&error);
    }
}

/// Reads a body of the Open Inference Protocol of which `length` bytes are JSON. Without a length, all bytes
/// are.
pub(crate) async fn inference(bytes: Bytes, length: Option<usize>) -> Option<InferRequest> {
    let intake = body::Intake::uncounted(&config::Limits::default());
    let call = Call::read(bytes, length, intake).await;
    let request = call.and_then(|call| call.split(String::from("demo")));
    request.map(|(request, _)| request).inspect_err(check).ok()
}

/// Reads a form as the request type of each route. The body arrives in chunks of `piece` bytes.
pub(crate) async fn form(bytes: &Bytes, piece: usize) {
    read_form::<EmbeddingsRequest>(bytes, piece).await;
    read_form::<SimilarityRequest>(bytes, piece).await;
    read_form::<ClassifyRequest>(bytes, piece).await;
    read_form::<FeaturesRequest>(bytes, piece).await;
}

async fn read_form<T: Fuzzed>(bytes: &Bytes, piece: usize) {
    let pieces: Vec<_> =
        bytes.chunks(piece).map(|it| Ok::<_, Error>(bytes.slice_ref(it))).collect();
    let mut request = Request::new(Body::from_stream(stream::iter(pieces)));
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    if let Ok(kind) = kind.parse() {
        request.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    let form = Form::read(request, &()).await;
    if let Err(error) = form.and_then(T::from_form).and_then(T::resolve_all) {
        check(&error);
    }
}

/// Reads a query as the options of a request whose body is an image.
pub(crate) fn query(text: &str) {
    let Ok(uri) = format!("/v1/embeddings?{text}").parse::<Uri>() else { return };
    for outcome in [
        EmbeddingsRequest::from_image(Bytes::from_static(b"x"), &uri).and_then(Fuzzed::resolve_all),
        FeaturesRequest::from_image(Bytes::from_static(b"x"), &uri).and_then(Fuzzed::resolve_all),
    ] {
        if let Err(error) = outcome {
            check(&error);
        }
    }
}

/// Checks that the error is a client error and that its message does not repeat the body.
pub(crate) fn check(error: &Error) {
    assert!(error.code().spec().status.is_client_error(), "{error:?}");
    assert!(error.message().len() < 8 << 10, "{} bytes of message", error.message().len());
}
