//! The embedded checkpoint on the sample images, against transformers on the same folder.

use std::fs;

use siglip_server::{
    embedding::Embedding,
    model::Tower,
    preprocess::{self, Decoding, ImageLimits},
};

use super::reference::{Reference, assert_close, cosines, load};

const LIMITS: ImageLimits =
    ImageLimits { max_bytes: 1 << 20, max_pixels: 1 << 24, max_decode_bytes: 1 << 26 };

#[test]
fn every_stage_agrees() {
    let expected = Reference::open("demo/expected.safetensors");
    let mut model = load("demo");
    let pixels = expected.pixels();
    expected.check_stages("vision", &model.vision.stages(&pixels).expect("valid pictures"));
    let images = model.vision.forward(&pixels).expect("valid pictures");
    let tokenizer = model.tokenizer.expect("both towers");
    let rows: Vec<_> = expected
        .list("texts")
        .iter()
        .map(|text| tokenizer.encode(&tokenizer.canonical(text)).expect("any text"))
        .collect();
    let ids: Vec<_> = rows.iter().map(|row| row.ids.to_vec()).collect();
    assert_eq!(ids, expected.ids());
    let mut text = model.text.expect("both towers");
    expected.check_stages("text", &text.stages(&rows).expect("valid texts"));
    let texts = text.forward(&rows).expect("valid texts");
    let flat = |rows: &[Embedding]| -> Vec<f32> {
        rows.iter().flat_map(|row| row.as_slice().iter().copied()).collect()
    };
    assert_close("image embeddings", &flat(&images), &expected.floats("vision.pooled").1);
    assert_close("text embeddings", &flat(&texts), &expected.floats("text.pooled").1);
    let head = model.card.scorer.expect("both towers");
    let logits: Vec<f32> =
        cosines(&images, &texts).into_iter().filter_map(|cosine| head.logit(cosine)).collect();
    assert_close("logits", &logits, &expected.floats("logits").1);
}

#[test]
fn the_sample_images_become_pillows_pixels() {
    let expected = Reference::open("demo/expected.safetensors");
    let mut model = load("demo");
    for (name, reference) in expected.list("images").iter().zip(expected.pixels()) {
        let path = format!("{}/tests/fixtures/images/{name}", env!("CARGO_MANIFEST_DIR"));
        let bytes = fs::read(path).expect("a sample image");
        let prepared = preprocess::prepare(&bytes, &model.image, &LIMITS, Decoding::Full)
            .expect("a valid picture");
        let most = prepared
            .pixels
            .data
            .iter()
            .zip(reference.data.iter())
            .map(|(value, expected)| value.abs_diff(*expected))
            .max();
        // Lossy decoders differ slightly, so only the embedding is compared.
        let lossless = name.ends_with("png") || name.ends_with("gif");
        println!("{name}: at most {most:?} levels");
        assert!(most <= Some(if lossless { 1 } else { 8 }), "{name}: {most:?}");
        let rows = model.vision.forward(&[prepared.pixels, reference]).expect("valid pictures");
        let cosine = cosines(&rows[..1], &rows[1..])[0];
        // The demo's images are small, so one or two levels from a lossy decoder have an effect.
        let least = if lossless { 0.9999 } else { 0.9995 };
        assert!(cosine >= least, "{name}: {cosine}");
    }
}
