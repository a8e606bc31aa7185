//! Runs one hot kernel once on a small shape, on this thread, for a tool that counts instructions (`.ci/instructions`).

use std::hint::black_box;

use siglip_kernels::{
    Activation, Choice, Element, Epilogue, Level, Packer, Quantizer, Residual, Rows, Shape,
    attention, layer_norm, product, quantized_product,
    resize::{LANES, weigh_columns, weigh_rows},
};

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|at| ((at * 7919) % 2001) as f32 / 1000.0 - 1.0).collect()
}

/// Only instructions inside this function are counted.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
}

fn linear(level: Level, element: Element, activation: Activation) {
    let (rows, depth, columns) = (66, 512, 64);
    let (x, residual) = (values(rows * depth), values(rows * columns));
    let mut packer = Packer::new(columns, depth, element);
    packer.push(&values(depth * columns));
    let packed = packer.finish();
    let epilogue = Epilogue { activation, residual: Some(Residual(&residual)) };
    counted(&mut || drop(black_box(product(level, &x, &packed.part(0..columns), epilogue))));
}

fn linear_int8(level: Level) {
    let (rows, depth, columns) = (66, 512, 64);
    let (x, residual) = (values(rows * depth), values(rows * columns));
    let mut quantizer = Quantizer::new(columns, depth, level);
    quantizer.push(&values(depth * columns));
    let layer = quantizer.finish();
    let epilogue = Epilogue { activation: Activation::None, residual: Some(Residual(&residual)) };
    let part = layer.part(0..columns);
    counted(&mut || drop(black_box(quantized_product(level, &x, &part, epilogue))));
}

fn main() {
    let kernel = std::env::args().nth(1).unwrap_or_default();
    let level = Level::choose(Choice::Avx2).unwrap_or_else(|error| panic!("{error}"));
    // The pool consists of this thread only, because instructions of other threads would not be counted.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
    let _pool = pool.build_global();
    match kernel.as_str() {
        "linear-f32" => linear(level, Element::F32, Activation::None),
        "linear-bf16" => linear(level, Element::Bf16, Activation::None),
        "linear-f16" => linear(level, Element::F16, Activation::None),
        "linear-int8" => linear_int8(level),
        "linear-gelu-tanh" => linear(level, Element::F32, Activation::GeluTanh),
        "linear-gelu-erf" => linear(level, Element::F32, Activation::GeluErf),
        "attention" => {
            let shape =
                Shape { batch: 1, queries: 66, keys: 196, heads: 1, head_dim: 64, causal: false };
            let fused = values(196 * 192);
            let view = |part: usize| Rows {
                values: &fused[part * 64..],
                batch_stride: fused.len(),
                row_stride: 192,
            };
            counted(&mut || {
                drop(black_box(attention(level, Element::F32, shape, [view(0), view(1), view(2)])))
            });
        }
        "layer-norm" => {
            let (x, affine) = (values(16 * 768), values(768));
            counted(&mut || drop(black_box(layer_norm(level, &x, (&affine, &affine), 1e-6))));
        }
        "resize" => {
            let (columns, weights) = (vec![[7u8; LANES]; 3 * 19], vec![1 << 17; 19]);
            let (lines, mut row, mut out) = (vec![7u8; 14 * 672], vec![0; 672], [0; LANES]);
            counted(&mut || {
                for _ in 0..224 {
                    weigh_columns(level, (&columns, 3), &weights, black_box(&mut out));
                }
                weigh_rows(level, (&lines, 672), &weights[..14], black_box(&mut row));
            });
        }
        other => panic!("`{other}` is no kernel"),
    }
}
