//! The same input gives the same output: to the bit where the batch has the same shape, within rounding
//! whatever the batch.

use image::ImageFormat;
use siglip_server::{
    config,
    embedding::Embedding,
    model::{self, Loaded, Tower},
    preprocess::{self, ImageLimits},
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
        // Other mates, the same shape.
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
    let limits = ImageLimits { max_bytes: 1 << 20, max_pixels: 1 << 20, max_decode_bytes: 1 << 24 };
    let pictures: Vec<_> = (0..ROWS as u32)
        .map(|index| {
            let bytes = hostile::encoded(ImageFormat::Png, 20 + index, 50 - index);
            preprocess::prepare(&bytes, &image, &limits).expect("a picture").pixels
        })
        .collect();
    check("pictures", vision.as_mut(), &pictures);

    let (mut text, tokenizer) = (text.expect("a text tower"), tokenizer.expect("its tokenizer"));
    let texts: Vec<_> = (0..ROWS)
        .map(|index| tokenizer.encode(&format!("a cat and {index} dogs")).expect("any text"))
        .collect();
    check("texts", text.as_mut(), &texts);
}
