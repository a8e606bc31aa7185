use bytes::Bytes;

use super::*;

fn text(text: &str) -> proto::Input {
    proto::Input { content: Some(proto::input::Content::Text(text.to_owned())) }
}

fn picture(bytes: &'static [u8]) -> proto::Image {
    proto::Image { source: Some(proto::image::Source::Encoded(Bytes::from_static(bytes))) }
}

fn rows(rows: u32, columns: u32, values: usize) -> proto::Matrix {
    proto::Matrix { rows, columns, values: vec![0.5; values] }
}

fn sides(
    image_embeddings: Option<proto::Matrix>,
    text_embeddings: Option<proto::Matrix>,
) -> proto::SimilarityRequest {
    proto::SimilarityRequest { image_embeddings, text_embeddings, ..Default::default() }
}

fn refused(message: proto::SimilarityRequest) -> Error {
    match comparison(message) {
        Ok(_) => panic!("the request was accepted"),
        Err(error) => error,
    }
}

#[test]
fn unset_options_take_their_documented_defaults() {
    let message = proto::EmbedRequest { input: vec![text("a cat")], ..Default::default() };
    let (request, by_item) = embed_request(message).expect("valid");
    assert!(!by_item);
    assert_eq!((request.model, request.dimensions), (None, None));
    assert!(request.normalize && request.truncate);
}

#[test]
fn mixed_items_keep_their_order() {
    let image = proto::Input { content: Some(proto::input::Content::Image(picture(b"png"))) };
    let message = proto::EmbedRequest {
        model: "demo".to_owned(),
        input: vec![text("a"), image, text("b")],
        dimensions: Some(8),
        normalized: Some(false),
        truncate: Some(false),
        on_error: proto::OnError::Fail.into(),
        max_num_patches: Some(64),
        multi_vector: true,
    };
    let (request, by_item) = embed_request(message).expect("valid");
    assert!(!by_item);
    let [Input::Text(a), Input::Image(ImageInput::Encoded(image)), Input::Text(b)] =
        &request.inputs[..]
    else {
        panic!("{:?}", request.inputs);
    };
    assert_eq!((a.as_str(), &image[..], b.as_str()), ("a", &b"png"[..], "b"));
    assert_eq!((request.model.as_deref(), request.dimensions), (Some("demo"), Some(8)));
    assert!(!request.normalize && !request.truncate && request.multi_vector);
    assert_eq!(request.max_num_patches, Some(64));
}

#[test]
fn an_item_without_content_is_named() {
    let empty = proto::Input { content: None };
    let hollow =
        proto::Input { content: Some(proto::input::Content::Image(proto::Image::default())) };
    for (item, field) in [(empty, "input[1]"), (hollow, "input[1].image")] {
        let message = proto::EmbedRequest { input: vec![text("a"), item], ..Default::default() };
        let error = embed_request(message).expect_err("no content");
        assert_eq!((error.code(), error.field()), (Code::InvalidRequest, Some(field)));
    }
}

#[test]
fn each_side_is_given_exactly_once() {
    let good = || Some(rows(1, 2, 2));
    assert_eq!(refused(sides(None, good())).field(), Some("images"));
    assert_eq!(refused(sides(good(), None)).field(), Some("texts"));
    let both = proto::SimilarityRequest { images: vec![picture(b"x")], ..sides(good(), good()) };
    assert_eq!(refused(both).field(), Some("images"));
    let both = proto::SimilarityRequest { texts: vec!["a".to_owned()], ..sides(good(), good()) };
    assert_eq!(refused(both).field(), Some("texts"));
    assert!(comparison(sides(good(), good())).is_ok());
}

#[test]
fn a_shape_that_does_not_fit_its_values_is_refused() {
    for bad in [rows(2, 2, 3), rows(1, 0, 0), rows(u32::MAX, u32::MAX, 1), rows(0, 2, 2)] {
        let error = refused(sides(Some(rows(1, 2, 2)), Some(bad)));
        assert_eq!(error.field(), Some("text_embeddings"), "{error}");
    }
}

#[test]
fn scores_are_all_three_unless_asked_for_and_count_once() {
    use ScoreKind::{Cosine, Logit, Probability};
    let asked = |scores: &[i32]| kinds(scores);
    assert_eq!(asked(&[]).expect("valid"), [Cosine, Logit, Probability]);
    assert_eq!(asked(&[3, 3, 1, 3]).expect("valid"), [Probability, Cosine]);
    assert_eq!(asked(&[1, 0]).expect_err("unspecified").field(), Some("scores[1]"));
    assert_eq!(asked(&[9]).expect_err("unknown").field(), Some("scores[0]"));
}

#[test]
fn an_answer_that_is_too_large_is_refused_before_any_work() {
    // 2048 x 2048 values are exactly the limit, so one matrix of this size passes and two do not.
    let message = |scores| proto::SimilarityRequest {
        scores,
        ..sides(Some(rows(2048, 1, 2048)), Some(rows(2048, 1, 2048)))
    };
    assert!(comparison(message(vec![1])).is_ok());
    assert_eq!(refused(message(vec![1, 3])).code(), Code::PayloadTooLarge);
}

#[test]
fn rows_are_stacked_row_major_and_failed_ones_are_nan() {
    let error = Error::new(Code::UndecodableImage, "no picture").with_field("input[1]");
    let rows = [vec![1.0, 2.0], vec![3.0, 4.0]].map(|row| Ok(Embedding::new(row)));
    let [first, last] = rows;
    let (message, errors) = stacked(&[first, Err(error), last]);
    assert_eq!((message.rows, message.columns), (3, 2));
    assert_eq!((&message.values[..2], &message.values[4..]), (&[1.0, 2.0][..], &[3.0, 4.0][..]));
    assert!(message.values[2..4].iter().all(|value| value.is_nan()));
    assert_eq!((errors[0].index, errors[0].code.as_str()), (1, "undecodable_image"));
}
