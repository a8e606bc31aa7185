//! The methods of `siglip.v1.EmbeddingService`: answers, errors, limits.

use std::time::Duration;

use siglip_server::grpc::{MAX_SCORE_VALUES, proto};
use tonic::{Code, Request, Status, metadata::MetadataValue};

use super::{HEAD, Served};

const EMBED: &str = "/siglip.v1.EmbeddingService/Embed";
const SIMILARITY: &str = "/siglip.v1.EmbeddingService/Similarity";

type Client = proto::embedding_service_client::EmbeddingServiceClient<tonic::transport::Channel>;

fn client(served: &Served) -> Client {
    Client::new(served.channel.clone()).max_decoding_message_size(64 << 20)
}

fn text(text: &str) -> proto::EmbedRequest {
    let content = Some(proto::input::Content::Text(text.to_owned()));
    proto::EmbedRequest { input: vec![proto::Input { content }], ..Default::default() }
}

fn matrix(rows: &[[f32; 4]]) -> proto::Matrix {
    proto::Matrix { rows: rows.len() as u32, columns: 4, values: rows.concat() }
}

fn comparison(images: &[[f32; 4]], texts: &[[f32; 4]]) -> proto::SimilarityRequest {
    proto::SimilarityRequest {
        image_embeddings: Some(matrix(images)),
        text_embeddings: Some(matrix(texts)),
        ..Default::default()
    }
}

/// The value of a key in the metadata of a failed call.
fn said<'s>(status: &'s Status, key: &str) -> Option<&'s str> {
    status.metadata().get(key).and_then(|value| value.to_str().ok())
}

#[tokio::test]
async fn given_embeddings_are_scored_row_by_row() {
    let served = Served::ready(|_| ()).await;
    let images = [[2.0, 0.0, 0.0, 0.0], [0.0, 3.0, 4.0, 0.0]];
    let texts = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]];
    let answer = client(&served).similarity(comparison(&images, &texts)).await.expect("scores");
    assert!(answer.metadata().get("x-request-id").is_some());
    let answer = answer.into_inner();
    assert_eq!(answer.model, "fake");
    let cosine = answer.cosine.expect("cosines");
    assert_eq!((cosine.rows, cosine.columns), (2, 3));
    let expected = [1.0, 0.0, -1.0, 0.0, 0.6, 0.0];
    for (index, (&cosine, expected)) in cosine.values.iter().zip(expected).enumerate() {
        assert!((cosine - expected).abs() < 1e-6, "{index}: {cosine}");
        let logit = answer.logit.as_ref().expect("logits").values[index];
        let probability = answer.probability.as_ref().expect("probabilities").values[index];
        assert!(
            (logit - HEAD.logit(expected).expect("of a cosine")).abs() < 1e-5,
            "{index}: {logit}"
        );
        let own = HEAD.pair_probability(logit).expect("of a pair");
        assert!((probability - own).abs() < 1e-6, "{index}: {probability}");
    }
    assert_eq!(answer.usage, Some(proto::Usage::default()));
    assert!(answer.timings.expect("timings").total_ms > 0.0);
    assert_eq!(served.counted(SIMILARITY, "ok"), 1);
}

#[tokio::test]
async fn only_the_scores_asked_for_are_answered() {
    let served = Served::ready(|_| ()).await;
    let mut request = comparison(&[[1.0, 0.0, 0.0, 0.0]], &[[1.0, 0.0, 0.0, 0.0]]);
    request.scores = vec![proto::Score::Probability.into()];
    let answer = client(&served).similarity(request).await.expect("scores").into_inner();
    assert!(answer.cosine.is_none() && answer.logit.is_none());
    assert_eq!(answer.probability.expect("probabilities").values.len(), 1);
}

