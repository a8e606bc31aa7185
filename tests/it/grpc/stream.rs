//! The methods `EmbedStream` and `Classify`.

use futures::{SinkExt, StreamExt, channel::mpsc, stream};
use half::f16;
use siglip_server::grpc::proto::{
    self, embed_stream_request::Message, embed_stream_response::Outcome,
};
use tonic::{Code, Streaming, transport::Channel};

use super::Served;

const STREAM: &str = "/siglip.v1.EmbeddingService/EmbedStream";

type Client = proto::embedding_service_client::EmbeddingServiceClient<Channel>;

fn png() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images/cat.png");
    std::fs::read(path).expect("a sample image")
}

fn row(id: &str, picture: &[u8]) -> proto::EmbedStreamRequest {
    let source = Some(proto::image::Source::Encoded(picture.to_vec().into()));
    let content = Some(proto::input::Content::Image(proto::Image { source }));
    let input = Some(proto::Input { content });
    let message = Some(Message::Row(proto::EmbedStreamRow { id: id.to_owned(), input }));
    proto::EmbedStreamRequest { message }
}

fn options(options: proto::EmbedStreamOptions) -> proto::EmbedStreamRequest {
    proto::EmbedStreamRequest { message: Some(Message::Options(options)) }
}

async fn all(
    mut answers: Streaming<proto::EmbedStreamResponse>,
) -> Vec<proto::EmbedStreamResponse> {
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await.expect("no failure of the whole") {
        all.push(answer);
    }
    all
}

fn embedding(answer: &proto::EmbedStreamResponse) -> &[u8] {
    match &answer.outcome {
        Some(Outcome::Embedding(bytes)) => bytes,
        other => panic!("{other:?}"),
    }
}

fn error(answer: &proto::EmbedStreamResponse) -> (&str, u64) {
    match &answer.outcome {
        Some(Outcome::Error(error)) => (error.code.as_str(), error.index),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn rows_are_answered_in_order_with_their_ids_and_status() {
    let served = Served::ready(|_| ()).await;
    let mut client = Client::new(served.channel.clone());
    let text = proto::Input { content: Some(proto::input::Content::Text("a".to_owned())) };
    let text = proto::EmbedStreamRow { id: "text".to_owned(), input: Some(text) };
    let rows = vec![
        row("a", &png()),
        row("b", b"no picture"),
        proto::EmbedStreamRequest { message: Some(Message::Row(text)) },
        proto::EmbedStreamRequest { message: None },
        options(proto::EmbedStreamOptions::default()),
        row("z", &png()),
    ];
    let answers = client.embed_stream(stream::iter(rows)).await.expect("a stream").into_inner();
    let answers = all(answers).await;
    let ids: Vec<_> = answers.iter().map(|answer| answer.id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "text", "", "", "z"]);
    assert!(answers.iter().zip(0..).all(|(answer, index)| answer.index == index));
    // The fake model gives 1, 2, 2, 0, a vector of length 3.
    let third = (1.0_f32 / 3.0).to_le_bytes();
    assert_eq!(embedding(&answers[0])[..4], third);
    assert_eq!(embedding(&answers[5]), embedding(&answers[0]));
    assert_eq!(error(&answers[1]), ("undecodable_image", 1));
    assert_eq!(error(&answers[2]), ("invalid_request", 2));
    assert_eq!(error(&answers[3]).0, "invalid_request");
    assert_eq!(error(&answers[4]).0, "invalid_request");
    assert_eq!(served.counted(STREAM, "ok"), 1);
}

#[tokio::test]
async fn the_first_message_may_hold_the_options() {
    let served = Served::ready(|_| ()).await;
    let mut client = Client::new(served.channel.clone());
    let given = proto::EmbedStreamOptions {
        dimensions: Some(3),
        normalized: Some(false),
        encoding: proto::Encoding::F16.into(),
        ..Default::default()
    };
    let rows = stream::iter(vec![options(given), row("a", &png())]);
    let answers = all(client.embed_stream(rows).await.expect("a stream").into_inner()).await;
    let halves: Vec<u8> =
        [1.0, 2.0, 2.0].iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
    assert_eq!(embedding(&answers[0]), halves);

    for refused in [
        proto::EmbedStreamOptions { dimensions: Some(5), ..Default::default() },
        proto::EmbedStreamOptions { encoding: 99, ..Default::default() },
    ] {
        let status = client.embed_stream(stream::iter(vec![options(refused)])).await;
        assert_eq!(status.expect_err("refused").code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn answers_come_while_rows_are_being_sent_and_a_drain_ends_the_stream() {
    let served = Served::ready(|_| ()).await;
    let mut client = Client::new(served.channel.clone());
    let (mut rows, receiver) = mpsc::channel(4);
    rows.send(row("0", &png())).await.expect("room");
    let mut answers = client.embed_stream(receiver).await.expect("a stream").into_inner();
    for id in 0..3 {
        if id > 0 {
            rows.send(row(&id.to_string(), &png())).await.expect("the server reads");
        }
        let answer = answers.next().await.expect("an answer").expect("no failure");
        assert_eq!(answer.id, id.to_string());
    }
    served.engine.registry().close();
    let status = answers.next().await.expect("a status").expect_err("the drain");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.metadata().get("siglip-code").expect("a code"), "shutting_down");
}

#[tokio::test]
async fn a_model_without_a_text_tower_judges_nothing() {
    let served = Served::ready(|_| ()).await;
    let mut client = Client::new(served.channel.clone());
    let rows = proto::Matrix { rows: 1, columns: 4, values: vec![1.0, 0.0, 0.0, 0.0] };
    let request = proto::ClassifyRequest {
        image_embeddings: Some(rows),
        labels: vec!["a cat".to_owned()],
        ..Default::default()
    };
    let status = client.classify(request.clone()).await.expect_err("no text tower");
    assert_eq!(status.code(), Code::InvalidArgument);
    let none = proto::ClassifyRequest { top_k: Some(0), ..request.clone() };
    let status = client.classify(none).await.expect_err("no labels at all");
    assert_eq!(status.metadata().get("siglip-field").expect("a field"), "top_k");
    let neither = proto::ClassifyRequest { image_embeddings: None, ..request };
    let status = client.classify(neither).await.expect_err("no images");
    assert_eq!(status.metadata().get("siglip-field").expect("a field"), "images");
}
