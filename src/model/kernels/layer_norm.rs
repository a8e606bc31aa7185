//! Layer normalisation over the last dimension.

use candle_core::{DType, Device, Result, Tensor};
use siglip_kernels::{Level, layer_norm};

use super::view::with_f32;

/// `(x - mean) / sqrt(variance + eps) * weight + bias`, statistics in f32 whatever the compute type.
///
/// * `weight`, `bias`: `[width]`, in the compute type
#[derive(Debug, Clone)]
pub(in crate::model) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
    level: Level,
}

impl LayerNorm {
    pub(in crate::model) fn new(weight: Tensor, bias: Tensor, eps: f32, level: Level) -> Self {
        Self { weight, bias, eps, level }
    }

    /// Weight and bias.
    pub(in crate::model) fn parameters(&self) -> (Tensor, Tensor) {
        (self.weight.clone(), self.bias.clone())
    }

    /// * `x`: `[.., width]`
    /// * returns the same shape
    pub(in crate::model) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.contiguous()?;
        if !matches!(x.device(), Device::Cpu) || x.dtype() != DType::F32 {
            return candle_nn::ops::layer_norm(&x, &self.weight, &self.bias, self.eps);
        }
        let width = self.weight.dims1()?;
        let count = x.elem_count();
        let y = with_f32(&x, |x, _| {
            with_f32(&self.weight, |weight, _| {
                with_f32(&self.bias, |bias, _| {
                    let affine = (&weight[..width], &bias[..width]);
                    Ok(layer_norm(self.level, &x[..count], affine, self.eps))
                })
            })
        })?;
        Tensor::from_vec(y, x.shape(), &Device::Cpu)
    }
}