#[tokio::test]
async fn a_comparison_at_the_cap_is_answered_and_one_above_it_is_refused() {
    let served = Served::ready(|_| ()).await;
    let rows = vec![[0.0, 1.0, 0.0, 0.0]; 2048];
    let mut request = comparison(&rows, &rows);
    request.scores = vec![proto::Score::Cosine.into()];
    let answer = client(&served).similarity(request.clone()).await.expect("at the cap");
    let values = answer.into_inner().cosine.expect("cosines").values;
    assert_eq!(values.len(), MAX_SCORE_VALUES);
    assert!(values.iter().all(|value| (value - 1.0).abs() < 1e-6));

    request.scores.push(proto::Score::Logit.into());
    let status = client(&served).similarity(request).await.expect_err("above the cap");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(said(&status, "siglip-code"), Some("payload_too_large"));
}

#[tokio::test]
async fn a_bad_item_fails_alone_where_that_is_asked_for() {
    let served = Served::ready(|_| ()).await;
    let mut client = client(&served);
    let image = |bytes: &[u8]| {
        let source = Some(proto::image::Source::Encoded(bytes.to_vec().into()));
        proto::Input { content: Some(proto::input::Content::Image(proto::Image { source })) }
    };
    let png = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images/cat.png"));
    let png = png.expect("a sample image");
    let request = proto::EmbedRequest {
        input: vec![image(b"no picture"), image(&png), proto::Input { content: None }],
        on_error: proto::OnError::Item.into(),
        ..Default::default()
    };
    let answer = client.embed(request.clone()).await.expect("answers").into_inner();
    let matrix = answer.embeddings.expect("embeddings");
    assert_eq!((matrix.rows, matrix.columns), (3, 4));
    let rows: Vec<_> = matrix.values.chunks_exact(4).collect();
    assert!(rows[0].iter().chain(rows[2]).all(|value| value.is_nan()));
    assert!((rows[1].iter().map(|value| value * value).sum::<f32>() - 1.0).abs() < 1e-5);
    let failed: Vec<_> = answer
        .errors
        .iter()
        .map(|error| (error.index, error.code.as_str(), error.field.as_str()))
        .collect();
    assert_eq!(failed, [(0, "undecodable_image", "input[0]"), (2, "invalid_request", "input[2]")]);

    let whole = proto::EmbedRequest { on_error: proto::OnError::Fail.into(), ..request };
    client.embed(whole).await.expect_err("fails as a whole");
}

#[tokio::test]
async fn failures_carry_status_code_and_field() {
    let served = Served::ready(|_| ()).await;
    let mut client = client(&served);

    let request = proto::EmbedRequest { model: "nobody".to_owned(), ..text("a") };
    let status = client.embed(request).await.expect_err("no such model");
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(said(&status, "siglip-code"), Some("model_not_found"));
    assert_eq!(said(&status, "siglip-field"), Some("model"));
    assert!(!status.details().is_empty());

    let status = client.embed(proto::EmbedRequest::default()).await.expect_err("no input");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(said(&status, "siglip-field"), Some("input"));

    let status = client.embed(text("the fake has no text tower")).await.expect_err("images only");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(said(&status, "siglip-field"), Some("input[0]"));

    // The fake model reads images of one size.
    let request = proto::EmbedRequest { max_num_patches: Some(64), ..text("a") };
    let status = client.embed(request).await.expect_err("a fixed size");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(said(&status, "siglip-field"), Some("max_num_patches"));
    let request = comparison(&[[1.0; 4]], &[[1.0; 4]]);
    let request = proto::SimilarityRequest { max_num_patches: Some(64), ..request };
    let status = client.similarity(request).await.expect_err("a fixed size");
    assert_eq!(said(&status, "siglip-field"), Some("max_num_patches"));

    let nan = comparison(&[[f32::NAN; 4]], &[[1.0; 4]]);
    let status = client.similarity(nan).await.expect_err("not finite");
    assert_eq!(said(&status, "siglip-field"), Some("image_embeddings[0]"));

    assert_eq!(served.counted(EMBED, "model_not_found"), 1);
    assert_eq!(served.counted(EMBED, "invalid_request"), 3);
}

