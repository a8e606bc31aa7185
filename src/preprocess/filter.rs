//! Antialiased filters, which give the weights of one output value. They resize images and position grids.

use std::ops::Range;

use super::Resample;

/// A one-dimensional resize from `input` to `output` values. It may compute only a window of the output.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    pub(super) input: usize,
    pub(super) output: usize,
    /// The output values that are computed.
    window: Range<usize>,
    /// The length of the input, from its beginning, that the output covers.
    extent: f64,
    resample: Resample,
}

impl Filter {
    pub(crate) fn new(resample: Resample, input: usize, output: usize) -> Self {
        Self { input, output, window: 0..output, extent: input as f64, resample }
    }

    /// Computes only the output values in `window`.
    pub(super) fn within(self, window: Range<usize>) -> Self {
        Self { window, ..self }
    }

    /// The number of output values that are computed.
    pub(super) fn computed(&self) -> usize {
        self.window.len()
    }

    /// The input values that the window depends on.
    pub(super) fn needed(&self) -> Range<usize> {
        let end = self.computed().checked_sub(1).map_or(0, |last| {
            let (start, weights) = self.weights(last);
            start + weights.len()
        });
        self.weights(0).0.min(end)..end
    }

    /// Resizes only the first `extent` input values, which need not be a whole number.
    pub(super) fn over(self, extent: f64) -> Self {
        Self { extent, ..self }
    }

    /// Whether the side already has its size, so that no resize is needed.
    pub(super) fn is_identity(&self) -> bool {
        self.input == self.output && self.window == (0..self.output)
    }

    /// The index of the first source value of one output value, and the weights of its source values: the
    /// kernel, widened by the scale when shrinking, sampled at the centres of the source values and scaled to
    /// sum to one.
    pub(crate) fn weights(&self, index: usize) -> (usize, Vec<f64>) {
        let scale = self.extent / self.output as f64;
        let widening = scale.max(1.0);
        let support = self.resample.support() * widening;
        let center = ((self.window.start + index) as f64 + 0.5) * scale;
        // Float to integer casts round towards zero and saturate, as needed at the left edge.
        let start = (center - support + 0.5) as usize;
        let end = ((center + support + 0.5) as usize).min(self.input);
        let inverse = 1.0 / widening;
        let mut weights: Vec<f64> = (start..end)
            .map(|at| self.resample.kernel((at as f64 - center + 0.5) * inverse))
            .collect();
        let sum: f64 = weights.iter().sum();
        let factor = if sum == 0.0 { 1.0 } else { sum };
        for weight in &mut weights {
            *weight /= factor;
        }
        (start, weights)
    }
}

impl Resample {
    /// Source values on each side that have a weight, when not shrinking.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn kernel(self, x: f64) -> f64 {
        /// The slope at 1. OpenCV uses -0.75, and its images differ visibly.
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            Self::Bicubic => 0.0,
        }
    }
}
