//! Layer normalisation over the last dimension.

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::{elementwise::normalize_row, view::with_f32};

/// `(x - mean) / sqrt(variance + eps) * weight + bias`, statistics in f32 whatever the compute type.
///
/// * `weight`, `bias`: `[width]`, in the compute type
#[derive(Debug, Clone)]
pub(in crate::model) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl LayerNorm {
    pub(in crate::model) fn new(weight: Tensor, bias: Tensor, eps: f32) -> Self {
        Self { weight, bias, eps }
    }

    /// * `x`: `[.., width]`
    /// * returns the same shape
    pub(in crate::model) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.contiguous()?;
        if !matches!(x.device(), Device::Cpu) || x.dtype() != DType::F32 {
            return candle_nn::ops::layer_norm(&x, &self.weight, &self.bias, self.eps);
        }
        // Two passes over a row. candle's one pass, E[x^2] - E[x]^2, cancels where a few channels
        // are large, as they are in the deeper layers of real checkpoints.
        let width = self.weight.dims1()?;
        let mut y = vec![0f32; x.elem_count()];
        with_f32(&x, |x, _| {
            with_f32(&self.weight, |weight, _| {
                with_f32(&self.bias, |bias, _| {
                    let affine = (&weight[..width], &bias[..width]);
                    y.par_chunks_mut(width)
                        .zip(x.par_chunks(width))
                        .with_min_len(16)
                        .for_each(|(y, x)| normalize_row(x, affine, self.eps, y));
                    Ok(())
                })
            })
        })?;
        Tensor::from_vec(y, x.shape(), &Device::Cpu)
    }
}
