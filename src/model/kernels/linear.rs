//! `y = x W^T + b`.

use candle_core::{DType, Device, Result, Tensor};
use gemm::Parallelism;
use rayon::prelude::*;

use super::view::with_f32;

/// A fully connected layer.
///
/// * `weight`: `[out, in]`, in the resident type
/// * `bias`: `[out]`, in the compute type
#[derive(Debug, Clone)]
pub(in crate::model) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    pub(in crate::model) fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// The rows `start..start + len` of the weight and the bias, as a layer that shares their memory.
    pub(in crate::model) fn rows(&self, start: usize, len: usize) -> Result<Self> {
        let bias = self.bias.as_ref().map(|bias| bias.narrow(0, start, len)).transpose()?;
        Ok(Self { weight: self.weight.narrow(0, start, len)?, bias })
    }

    /// * `x`: `[.., in]` in the compute type
    /// * returns `[.., out]`
    pub(in crate::model) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_onto(x, None)
    }

    /// `x W^T + b + residual`: the sum costs nothing where the product accumulates onto it.
    ///
    /// * `residual`: of the result's shape, or of `[1, ..]`, repeated
    pub(in crate::model) fn forward_residual(
        &self,
        x: &Tensor,
        residual: &Tensor,
    ) -> Result<Tensor> {
        self.forward_onto(x, Some(residual))
    }

    fn forward_onto(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        // Weights kept at 16 bits on a processor that computes in f32 are widened for each product.
        let weight = self.weight.to_dtype(x.dtype())?;
        if matches!(x.device(), Device::Cpu) && x.dtype() == DType::F32 {
            return product_on_host(x, &weight, self.bias.as_ref(), residual);
        }
        let (out, width) = weight.dims2()?;
        let mut shape = x.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = out;
        }
        // One matrix instead of a batch of them: the weight is the same for every row.
        let mut y = x.reshape(((), width))?.matmul(&weight.t()?)?;
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        let y = y.reshape(shape)?;
        match residual {
            Some(residual) => y.broadcast_add(residual),
            None => Ok(y),
        }
    }
}

/// The values of `start`, repeated until there are `count`.
fn repeated(start: &Tensor, count: usize) -> Result<Vec<f32>> {
    let (start, length) = (start.contiguous()?, start.elem_count());
    if length == 0 || !count.is_multiple_of(length) {
        candle_core::bail!("a residual of {length} values for a result of {count}");
    }
    with_f32(&start, |values, _| {
        let mut repeated = Vec::with_capacity(count);
        for _ in 0..count / length {
            repeated.extend_from_slice(&values[..length]);
        }
        Ok(repeated)
    })
}

/// The product accumulates onto bias and residual, so neither needs a pass of its own.
fn product_on_host(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (out, width) = weight.dims2()?;
    let rows = x.elem_count() / width.max(1);
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = out;
    }
    let mut y = match residual {
        Some(residual) => repeated(residual, rows * out)?,
        None => vec![0.0; rows * out],
    };
    if let Some(bias) = bias {
        with_f32(bias, |bias, _| {
            let bias = &bias[..out];
            y.par_chunks_mut(out).for_each(|row| {
                for (value, bias) in row.iter_mut().zip(bias) {
                    *value += bias;
                }
            });
            Ok(())
        })?;
    }
    with_f32(&x, |x, _| {
        with_f32(weight, |weight, stride| {
            if stride != [width, 1] || weight.len() < out * width || x.len() < rows * width {
                candle_core::bail!("a weight of {out} x {width} with strides {stride:?}");
            }
            // SAFETY: `y` holds rows x out, `x` rows x width and `weight` out x width values, each
            // row-major and checked above; the strides below stay inside them. `y` is borrowed
            // mutably, so nothing else reads it meanwhile.
            unsafe {
                gemm::gemm(
                    rows,
                    out,
                    width,
                    y.as_mut_ptr(),
                    1,
                    out as isize,
                    true,
                    x.as_ptr(),
                    1,
                    width as isize,
                    weight.as_ptr(),
                    // Read across: element (k, n) of W^T is element (n, k) of W.
                    width as isize,
                    1,
                    1.0,
                    1.0,
                    false,
                    false,
                    false,
                    // As many threads as the pool that this runs in.
                    Parallelism::Rayon(0),
                );
            }
            Ok(())
        })
    })?;
    Tensor::from_vec(y, shape, &Device::Cpu)
}
