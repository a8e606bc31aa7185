//! Elementwise functions on vectors.

use crate::simd::Simd;

/// `e^x` to about one unit in the last place; NaN stays NaN. Below -87 it is 1.6e-38 instead of a denormal,
/// above 88 it is 1.6e38.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::F) -> S::F {
    // ln 2 in two parts; the first has few enough bits that `n * LN_2_HIGH` is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 rounds to an integer, and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // A Chebyshev fit of (e^r - 1 - r) / r^2 on |r| <= ln 2 / 2: relative error 7e-8.
    const TAIL: [f32; 4] = [8.363_17e-3, 0.041_666_55, 0.166_665_77, 0.5];
    let c = |value| simd.splat(value);
    let x = simd.min(c(88.0), simd.max(c(-87.0), x));
    let shifted = simd.mul_add(x, c(std::f32::consts::LOG2_E), c(ROUND));
    let n = simd.sub(shifted, c(ROUND));
    let r = simd.mul_add(n, c(-LN_2_HIGH), x);
    let r = simd.mul_add(n, c(-LN_2_LOW), r);
    let mut tail = c(1.392_62e-3);
    for coefficient in TAIL {
        tail = simd.mul_add(tail, r, c(coefficient));
    }
    let mantissa = simd.add(simd.mul_add(tail, simd.mul(r, r), r), c(1.0));
    simd.mul(mantissa, simd.power_of_two(shifted))
}

/// GELU with the tanh approximation: `0.5 x (1 + tanh u) = x / (1 + e^-2u)`,
/// u = sqrt(2 / pi) (x + 0.044715 x^3).
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(simd: S, x: S::F) -> S::F {
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769;
    let c = |value| simd.splat(value);
    let cubic = simd.mul_add(simd.mul(x, x), c(0.044_715), c(1.0));
    let twice_u = simd.mul(simd.mul(x, cubic), c(-TWICE_SQRT_2_OVER_PI));
    simd.div(x, simd.add(c(1.0), exp(simd, twice_u)))
}

/// `x sigmoid(1.702 x)`, an approximation of GELU.
#[inline(always)]
pub(crate) fn quick_gelu<S: Simd>(simd: S, x: S::F) -> S::F {
    let denominator = simd.add(simd.splat(1.0), exp(simd, simd.mul(x, simd.splat(-1.702))));
    simd.div(x, denominator)
}

/// The exact GELU: `x P(x)`, P the normal distribution's integral, as `max(x, 0) - |x| P(-|x|)`, which loses
/// no digits on either side.
#[inline(always)]
pub(crate) fn gelu_erf<S: Simd>(simd: S, x: S::F) -> S::F {
    // P(-a) = e^(-a^2 / 2) times a polynomial in t = 1 / (1 + a / 4). The polynomial is a weighted
    // least-squares fit on 0 <= a <= 13, with an error of `a P(-a)` of at most 2e-9.
    const COEFFICIENTS: [f32; 6] =
        [0.343_943_9, -0.269_279_78, 0.280_908_2, 0.026_633_823, 0.111_071_41, 0.099_038_71];
    let c = |value| simd.splat(value);
    // Beyond 13 the product is below 1e-36; an infinity would make it 0 times infinity.
    let a = simd.min(c(13.0), simd.abs(x));
    let t = simd.div(c(1.0), simd.mul_add(a, c(0.25), c(1.0)));
    let mut polynomial = c(-0.092_316_31);
    for coefficient in COEFFICIENTS {
        polynomial = simd.mul_add(polynomial, t, c(coefficient));
    }
    let bell = exp(simd, simd.mul(simd.mul(a, a), c(-0.5)));
    let tail = simd.mul(simd.mul(polynomial, t), simd.mul(bell, a));
    simd.sub(simd.max(c(0.0), x), tail)
}
