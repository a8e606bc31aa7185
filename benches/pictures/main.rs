//! From the bytes of a JPEG to the pixels that a tower of 224 pixels reads.
//!
//! ```sh
//! cargo bench --bench pictures
//! cargo bench --bench pictures --features turbojpeg
//! JPEG=photo.jpg cargo bench --bench pictures       # your own image
//! ```

#![expect(clippy::expect_used, reason = "a measurement stops where it cannot go on")]

mod photo;

use std::{env, fs, hint::black_box};

use criterion::{Criterion, criterion_group, criterion_main};
use image::codecs::jpeg::JpegEncoder;
use siglip_server::preprocess::{self, Decoding, ImageLimits, ImageSpec};

const LIMITS: ImageLimits =
    ImageLimits { max_bytes: 1 << 28, max_pixels: 1 << 28, max_decode_bytes: 1 << 32 };

/// Twelve megapixels, the size of photos from phones.
fn made_up() -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, 90);
    photo::photo(4000, 3000).write_with_encoder(encoder).expect("encodes");
    bytes
}

fn jpeg(criterion: &mut Criterion) {
    let file = env::var_os("JPEG");
    let bytes = file.map_or_else(made_up, |path| fs::read(path).expect("a file"));
    let spec = ImageSpec::parse(b"{}", 224).expect("the defaults");
    let mut group = criterion.benchmark_group("jpeg");
    group.sample_size(20);
    group.bench_function("header", |bencher| {
        bencher.iter(|| preprocess::inspect(black_box(&bytes), &LIMITS).expect("a picture"));
    });
    for (name, decoding) in [("full", Decoding::Full), ("fast", Decoding::Fast)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                preprocess::prepare(black_box(&bytes), &spec, &LIMITS, decoding).expect("a picture")
            });
        });
    }
}

criterion_group!(benches, jpeg);
criterion_main!(benches);
