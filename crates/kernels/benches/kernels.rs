//! Times the kernels at siglip-base's sizes, for every instruction set of the processor: `cargo bench -p
//! siglip-kernels`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use siglip_kernels::{
    Activation, Element, Epilogue, Level, Packer, Quantizer, Rows, Shape, activate, attention,
    layer_norm, product, quantized_product,
    resize::{LANES, weigh_columns, weigh_rows},
};

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|at| ((at * 7919) % 2001) as f32 / 1000.0 - 1.0).collect()
}

fn products_of_bytes(criterion: &mut Criterion) {
    for level in Level::available() {
        let mut group = criterion.benchmark_group(format!("product of bytes/{level}"));
        group.sample_size(10);
        for (rows, depth, columns) in [(196, 768, 2304), (196, 3072, 768), (64, 768, 3072)] {
            let (x, weights) = (values(rows * depth), values(depth * columns));
            let mut quantizer = Quantizer::new(columns, depth, level);
            quantizer.push(&weights);
            let layer = quantizer.finish();
            group.throughput(Throughput::Elements((rows * depth * columns) as u64));
            group.bench_function(format!("{rows}x{depth}x{columns}"), |bencher| {
                let part = layer.part(0..columns);
                bencher
                    .iter(|| quantized_product(level, black_box(&x), &part, Epilogue::default()));
            });
        }
    }
}

/// One image is 196 rows, one text 64. Elements per second are multiply-adds per second.
fn products(criterion: &mut Criterion) {
    for level in Level::available() {
        let mut group = criterion.benchmark_group(format!("product/{level}"));
        group.sample_size(10);
        for element in [Element::F32, Element::F16, Element::Bf16] {
            for (rows, depth, columns) in [(196, 768, 2304), (196, 3072, 768), (64, 768, 3072)] {
                let (x, weights) = (values(rows * depth), values(depth * columns));
                let mut packer = Packer::new(columns, depth, element);
                packer.push(&weights);
                let packed = packer.finish();
                group.throughput(Throughput::Elements((rows * depth * columns) as u64));
                group.bench_function(format!("{element:?}/{rows}x{depth}x{columns}"), |bencher| {
                    let layer = packed.part(0..columns);
                    bencher.iter(|| product(level, black_box(&x), &layer, Epilogue::default()));
                });
            }
        }
    }
}

fn attentions(criterion: &mut Criterion) {
    for level in Level::available() {
        let mut group = criterion.benchmark_group(format!("attention/{level}"));
        group.sample_size(10);
        for (tokens, heads, head_dim) in [(196, 12, 64), (64, 12, 64), (729, 16, 72)] {
            let width = heads * head_dim;
            let shape =
                Shape { batch: 1, queries: tokens, keys: tokens, heads, head_dim, causal: false };
            let fused = values(tokens * 3 * width);
            let view = |part: usize| Rows {
                values: &fused[part * width..],
                batch_stride: tokens * 3 * width,
                row_stride: 3 * width,
            };
            group.throughput(Throughput::Elements((2 * tokens * tokens * width) as u64));
            group.bench_function(format!("{tokens}x{heads}x{head_dim}"), |bencher| {
                bencher.iter(|| {
                    attention(level, Element::F32, shape, black_box([view(0), view(1), view(2)]))
                });
            });
        }
    }
}

fn rows(criterion: &mut Criterion) {
    for level in Level::available() {
        let mut group = criterion.benchmark_group(format!("rows/{level}"));
        let (x, affine) = (values(196 * 768), values(768));
        let mut y = x.clone();
        group.throughput(Throughput::Elements(x.len() as u64));
        group.bench_function("layer norm", |bencher| {
            bencher.iter(|| layer_norm(level, black_box(&x), (&affine, &affine), 1e-6));
        });
        for activation in [Activation::GeluTanh, Activation::GeluErf, Activation::QuickGelu] {
            group.bench_function(format!("{activation:?}"), |bencher| {
                bencher.iter(|| activate(level, activation, black_box(&mut y)));
            });
        }
    }
}

/// The sums of a resize from 1024 x 768 to 224 x 224, without the rest of the resize.
fn resizes(criterion: &mut Criterion) {
    for level in Level::available() {
        let mut group = criterion.benchmark_group(format!("resize/{level}"));
        let (columns, weights) = (vec![[7u8; LANES]; 3 * 19], vec![1 << 17; 19]);
        group.bench_function("columns", |bencher| {
            let mut out = [0; LANES];
            bencher.iter(|| weigh_columns(level, black_box((&columns, 3)), &weights, &mut out));
        });
        let (lines, mut out) = (vec![7u8; 14 * 672], vec![0; 672]);
        group.bench_function("rows", |bencher| {
            bencher.iter(|| weigh_rows(level, black_box((&lines, 672)), &weights[..14], &mut out));
        });
    }
}

criterion_group!(kernels, products, products_of_bytes, attentions, rows, resizes);
criterion_main!(kernels);
