//! The activation between the two layers of an MLP.

use candle_core::{DType, Result, Tensor};

/// Which GELU a checkpoint was trained with; the first two differ by up to 5e-4, the third from both by up to 2e-2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Activation {
    /// The tanh approximation: SigLIP's own.
    GeluTanh,
    /// The exact one: checkpoints trained with open_clip.
    GeluErf,
    /// `x sigmoid(1.702 x)`: CLIP's own.
    QuickGelu,
}

impl Activation {
    /// On a device, as a pass of its own. In f32, whatever the type.
    ///
    /// * `x`: any shape
    pub(super) fn apply(self, x: &Tensor) -> Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        let y = match self {
            Self::GeluTanh => wide.gelu()?,
            Self::GeluErf => wide.gelu_erf()?,
            Self::QuickGelu => (&wide * candle_nn::ops::sigmoid(&(&wide * 1.702)?)?)?,
        };
        y.to_dtype(x.dtype())
    }

    /// On the processor, as the end of a product.
    pub(super) fn on_host(self) -> siglip_kernels::Activation {
        match self {
            Self::GeluTanh => siglip_kernels::Activation::GeluTanh,
            Self::GeluErf => siglip_kernels::Activation::GeluErf,
            Self::QuickGelu => siglip_kernels::Activation::QuickGelu,
        }
    }
}
