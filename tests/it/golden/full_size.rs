//! Compares a checkpoint of published size with transformers. It has 800 MB and is not stored, so this test is
//! run by hand.

use std::{env, time::Instant};

use siglip_server::{embedding::Embedding, model::Tower};

use super::reference::{Reference, difference, load};

/// Largest absolute difference between unit vectors at this size, from given pixels and ids.
const UNIT_TOLERANCE: f64 = 2e-4;

/// `python tests/golden/generate.py --full-size FOLDER`, then
/// `SIGLIP_FULL_SIZE=FOLDER cargo test --release --test it full_size -- --ignored --nocapture`.
#[test]
#[ignore = "needs a generated checkpoint of 800 MB, named by SIGLIP_FULL_SIZE"]
fn unit_vectors_agree() {
    let folder = env::var("SIGLIP_FULL_SIZE").expect("the folder that generate.py wrote");
    let expected = Reference::open(&format!("{folder}/expected.safetensors"));
    let mut model = load(&folder);
    let start = Instant::now();
    let images = model.vision.forward(&expected.pixels()).expect("valid pictures");
    let per_image = start.elapsed() / images.len() as u32;
    let mut text = model.text.expect("both towers");
    let start = Instant::now();
    let texts = text.forward(&expected.tokens()).expect("valid texts");
    let per_text = start.elapsed() / texts.len() as u32;
    println!("{per_image:?} an image, {per_text:?} a text");
    for (name, rows) in [("vision.pooled", images), ("text.pooled", texts)] {
        let (shape, values) = expected.floats(name);
        for (row, values) in rows.iter().zip(values.chunks_exact(shape[1])) {
            let (row, reference) = (row.normalized(), Embedding::new(values).normalized());
            let pairs = row.as_slice().iter().zip(reference.as_slice());
            let most = pairs.map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
            let relative = difference(row.as_slice(), reference.as_slice());
            println!("{name}: max abs {most:.1e}, relative {relative:.1e}");
            assert!(most <= UNIT_TOLERANCE, "{name}: {most:e}");
        }
    }
}