#[tokio::test]
async fn a_model_that_loads_and_a_server_that_drains_say_so() {
    let served = Served::start(|_| ()).await;
    let status = client(&served).embed(text("a")).await.expect_err("not loaded");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(said(&status, "siglip-code"), Some("not_ready"));
    served.engine.registry().close();
    let status = client(&served).embed(text("a")).await.expect_err("draining");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(said(&status, "siglip-code"), Some("shutting_down"));
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_the_next_one_is_answered() {
    let served = Served::ready(|config| config.limits.max_body_bytes = 1000).await;
    let mut client = client(&served);
    let status = client.embed(text(&"a".repeat(2000))).await.expect_err("too large");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(said(&status, "siglip-code"), Some("payload_too_large"));
    let one = [[1.0, 0.0, 0.0, 0.0]];
    client.similarity(comparison(&one, &one)).await.expect("the connection lives on");
}

#[tokio::test]
async fn lists_without_an_end_are_refused_before_they_are_taken_apart() {
    let served = Served::ready(|_| ()).await;
    let request =
        proto::EmbedRequest { input: vec![proto::Input::default(); 1 << 20], ..Default::default() };
    let status = client(&served).embed(request).await.expect_err("too many");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert_eq!(said(&status, "siglip-code"), Some("too_many_items"));
    client(&served).embed(text("a")).await.expect_err("it embeds pictures only");
}

#[tokio::test]
async fn bad_metadata_is_refused_by_name() {
    let served = Served::ready(|_| ()).await;
    let mut request = Request::new(text("a"));
    request.metadata_mut().insert("x-priority", MetadataValue::from_static("urgent"));
    let status = client(&served).embed(request).await.expect_err("no such priority");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(said(&status, "siglip-field"), Some("x-priority"));
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_deadline_exceeded() {
    // The server's own timeout: a client's deadline would be enforced by the client first.
    let served = Served::ready(|config| config.limits.request_timeout = Duration::ZERO).await;
    let rows = vec![[0.0, 1.0, 0.0, 0.0]; 1000];
    let status = client(&served).similarity(comparison(&rows, &rows)).await.expect_err("too late");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(said(&status, "siglip-code"), Some("deadline_exceeded"));
    assert_eq!(served.counted(SIMILARITY, "deadline_exceeded"), 1);
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented() {
    let served = Served::ready(|_| ()).await;
    let mut client = tonic::client::Grpc::new(served.channel.clone());
    client.ready().await.expect("connected");
    let path = http::uri::PathAndQuery::from_static("/siglip.v1.EmbeddingService/Nothing");
    let codec = tonic_prost::ProstCodec::<proto::EmbedRequest, proto::EmbedResponse>::default();
    let status = client.unary(Request::new(text("a")), path, codec).await.expect_err("no method");
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(served.counted("unmatched", "method_not_allowed"), 1);
}

#[tokio::test]
async fn compressed_messages_are_read_and_bounded() {
    use tonic::codec::CompressionEncoding::Gzip;
    let served = Served::ready(|config| config.limits.max_body_bytes = 10_000).await;
    let one = [[1.0, 0.0, 0.0, 0.0]];
    let gzip = || client(&served).send_compressed(Gzip);
    let answer = gzip().similarity(comparison(&one, &one)).await.expect("scores").into_inner();
    assert_eq!(answer.cosine.expect("cosines").values, [1.0]);
    // The limit applies to the decompressed size.
    let status = gzip().embed(text(&"a".repeat(10_001))).await.expect_err("too large");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(said(&status, "siglip-code"), Some("payload_too_large"));

    let mut other = Request::new(text("a"));
    other.metadata_mut().insert("grpc-encoding", MetadataValue::from_static("zstd"));
    let status = client(&served).embed(other).await.expect_err("not read");
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(said(&status, "siglip-code"), Some("unsupported_media_type"));
    assert_eq!(said(&status, "grpc-accept-encoding"), Some("gzip,identity"));
}

#[tokio::test]
async fn a_drain_ends_when_the_calls_do() {
    let served = Served::ready(|_| ()).await;
    let one = [[1.0, 0.0, 0.0, 0.0]];
    client(&served).similarity(comparison(&one, &one)).await.expect("scores");
    served.shut_down();
    assert!(served.ended().await < Duration::from_secs(5));
}
