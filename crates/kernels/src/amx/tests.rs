use half::bf16;
use proptest::prelude::*;

use super::{ROW_OF_SUMS, Sums, Tile, Unit, twin::Twin};
use crate::{
    Activation, Choice, Element, Epilogue, Level, Packer, Quantizer, Residual, Rows, Shape,
    attention, product, quantized_product, tests::values,
};

fn twin() -> Level {
    Level::choose(Choice::AmxTwin).expect("plain Rust")
}

/// The sum after `tdpbf16ps` adds the products of 32 inputs `x` and 32 weights `w` to `before`. It is written
/// independently of the twin, on rows instead of tiles.
fn add_pairs(before: f32, x: &[f32], w: &[f32]) -> f32 {
    let sum = |half: usize| {
        let values = x.iter().zip(w).skip(half).step_by(2);
        values.fold(0f32, |sum, (&x, &w)| x.mul_add(w, sum))
    };
    before + (sum(0) + sum(1))
}

fn narrow(value: f32) -> f32 {
    bf16::from_f32(value).to_f32()
}

/// The larger part and the rest of an input. Inputs and weights are rounded in two ways that differ in ties.
fn split_input(x: f32) -> (f32, f32) {
    let much = x * 65537.0;
    let large = much - (much - x);
    (large, narrow(x - large))
}

fn split_weight(w: f32) -> (f32, f32) {
    (narrow(w), narrow(w - narrow(w)))
}

/// The product of `x` and the weights in the order of the instructions, one value after another.
fn expected(element: Element, x: &[f32], weights: &[f32], bias: &[f32]) -> Vec<u32> {
    let depth = weights.len() / bias.len();
    let mut y = Vec::new();
    for x in x.chunks_exact(depth) {
        for (w, bias) in weights.chunks_exact(depth).zip(bias) {
            let mut sum = 0.0;
            for (x, w) in x.chunks(32).zip(w.chunks(32)) {
                if element == Element::Bf16 {
                    let parts = [x, w].map(|values| values.iter().map(|&v| narrow(v)).collect());
                    let [x, w]: [Vec<f32>; 2] = parts;
                    sum = add_pairs(sum, &x, &w);
                } else {
                    let (x, rest_x): (Vec<_>, Vec<_>) = x.iter().map(|&x| split_input(x)).unzip();
                    let (w, rest_w): (Vec<_>, Vec<_>) = w.iter().map(|&w| split_weight(w)).unzip();
                    for (x, w) in [(&rest_x, &w), (&x, &w), (&x, &rest_w)] {
                        sum = add_pairs(sum, x, w);
                    }
                }
            }
            y.push((sum + bias).to_bits());
        }
    }
    y
}

fn check_product(element: Element, (rows, depth, columns): (usize, usize, usize), seed: u64) {
    let x = values(rows * depth, seed);
    let (weights, bias) = (values(columns * depth, seed ^ 1), values(columns, seed ^ 2));
    let mut packer = Packer::new(columns, depth, element);
    let cut = seed as usize % (columns + 1) * depth;
    packer.push(&weights[..cut]);
    packer.push(&weights[cut..]);
    packer.set_bias(&bias);
    let packed = packer.finish();
    let y = product(twin(), &x, &packed.part(0..columns), Epilogue::default());
    let bits: Vec<_> = y.iter().map(|y| y.to_bits()).collect();
    assert!(
        bits == expected(element, &x, &weights, &bias),
        "{element:?} {rows} x {depth} x {columns}"
    );
}

