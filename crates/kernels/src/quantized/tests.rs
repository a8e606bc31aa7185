use proptest::prelude::*;

use super::{
    Quantized, Quantizer,
    inputs::{Inputs, Order},
    product::quantized_product,
};
use crate::{
    Activation, Choice, Epilogue, Level, Residual,
    simd::{PANEL, Room},
    tests::{activated, levels, values, worst},
};

/// The bytes of a layer and their scales: `[columns, depth]`, `[columns]`.
fn unpacked(layer: &Quantized) -> (Vec<Vec<i64>>, Vec<f64>) {
    let weight = |column: usize, input: usize| {
        let panel = column / PANEL;
        let group = &layer.panels(panel..panel + 1)[input / 8];
        i64::from(group.0[input % 8 / 4 * 64 + column % PANEL * 4 + input % 4])
    };
    let row = |column| (0..layer.depth()).map(|input| weight(column, input)).collect();
    let scale = |column: usize| f64::from(layer.factors[column / PANEL].scales.0[column % PANEL]);
    let columns = 0..layer.columns();
    (columns.clone().map(row).collect(), columns.map(scale).collect())
}

/// The expected result: the product of the bytes in 64-bit integers, and the rest in f64.
fn expected(
    level: Level,
    x: &[f32],
    layer: &Quantized,
    (activation, bias, residual): (Activation, &[f32], &[f32]),
) -> Vec<f64> {
    let (depth, columns) = (layer.depth(), layer.columns());
    let inputs = Inputs::new(level, (x, depth), layer.room().largest_input(), Order::Rows);
    let (weights, scales) = unpacked(layer);
    let mut y = Vec::new();
    for row in 0..x.len() / depth {
        let (bytes, meaning) = inputs.row(row);
        for (column, weights) in weights.iter().enumerate() {
            let sum: i64 = bytes.iter().zip(weights).map(|(&x, &w)| i64::from(x) * w).sum();
            let total: i64 = weights.iter().sum();
            let sum =
                f64::from(meaning.scale) * sum as f64 + f64::from(meaning.lowest) * total as f64;
            let y_ = activated(activation, sum * scales[column] + f64::from(bias[column]));
            let at = (row * columns + column) % residual.len().max(1);
            y.push(y_ + residual.get(at).map_or(0.0, |&residual| f64::from(residual)));
        }
    }
    y
}

fn quantized(level: Level, (weights, bias): (&[f32], &[f32]), cut: usize) -> Quantized {
    let depth = weights.len() / bias.len();
    let mut quantizer = Quantizer::new(bias.len(), depth, level);
    let (first, second) = weights.split_at(cut * depth);
    quantizer.push(first);
    quantizer.push(second);
    quantizer.set_bias(bias);
    quantizer.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_product_of_bytes_equals_itself_in_whole_numbers_at_every_level(
        rows in prop_oneof![1..30usize, 214..220usize],
        depth in prop_oneof![1..40usize, 380..390usize, 766..772usize],
        columns in 1..70usize,
        activation in prop_oneof![
            Just(Activation::None), Just(Activation::GeluTanh), Just(Activation::GeluErf)
        ],
        residual in 0..3usize,
        seed: u64,
    ) {
        let x = values(rows * depth, seed ^ 1);
        let (weights, bias) = (values(columns * depth, seed ^ 2), values(columns, seed ^ 3));
        let residual = values([0, 1, rows][residual] * columns, seed ^ 4);
        for level in levels() {
            let layer = quantized(level, (&weights, &bias), seed as usize % (columns + 1));
            let expected = expected(level, &x, &layer, (activation, &bias, &residual));
            let end = Epilogue { activation, residual: (!residual.is_empty()).then_some(Residual(&residual)) };
            let y = quantized_product(level, &x, &layer.part(0..columns), end);
            let apart = worst(&y, &expected);
            prop_assert!(apart < 1e-4, "{level}: {apart:e}");
            // Plain Rust can multiply weights packed for any set.
            let portable = Level::choose(Choice::Portable).expect("everywhere");
            let y = quantized_product(portable, &x, &layer.part(0..columns), end);
            prop_assert!(worst(&y, &expected) < 1e-4, "{level}");
        }
    }

    #[test]
    fn a_part_and_a_row_of_it_are_those_of_the_whole(
        rows in prop_oneof![1..30usize, 214..220usize],
        depth in 1..60usize,
        columns in 1..70usize,
        threads in 1..4usize,
        seed: u64,
    ) {
        let x = values(rows * depth, seed);
        let (weights, bias) = (values(columns * depth, seed ^ 1), values(columns, seed ^ 2));
        let start = seed as usize % columns;
        let part = start..columns - (seed >> 8) as usize % (columns - start);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        for level in levels() {
            let layer = quantized(level, (&weights, &bias), columns / 2);
            let run = |x: &[f32], columns| {
                quantized_product(level, x, &layer.part(columns), Epilogue::default())
            };
            let whole = pool.install(|| run(&x, 0..columns));
            let row = rows / 2;
            let of_whole = &whole[row * columns..][part.clone()];
            let alone = run(&x[row * depth..][..depth], part.clone());
            prop_assert_eq!(of_whole, &alone[..], "{}", level);
        }
    }

    #[test]
    fn the_bytes_are_near_to_what_they_stand_for(depth in 1..800usize, seed: u64) {
        let x = values(depth, seed);
        for level in levels() {
            let layer = quantized(level, (&x, &[0.0]), 1);
            let (weights, scales) = unpacked(&layer);
            let limit = scales[0] / 2.0 + 1e-6;
            for (&weight, &x) in weights[0].iter().zip(&x) {
                prop_assert!((weight as f64 * scales[0] - f64::from(x)).abs() <= limit);
            }
            let inputs = Inputs::new(level, (&x, depth), layer.room().largest_input(), Order::Rows);
            let (bytes, row) = inputs.row(0);
            for (&byte, &x) in bytes.iter().zip(&x) {
                let apart = row.lowest + row.scale * f32::from(byte) - x;
                prop_assert!(apart.abs() <= row.scale / 2.0 + 1e-6);
            }
        }
    }
}

