//! What the kernels compute, one value after the other on the host and in f64.

use crate::model::kernels::{Activation, Mask};

/// `[rows, width]`, normed row by row.
pub(super) fn layer_norm(x: &[f64], (weight, bias): (&[f64], &[f64]), eps: f64) -> Vec<f64> {
    let width = weight.len();
    let norm = |row: &[f64]| -> Vec<f64> {
        let mean = row.iter().sum::<f64>() / width as f64;
        let variance = row.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / width as f64;
        let scale = (variance + eps).sqrt().recip();
        let normed = row.iter().map(|value| (value - mean) * scale);
        normed
            .zip(weight.iter().zip(bias))
            .map(|(value, (weight, bias))| value * weight + bias)
            .collect()
    };
    x.chunks_exact(width).flat_map(norm).collect()
}

pub(super) fn activate(x: f64, activation: Activation) -> f64 {
    match activation {
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::GeluErf => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
    }
}

/// By a series of terms of one sign, and 1 as far as an f64 tells from 6 on.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-17 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    sum * (-x * x).exp() * 2.0 / std::f64::consts::PI.sqrt()
}

/// `x W^T + b` of `[rows, inputs]`.
pub(super) fn product(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let inputs = weight.len() / bias.len();
    let dot = |row: &[f64], weight: &[f64]| row.iter().zip(weight).map(|(a, b)| a * b).sum::<f64>();
    let of_row = |row: &[f64]| -> Vec<f64> {
        let outputs = weight.chunks_exact(inputs).zip(bias);
        outputs.map(|(weight, bias)| dot(row, weight) + bias).collect()
    };
    x.chunks_exact(inputs).flat_map(of_row).collect()
}

/// What attention reads and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) batch: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) heads: usize,
    pub(super) dim: usize,
    pub(super) mask: Mask,
}

/// `[batch, queries, heads * dim]`.
///
/// * `q`: of the same shape; `k` and `v`: `[batch, keys, heads * dim]`
pub(super) fn attention(shape: Heads, [q, k, v]: [&[f64]; 3]) -> Vec<f64> {
    let Heads { batch, queries, keys, heads, dim, mask } = shape;
    let width = heads * dim;
    let mut out = vec![0.0; batch * queries * width];
    for (at, mixed) in out.chunks_exact_mut(dim).enumerate() {
        let (row, query, head) = (at / heads / queries, at / heads % queries, at % heads);
        let seen = match mask {
            Mask::None => keys,
            Mask::Causal => query + keys - queries + 1,
        };
        let part = |of: &'_ [f64], token: usize| {
            let start = token * width + head * dim;
            of[start..start + dim].to_vec()
        };
        let q = part(q, row * queries + query);
        let score = |key: usize| -> f64 {
            let k = part(k, row * keys + key);
            q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() / (dim as f64).sqrt()
        };
        let scores: Vec<_> = (0..seen).map(score).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let shares: Vec<_> = scores.iter().map(|score| (score - most).exp()).collect();
        let whole: f64 = shares.iter().sum();
        for (key, share) in shares.iter().enumerate() {
            for (to, value) in mixed.iter_mut().zip(part(v, row * keys + key)) {
                *to += share / whole * value;
            }
        }
    }
    out
}

/// One part of three of each row of `[rows, 3 * width]`.
pub(super) fn third(fused: &[f64], width: usize, index: usize) -> Vec<f64> {
    let rows = fused.chunks_exact(3 * width);
    rows.flat_map(|row| row[index * width..(index + 1) * width].iter().copied()).collect()
}

pub(super) fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_is_that_of_the_tables() {
        for (x, expected) in
            [(0.0, 0.0), (0.5, 0.520_499_877_813_046_5), (2.0, 0.995_322_265_018_952_7)]
        {
            assert!((erf(x) - expected).abs() < 1e-14 && (erf(-x) + expected).abs() < 1e-14, "{x}");
        }
        assert!((erf(5.9) - 1.0).abs() < 1e-9);
    }
}
