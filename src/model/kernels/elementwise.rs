//! Row arithmetic in plain Rust, with the vectors of the processor that it runs on.
//!
//! The loops carry sixteen independent sums, because the compiler may not reorder floating-point
//! additions by itself; the order is the same on every machine.

use crate::dispatch::dispatched;

/// Independent partial sums: one AVX-512 register, two of AVX2.
const LANES: usize = 16;

dispatched! {
    /// GELU with the tanh approximation, in place. Absolute error below 2e-7 times the value.
    pub(super) fn gelu_tanh(values: &mut [f32]) = gelu_tanh_body
}

dispatched! {
    /// Softmax of one row, in place.
    pub(super) fn softmax_row(row: &mut [f32]) = softmax_row_body
}

dispatched! {
    /// Layer normalisation of one row `x` into `y`, with `(weight, bias)`.
    pub(super) fn normalize_row(
        x: &[f32],
        affine: (&[f32], &[f32]),
        eps: f32,
        y: &mut [f32],
    ) = normalize_row_body
}

/// `e^x` to about one unit in the last place; NaN stays NaN. Below -87 it is 1.6e-38 instead of a
/// denormal, above 88 it is 1.6e38.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // ln 2 in two parts; the first has few enough bits that `n * LN_2_HIGH` is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 rounds to an integer, and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    // A Chebyshev fit of (e^r - 1 - r) / r^2 on |r| <= ln 2 / 2: relative error 7e-8.
    let tail = 1.392_62e-3_f32;
    let tail = tail * r + 8.363_17e-3;
    let tail = tail * r + 0.041_666_55;
    let tail = tail * r + 0.166_665_77;
    let tail = tail * r + 0.5;
    let mantissa = tail * (r * r) + r + 1.0;
    // 2^n: the integer moved into the exponent's place.
    mantissa * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}

/// `0.5 x (1 + tanh u) = x / (1 + e^-2u)`, u = sqrt(2 / pi) (x + 0.044715 x^3).
#[inline(always)]
fn gelu_tanh_body(values: &mut [f32]) {
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769;
    for value in values {
        let x = *value;
        let u = x * (1.0 + 0.044_715 * (x * x));
        *value = x / (1.0 + exp(-TWICE_SQRT_2_OVER_PI * u));
    }
}

#[inline(always)]
fn softmax_row_body(row: &mut [f32]) {
    let mut highest = [f32::NEG_INFINITY; LANES];
    let mut chunks = row.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (high, &value) in highest.iter_mut().zip(chunk) {
            *high = if value > *high { value } else { *high };
        }
    }
    let rest = chunks.remainder().iter().copied();
    let max = highest.into_iter().chain(rest).fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0f32; LANES];
    let mut chunks = row.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *value = exp(*value - max);
            *sum += *value;
        }
    }
    let mut sum = sums.iter().sum::<f32>();
    for value in chunks.into_remainder() {
        *value = exp(*value - max);
        sum += *value;
    }
    let factor = 1.0 / sum;
    for value in row {
        *value *= factor;
    }
}

#[inline(always)]
fn normalize_row_body(x: &[f32], affine: (&[f32], &[f32]), eps: f32, y: &mut [f32]) {
    let width = x.len() as f32;
    let mean = sum_of(x, |value| value) / width;
    let variance = sum_of(x, |value| (value - mean) * (value - mean)) / width;
    let factor = 1.0 / (variance + eps).sqrt();
    let (weight, bias) = affine;
    for (((y, x), weight), bias) in y.iter_mut().zip(x).zip(weight).zip(bias) {
        *y = (x - mean) * factor * weight + bias;
    }
}

#[inline(always)]
fn sum_of(x: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0f32; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (sum, &value) in sums.iter_mut().zip(chunk) {
            *sum += term(value);
        }
    }
    let rest: f32 = chunks.remainder().iter().map(|&value| term(value)).sum();
    sums.iter().sum::<f32>() + rest
}
