use super::*;

fn piece(piece: &str, score: f32, kind: Kind) -> Piece {
    Piece { piece: Some(piece.to_owned()), score: Some(score), kind: Some(kind as i32) }
}

fn model() -> Model {
    Model {
        pieces: vec![
            piece("<pad>", 0.0, Kind::Control),
            piece("</s>", 0.0, Kind::Control),
            piece("<unk>", 0.0, Kind::Unknown),
            piece("▁a", -1.0, Kind::Normal),
            piece("b", -2.0, Kind::Normal),
            piece("▁", -3.0, Kind::Normal),
            piece("<", -4.0, Kind::Normal),
            piece("/s>", -4.0, Kind::Normal),
        ],
        trainer: None,
        normalizer: None,
    }
}

fn ids(text: &str) -> Vec<u32> {
    let (tokenizer, normalizer) = read(&model().encode_to_vec()).expect("a valid model");
    let encoding = tokenizer.encode_fast(normalizer.apply(text), false).expect("any text");
    encoding.get_ids().to_vec()
}

#[test]
fn spaces_are_marked_and_one_stands_in_front() {
    assert_eq!(ids("a  a b "), [3, 3, 5, 4]);
    assert_eq!(ids("ab"), [3, 4]);
    assert_eq!(ids(""), [0; 0]);
    assert_eq!(ids("   "), [0; 0]);
}

#[test]
fn a_control_piece_is_not_found_in_a_text() {
    assert_eq!(ids("</s>"), [5, 6, 7]);
    assert_eq!(ids("a <unk>"), [3, 5, 6, 2]);
}

#[test]
fn what_is_not_read_is_said() {
    assert!(read(b"\xff\xff").is_err());
    let bpe = Trainer { model_type: Some(2), ..Trainer::default() };
    let error = read(&Model { trainer: Some(bpe), ..model() }.encode_to_vec());
    assert!(error.expect_err("no unigram").contains("unigram"));
    let spec = NormalizerSpec {
        precompiled_charsmap: Some(vec![200, 0, 0, 0, 1]),
        ..NormalizerSpec::default()
    };
    let error = read(&Model { normalizer: Some(spec), ..model() }.encode_to_vec());
    assert!(error.expect_err("cut").contains("charsmap"));
}