/// Tests everything that could overflow: the largest inputs and weights, of one sign, of both signs, and in the
/// places that are added together.
#[test]
fn no_sum_saturates() {
    let depth = 4096;
    type Pattern = fn(usize) -> f32;
    let patterns: [Pattern; 7] = [
        |_| 1.0,
        |_| -1.0,
        |at| [1.0, -1.0][at % 2],
        |at| [1.0, 1.0, -1.0, -1.0][at % 4],
        |at| [1.0, 1.0, 0.0, 0.0][at % 4],
        |at| [-1.0, -1.0, 0.25, 0.0, -1.0, -1.0, 1.0, 1.0][at % 8],
        |at| if at == 0 { 0.0 } else { 1e15 },
    ];
    // The inputs of a group whose products are added in 16 bits.
    let meeting: [(Room, &[&[usize]]); 2] = [
        (Room::Seven, &[&[0, 4], &[1, 5], &[2, 6], &[3, 7]]),
        (Room::Sixteen, &[&[0, 1, 4, 5], &[2, 3, 6, 7]]),
    ];
    for level in levels() {
        for weights in patterns {
            let weights: Vec<f32> = (0..depth).map(weights).collect();
            let layer = quantized(level, (&weights, &[0.0]), 0);
            let (bytes, _) = unpacked(&layer);
            let meeting = meeting.iter().filter(|(room, _)| *room == layer.room());
            for meet in meeting.flat_map(|(_, meeting)| *meeting) {
                for group in bytes[0].chunks(8) {
                    let sum = |sign: i64| -> i64 {
                        meet.iter().map(|&at| (group[at] * sign).max(0) * 127).sum()
                    };
                    assert!(sum(1) < 32768 && sum(-1) < 32768, "{level}: {group:?}");
                }
            }
            for x in patterns {
                let x: Vec<f32> = (0..depth).map(|at| x(at) / 2.0).collect();
                let expected = expected(level, &x, &layer, (Activation::None, &[0.0], &[]));
                let y = quantized_product(level, &x, &layer.part(0..1), Epilogue::default());
                // The largest of the added values limits the rounding error.
                let largest = |values: &[f32]| values.iter().fold(0f32, |a, b| a.max(b.abs()));
                let near = f64::from(largest(&weights) * largest(&x)) * depth as f64 * 1e-6;
                let apart = (f64::from(y[0]) - expected[0]).abs();
                assert!(apart <= near, "{level}: {} is not {}", y[0], expected[0]);
            }
        }
    }
}

#[test]
fn what_is_no_number_is_not_hidden() {
    for level in levels() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 9, 18] {
                let (weights, mut x) = (values(2 * 19, 1), values(2 * 19, 2));
                x[19 + at] = bad;
                let layer = quantized(level, (&weights, &[0.0; 2]), 1);
                let y = quantized_product(level, &x, &layer.part(0..2), Epilogue::default());
                assert!(y[..2].iter().all(|value| value.is_finite()), "{level} {y:?}");
                assert!(y[2..].iter().all(|value| value.is_nan()), "{level} {y:?}");
                // NaN in a weight shows in its output.
                let layer = quantized(level, (&x, &[0.0; 2]), 1);
                let y = quantized_product(level, &weights, &layer.part(0..2), Epilogue::default());
                assert!(y[0].is_finite() && y[1].is_nan(), "{level} {y:?}");
            }
        }
    }
}

#[test]
fn rows_and_columns_of_one_value_are_exact() {
    for level in levels() {
        for value in [0.0, 0.3, -1e-40, 1e20] {
            let weights = [&[0.5; 21][..], &[0.0; 21]].concat();
            let layer = quantized(level, (&weights, &[1.0, 2.0]), 0);
            let y = quantized_product(level, &[value; 21], &layer.part(0..2), Epilogue::default());
            let expected = f64::from(value) * 21.0 * 0.5 + 1.0;
            assert!((f64::from(y[0]) - expected).abs() <= expected.abs() * 1e-5, "{level} {y:?}");
            assert_eq!(y[1], 2.0, "{level}");
        }
    }
}

#[test]
#[should_panic(expected = "packed for another level")]
fn weights_of_a_level_with_more_room_are_refused() {
    let portable = Level::choose(Choice::Portable).expect("everywhere");
    let narrow = levels().into_iter().find(|level| level.room() != Room::Any);
    // There is nothing to refuse if the processor has no set with a narrow range.
    let narrow = narrow.expect("packed for another level");
    let layer = quantized(portable, (&[1.0; 8], &[0.0]), 0);
    let _ = quantized_product(narrow, &[1.0; 8], &layer.part(0..1), Epilogue::default());
}

#[test]
fn nothing_comes_of_no_rows() {
    let layer = quantized(Level::detect(), (&[1.0; 6], &[0.0; 3]), 0);
    let run = |x: &[f32], columns| {
        quantized_product(Level::detect(), x, &layer.part(columns), Epilogue::default())
    };
    assert!(run(&[], 0..3).is_empty() && run(&[1.0; 4], 1..1).is_empty());
}
