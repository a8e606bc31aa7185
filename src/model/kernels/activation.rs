//! The activation between the two layers of an MLP.

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Tensor, bail};
use rayon::prelude::*;

use super::elementwise::gelu_tanh;

/// Which GELU a checkpoint was trained with; they differ by up to 5e-4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Activation {
    /// The tanh approximation: SigLIP's own.
    GeluTanh,
    /// The exact one: checkpoints trained with open_clip.
    GeluErf,
}

impl Activation {
    /// * `x`: any shape, consumed: the caller holds the only reference, so that it may be overwritten
    pub(in crate::model) fn apply(self, x: Tensor) -> Result<Tensor> {
        if self == Self::GeluTanh
            && matches!(x.device(), Device::Cpu)
            && x.dtype() == DType::F32
            && x.is_contiguous()
        {
            x.inplace_op1(&GeluTanhOnHost)?;
            return Ok(x);
        }
        let wide = x.to_dtype(DType::F32)?;
        let y = match self {
            Self::GeluTanh => wide.gelu()?,
            Self::GeluErf => wide.gelu_erf()?,
        };
        y.to_dtype(x.dtype())
    }
}

struct GeluTanhOnHost;

impl InplaceOp1 for GeluTanhOnHost {
    fn name(&self) -> &'static str {
        "gelu-tanh"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets())
        else {
            bail!("gelu-tanh in place needs contiguous f32 values")
        };
        // 4096 values are about 10 us of work: well above the cost of handing out a task.
        values[start..end].par_chunks_mut(4096).for_each(gelu_tanh);
        Ok(())
    }
}
