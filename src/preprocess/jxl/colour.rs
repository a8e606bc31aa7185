//! Converts colours of lossy JPEG XL that are outside sRGB.
//!
//! A lossy file stores linear light in its own primaries and names the colour space to show it in. The decoder
//! clips colours outside sRGB before it converts to other primaries. So it is asked for linear light in sRGB's
//! primaries, where such colours have values below zero, and this module converts from there.

use jxl_oxide::color::{Customxy, EnumColourEncoding, Primaries, TransferFunction, WhitePoint};

type Matrix = [[f64; 3]; 3];

/// A point in the plane of chromaticities (CIE 1931).
type Chromaticity = [f64; 2];

const SRGB: [Chromaticity; 3] = [[0.64, 0.33], [0.30, 0.60], [0.15, 0.06]];
const P3: [Chromaticity; 3] = [[0.680, 0.320], [0.265, 0.690], [0.150, 0.060]];
const BT2100: [Chromaticity; 3] = [[0.708, 0.292], [0.170, 0.797], [0.131, 0.046]];
const D65: Chromaticity = [0.3127, 0.3290];

/// The conversion from linear light in sRGB's primaries to the samples of an encoding.
pub(super) struct Conversion {
    matrix: [[f32; 3]; 3],
    curve: Curve,
}

/// The transfer curve from light to samples, both from 0 to 1.
#[derive(Debug, Clone, Copy)]
enum Curve {
    Linear,
    Srgb,
    Bt709,
    Power(f32),
}

/// Whether an encoding has other primaries or another white point than sRGB.
pub(super) fn is_wide(encoding: &EnumColourEncoding) -> bool {
    encoding.primaries != Primaries::Srgb || encoding.white_point != WhitePoint::D65
}

impl Conversion {
    /// The conversion to an encoding; none if it is not known.
    pub(super) fn to(encoding: &EnumColourEncoding) -> Option<Self> {
        let curve = match encoding.tf {
            TransferFunction::Linear => Curve::Linear,
            TransferFunction::Srgb => Curve::Srgb,
            TransferFunction::Bt709 => Curve::Bt709,
            TransferFunction::Dci => Curve::Power(1.0 / 2.6),
            TransferFunction::Gamma { g, inverted: true } if g > 0 => {
                Curve::Power((f64::from(g) / 1e7) as f32)
            }
            TransferFunction::Gamma { g, inverted: false } if g > 0 => {
                Curve::Power((1e7 / f64::from(g)) as f32)
            }
            _ => return None,
        };
        let white = match encoding.white_point {
            WhitePoint::D65 => D65,
            WhitePoint::E => [1.0 / 3.0; 2],
            WhitePoint::Dci => [0.314, 0.351],
            WhitePoint::Custom(point) => chromaticity(point),
        };
        let primaries = match encoding.primaries {
            Primaries::Srgb => SRGB,
            Primaries::P3 => P3,
            Primaries::Bt2100 => BT2100,
            Primaries::Custom { red, green, blue } => [red, green, blue].map(chromaticity),
        };
        let from = to_xyz(&SRGB, D65)?;
        let adapted = product(&adaptation(D65, white)?, &from);
        let matrix = product(&inverse(&to_xyz(&primaries, white)?)?, &adapted);
        let matrix = matrix.map(|row| row.map(|factor| factor as f32));
        matrix.iter().flatten().all(|factor| factor.is_finite()).then_some(Self { matrix, curve })
    }

    /// Converts a pixel to bytes; colours outside the encoding are clamped.
    pub(super) fn bytes(&self, light: [f32; 3]) -> [u8; 3] {
        self.matrix.map(|row| {
            let light: f32 = row.iter().zip(light).map(|(factor, light)| factor * light).sum();
            let sample = self.curve.sample(light.clamp(0.0, 1.0));
            // The cast saturates.
            (sample * 255.0 + 0.5) as u8
        })
    }
}

impl Curve {
    fn sample(self, light: f32) -> f32 {
        match self {
            Self::Linear => light,
            Self::Srgb if light <= 0.003_130_8 => light * 12.92,
            Self::Srgb => 1.055 * light.powf(1.0 / 2.4) - 0.055,
            Self::Bt709 if light < 0.018_053_97 => light * 4.5,
            Self::Bt709 => 1.099_296_8 * light.powf(0.45) - 0.099_296_8,
            Self::Power(exponent) => light.powf(exponent),
        }
    }
}

fn chromaticity(point: Customxy) -> Chromaticity {
    [f64::from(point.x) / 1e6, f64::from(point.y) / 1e6]
}

/// Converts a chromaticity with a luminance of 1 to XYZ.
fn xyz([x, y]: Chromaticity) -> [f64; 3] {
    [x / y, 1.0, (1.0 - x - y) / y]
}

/// The matrix from light in these primaries to XYZ, scaled so that (1, 1, 1) is the white point.
fn to_xyz(primaries: &[Chromaticity; 3], white: Chromaticity) -> Option<Matrix> {
    let columns = transposed(&primaries.map(xyz));
    let shares = apply(&inverse(&columns)?, xyz(white));
    Some(columns.map(|row| std::array::from_fn(|at| row[at] * shares[at])))
}

/// Bradford's adaptation of XYZ from one white point to another.
fn adaptation(from: Chromaticity, to: Chromaticity) -> Option<Matrix> {
    const CONES: Matrix =
        [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]];
    let (from, to) = (apply(&CONES, xyz(from)), apply(&CONES, xyz(to)));
    let scaled: Matrix =
        std::array::from_fn(|row| CONES[row].map(|factor| factor * to[row] / from[row]));
    Some(product(&inverse(&CONES)?, &scaled))
}

fn transposed(matrix: &Matrix) -> Matrix {
    std::array::from_fn(|row| std::array::from_fn(|column| matrix[column][row]))
}

fn apply(matrix: &Matrix, vector: [f64; 3]) -> [f64; 3] {
    matrix.map(|row| row.iter().zip(vector).map(|(factor, value)| factor * value).sum())
}

/// The product of two matrices, which applies the second one first.
fn product(first: &Matrix, second: &Matrix) -> Matrix {
    let columns = transposed(second);
    transposed(&columns.map(|column| apply(first, column)))
}

/// Inverts a matrix by cofactors; none if it has no inverse.
fn inverse(matrix: &Matrix) -> Option<Matrix> {
    let at = |row: usize, column: usize| matrix[row % 3][column % 3];
    let cofactor = |row: usize, column: usize| {
        at(row + 1, column + 1) * at(row + 2, column + 2)
            - at(row + 1, column + 2) * at(row + 2, column + 1)
    };
    let determinant: f64 = (0..3).map(|column| at(0, column) * cofactor(0, column)).sum();
    let is_usable = determinant.is_finite() && determinant.abs() > 1e-9;
    let inverse = std::array::from_fn(|row| {
        std::array::from_fn(|column| cofactor(column, row) / determinant)
    });
    is_usable.then_some(inverse)
}
