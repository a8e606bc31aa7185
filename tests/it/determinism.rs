//! The same input gives the same output: bit for bit if the batch has the same shape, and within rounding in
//! any batch.

use image::ImageFormat;
use siglip_server::{
    config,
    embedding::Embedding,
    model::{self, Loaded, Tower},
    preprocess::{self, Decoding, ImageLimits, ImageSpec, Pixels},
    tokenize::{TextTokenizer, Tokens},
};

use crate::hostile;

const TOLERANCE: f32 = 1e-5;
/// More rows than a batch of texts has.
const ROWS: usize = 33;

fn bits(rows: &[Embedding]) -> Vec<Vec<u32>> {
    rows.iter().map(|row| row.as_slice().iter().map(|value| value.to_bits()).collect()).collect()
}

fn is_close(a: &Embedding, b: &Embedding) -> bool {
    let (a, b) = (a.normalized(), b.normalized());
    a.as_slice().iter().zip(b.as_slice()).all(|(a, b)| (a - b).abs() <= TOLERANCE)
}

fn check<I: Clone + Send + 'static>(what: &str, tower: &mut dyn Tower<Input = I>, rows: &[I]) {
    let mut forward = |rows: &[I]| tower.forward(rows).expect("valid rows");
    let alone: Vec<_> =
        rows.iter().map(|row| forward(std::slice::from_ref(row)).remove(0)).collect();
    for size in [1, 2, 3, 7, 16, ROWS] {
        let batch = &rows[..size];
        let first = forward(batch);
        assert_eq!(bits(&first), bits(&forward(batch)), "{what}, {size} rows, twice");
        // Other rows in the batch, the same shape.
        let mut mates = batch.to_vec();
        mates[1..].reverse();
        let among_others = forward(&mates);
        assert_eq!(bits(&first[..1]), bits(&among_others[..1]), "{what}, {size} rows, other mates");
        for (index, (row, alone)) in first.iter().zip(&alone).enumerate() {
            assert!(is_close(row, alone), "{what}, row {index} of {size}");
        }
        let last = size - 1;
        let mut turned = batch.to_vec();
        turned.reverse();
        assert!(is_close(&forward(&turned)[last], &alone[0]), "{what}, at the end of {size}");
    }
}

#[test]
fn an_input_gives_the_same_whenever_and_with_whomever() {
    let loaded = model::load(&config::Model::default()).expect("the demo");
    let Loaded { mut vision, text, tokenizer, image, .. } = loaded;
    let pictures = pictures(&image);
    check("pictures", vision.as_mut(), &pictures);

    let (mut text, tokenizer) = (text.expect("a text tower"), tokenizer.expect("its tokenizer"));
    let texts = texts(&tokenizer);
    check("texts", text.as_mut(), &texts);
}

fn pictures(spec: &ImageSpec) -> Vec<Pixels> {
    let limits = ImageLimits { max_bytes: 1 << 20, max_pixels: 1 << 20, max_decode_bytes: 1 << 24 };
    let picture = |index| {
        let bytes = hostile::encoded(ImageFormat::Png, 20 + index, 50 - index);
        preprocess::prepare(&bytes, spec, &limits, Decoding::Full).expect("a picture").pixels
    };
    (0..ROWS as u32).map(picture).collect()
}

fn texts(tokenizer: &TextTokenizer) -> Vec<Tokens> {
    let text = |index| tokenizer.encode(&format!("a cat and {index} dogs")).expect("any text");
    (0..ROWS).map(text).collect()
}

#[test]
fn replicas_give_the_same_bits_as_one_tower() {
    let embed = |replicas| {
        let config = config::Model { threads: 3, replicas, ..config::Model::default() };
        let mut loaded = model::load(&config).expect("the demo");
        let pictures = loaded.vision.forward(&pictures(&loaded.image)).expect("pictures");
        let (mut text, tokenizer) = (loaded.text.expect("a text tower"), loaded.tokenizer);
        let texts = text.forward(&texts(&tokenizer.expect("its tokenizer"))).expect("texts");
        [bits(&pictures), bits(&texts)]
    };
    let one = embed(1);
    for replicas in [2, 3] {
        assert_eq!(embed(replicas), one, "{replicas} replicas");
    }
}

#[test]
fn more_replicas_than_threads_are_refused() {
    let config = config::Model { threads: 2, replicas: 3, ..config::Model::default() };
    let error = model::load(&config).err().expect("refused").to_string();
    assert_eq!(error, "demo: 3 replicas of the towers need as many threads; there are 2");
}