/// Tests every remainder of rows, inputs and outputs, one at a time.
#[test]
fn products_at_every_edge_have_the_bits_of_a_plain_loop() {
    for element in [Element::Bf16, Element::Split] {
        for size in 1..=66 {
            check_product(element, (size, 33, 17), size as u64);
            check_product(element, (17, size, 19), size as u64);
            check_product(element, (18, 31, size), size as u64);
        }
        // This shape has more rows than a task, and more steps than a block has rows to finish.
        check_product(element, (230, 64, 48), 1);
        check_product(element, (40, 1100, 40), 2);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn products_have_the_bits_of_a_plain_loop(
        rows in 1..70usize, depth in 1..140usize, columns in 1..70usize, is_split: bool, seed: u64,
    ) {
        let element = if is_split { Element::Split } else { Element::Bf16 };
        check_product(element, (rows, depth, columns), seed);
    }
}

/// Compares the twin with the hardware, if the processor has AMX.
#[test]
fn the_twin_has_the_bits_of_the_hardware() {
    let Ok(hardware) = Level::choose(Choice::Amx) else {
        eprintln!("SKIPPED: this processor has no AMX, or the system does not grant it");
        return;
    };
    let both = |run: &dyn Fn(Level) -> Vec<f32>| {
        let [a, b] = [hardware, twin()]
            .map(|level| -> Vec<u32> { run(level).iter().map(|value| value.to_bits()).collect() });
        assert!(a == b);
    };
    for (rows, depth, columns) in [(1, 1, 1), (196, 768, 96), (33, 70, 35), (64, 200, 64)] {
        // Some values are too small for f32.
        for scale in [1.0, 1e-19, 1e-30] {
            let seed = (rows + depth) as u64;
            let scaled = |seed| -> Vec<f32> {
                values(rows.max(columns) * depth, seed).iter().map(|value| value * scale).collect()
            };
            let (x, weights) = (scaled(seed), scaled(seed ^ 1));
            let (x, weights) = (&x[..rows * depth], &weights[..columns * depth]);
            let residual = values(rows * columns, seed ^ 2);
            let epilogue =
                Epilogue { activation: Activation::GeluTanh, residual: Some(Residual(&residual)) };
            for element in [Element::Bf16, Element::Split] {
                let mut packer = Packer::new(columns, depth, element);
                packer.push(weights);
                let packed = packer.finish();
                both(&|level| product(level, x, &packed.part(0..columns), epilogue));
            }
            let mut quantizer = Quantizer::new(columns, depth, hardware);
            quantizer.push(weights);
            let layer = quantizer.finish();
            both(&|level| quantized_product(level, x, &layer.part(0..columns), epilogue));
        }
    }
    for (queries, keys, head_dim) in [(196, 196, 64), (5, 33, 72), (300, 300, 20)] {
        let shape = Shape { batch: 2, queries, keys, heads: 2, head_dim, causal: queries == keys };
        let row_stride = 6 * head_dim;
        let fused = values(2 * queries.max(keys) * row_stride, 5);
        let view = |part: usize| Rows {
            values: &fused[part * 2 * head_dim..],
            batch_stride: queries.max(keys) * row_stride,
            row_stride,
        };
        both(&|level| attention(level, Element::Bf16, shape, [view(0), view(1), view(2)]));
    }
}

/// The result of one step of a unit on tiles with the same pair in every place.
fn sum_of(x: [f32; 2], w: [f32; 2]) -> f32 {
    let tile = |[first, second]: [f32; 2]| {
        let mut tile = Tile::ZERO;
        for pair in tile.0.chunks_exact_mut(4) {
            pair[..2].copy_from_slice(&bf16::from_f32(first).to_le_bytes());
            pair[2..].copy_from_slice(&bf16::from_f32(second).to_le_bytes());
        }
        tile
    };
    let (x, w) = (tile(x), tile(w));
    let mut unit = Twin::new();
    unit.zero();
    // SAFETY: all pointers lead to whole tiles.
    unsafe { unit.add_pairs::<2>([&raw const x; 2], [&raw const w; 2]) };
    let mut sums = Sums::ZERO;
    // SAFETY: `sums` has 32 rows of 32 words.
    unsafe { unit.store(true, sums.0.as_mut_ptr().cast(), ROW_OF_SUMS) };
    let first = sums.0[0][0];
    assert!(sums.0.iter().flatten().all(|&sum| sum == first));
    f32::from_bits(first.cast_unsigned())
}

#[test]
fn numbers_that_are_too_small_are_zero_and_others_are_not_hidden() {
    // The sum has 16 terms of two products.
    assert_eq!(sum_of([1.0, 2.0], [3.0, 0.5]), 64.0);
    // These are a denormal input, product and sum.
    assert_eq!(sum_of([1e-39, 0.0], [1.0, 0.0]), 0.0);
    assert_eq!(sum_of([1e-30, 0.0], [1e-10, 0.0]), 0.0);
    assert!(sum_of([1.0, 0.0], [f32::MIN_POSITIVE, 0.0]) > 0.0);
    assert!(sum_of([f32::INFINITY, 1.0], [1.0, 1.0]) == f32::INFINITY);
    assert!(sum_of([f32::INFINITY, 1.0], [0.0, 1.0]).is_nan());
    assert!(sum_of([1.0, f32::NAN], [1.0, 1.0]).is_nan());
}

#[test]
fn no_operator_can_ask_for_the_twin() {
    assert!(Choice::AmxTwin.to_string().parse::<Choice>().is_err());
    assert!(!Level::available().contains(&twin()));
    assert!(twin().is_sound());
}
