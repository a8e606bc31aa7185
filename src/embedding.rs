//! One row of a tower's output.

mod quantize;

use std::sync::Arc;

pub use self::quantize::{Element, Encoding};

/// An embedding: `[dim]`, f32, not normalised unless the function says otherwise.
///
/// The values are shared and immutable, so that a cached row is returned without a copy.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding(Arc<[f32]>);

impl Embedding {
    /// Wraps a row.
    #[must_use]
    pub fn new(row: impl Into<Arc<[f32]>>) -> Self {
        Self(row.into())
    }

    /// The values, `[dim]`.
    #[must_use]
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// The number of values.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.0.len()
    }

    /// The heap bytes held, as a cache counts them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        std::mem::size_of_val::<[f32]>(&self.0)
    }

    /// Whether no value is NaN or infinite.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        self.0.iter().all(|value| value.is_finite())
    }

    /// The first `dim` values, or the whole row if it is shorter. Normalise after the cut, not before.
    #[must_use]
    pub fn truncated(&self, dim: usize) -> Self {
        if dim >= self.dim() { self.clone() } else { Self::new(&self.0[..dim]) }
    }

    /// The row scaled to length 1, accumulated in f64. A row of zeros is not changed.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let mut row = self.0.to_vec();
        normalize(&mut row);
        Self::new(row)
    }
}

/// Scales `row` to length 1 in place, accumulated in f64. A row of zeros is not changed.
pub fn normalize(row: &mut [f32]) {
    let norm = row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    if norm > 0.0 {
        for value in row {
            *value = (f64::from(*value) / norm) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalising_gives_length_one_and_leaves_zeros_alone() {
        assert_eq!(Embedding::new(vec![3.0, 4.0]).normalized().as_slice(), [0.6, 0.8]);
        assert_eq!(Embedding::new(vec![0.0, 0.0]).normalized().as_slice(), [0.0, 0.0]);
    }

    #[test]
    fn truncating_keeps_the_head() {
        let row = Embedding::new(vec![1.0, 2.0, 3.0]);
        assert_eq!(row.truncated(2).as_slice(), [1.0, 2.0]);
        assert_eq!(row.truncated(9).dim(), 3);
    }
}
