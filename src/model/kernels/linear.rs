//! `y = x W^T + b`.

use std::{fmt, ops::Range, sync::Arc};

use candle_core::{Device, Result, Tensor};
use siglip_kernels::{Epilogue, Level, Packed, Quantized, Residual, product, quantized_product};

use super::{Activation, view::with_f32};

/// A fully connected layer. Its kernel was chosen when it was made.
#[derive(Clone)]
pub(in crate::model) struct Linear(Kernel);

#[derive(Clone)]
enum Kernel {
    /// On the processor: weights in the order of the product, computing in f32.
    Packed { packed: Arc<Packed>, columns: Range<usize>, level: Level },
    /// On the processor: weights as bytes, and inputs made bytes row by row.
    Quantized { layer: Arc<Quantized>, columns: Range<usize>, level: Level },
    /// Elsewhere: `[out, in]` and `[out]`, both in the compute type.
    Tensors { weight: Tensor, bias: Option<Tensor> },
}

impl Linear {
    /// A layer on the processor.
    pub(in crate::model) fn packed(packed: Packed, level: Level) -> Self {
        let columns = 0..packed.columns();
        Self(Kernel::Packed { packed: Arc::new(packed), columns, level })
    }

    /// A layer of bytes on the processor.
    ///
    /// * `level`: the one that it was packed for
    pub(in crate::model) fn quantized(layer: Quantized, level: Level) -> Self {
        let columns = 0..layer.columns();
        Self(Kernel::Quantized { layer: Arc::new(layer), columns, level })
    }

    /// A layer on any device.
    ///
    /// * `weight`: `[out, in]`, `bias`: `[out]`
    pub(in crate::model) fn tensors(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self(Kernel::Tensors { weight, bias })
    }

    /// Weight and bias, `[out, in]` and `[out]`; none where they are no tensors, or without a bias.
    pub(in crate::model) fn parameters(&self) -> Option<(Tensor, Tensor)> {
        match &self.0 {
            Kernel::Tensors { weight, bias: Some(bias) } => Some((weight.clone(), bias.clone())),
            _ => None,
        }
    }

    /// The outputs `start..start + len`, as a layer that shares the memory.
    pub(in crate::model) fn rows(&self, start: usize, len: usize) -> Result<Self> {
        Ok(Self(match &self.0 {
            Kernel::Packed { packed, columns, level } => Kernel::Packed {
                packed: Arc::clone(packed),
                columns: columns.start + start..columns.start + start + len,
                level: *level,
            },
            Kernel::Quantized { layer, columns, level } => Kernel::Quantized {
                layer: Arc::clone(layer),
                columns: columns.start + start..columns.start + start + len,
                level: *level,
            },
            Kernel::Tensors { weight, bias } => Kernel::Tensors {
                weight: weight.narrow(0, start, len)?,
                bias: bias.as_ref().map(|bias| bias.narrow(0, start, len)).transpose()?,
            },
        }))
    }

    /// * `x`: `[.., in]` in the compute type
    /// * returns `[.., out]`
    pub(in crate::model) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_through(x, None, None)
    }

    /// `activation(x W^T + b)`, in the same pass where the processor computes.
    pub(in crate::model) fn forward_activated(
        &self,
        x: &Tensor,
        activation: Activation,
    ) -> Result<Tensor> {
        self.forward_through(x, Some(activation), None)
    }

    /// `x W^T + b + residual`, in the same pass where the processor computes.
    ///
    /// * `residual`: of the result's shape, or of `[1, ..]`, repeated
    pub(in crate::model) fn forward_residual(
        &self,
        x: &Tensor,
        residual: &Tensor,
    ) -> Result<Tensor> {
        self.forward_through(x, None, Some(residual))
    }

    fn forward_through(
        &self,
        x: &Tensor,
        activation: Option<Activation>,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let on_host = activation.map(Activation::on_host).unwrap_or_default();
        let (weight, bias) = match &self.0 {
            Kernel::Tensors { weight, bias } => (weight, bias),
            Kernel::Packed { packed, columns, level } => {
                let layer = packed.part(columns.clone());
                return host_product(x, residual, columns.len(), |x, residual| {
                    product(*level, x, &layer, Epilogue { activation: on_host, residual })
                });
            }
            Kernel::Quantized { layer, columns, level } => {
                let layer = layer.part(columns.clone());
                return host_product(x, residual, columns.len(), |x, residual| {
                    let epilogue = Epilogue { activation: on_host, residual };
                    quantized_product(*level, x, &layer, epilogue)
                });
            }
        };
        let (out, width) = weight.dims2()?;
        // One matrix instead of a batch of them: the weight is the same for every row.
        let mut y = x.reshape(((), width))?.matmul(&weight.t()?)?;
        if let Some(bias) = bias {
            y = y.broadcast_add(bias)?;
        }
        if let Some(activation) = activation {
            y = activation.apply(&y)?;
        }
        let y = y.reshape(shape(x, out))?;
        match residual {
            Some(residual) => y.broadcast_add(residual),
            None => Ok(y),
        }
    }
}

/// A layer's weights tell nobody anything.
impl fmt::Debug for Linear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kernel::Packed { packed, columns, level } => {
                write!(
                    f,
                    "Linear({columns:?} of {} x {}, {level})",
                    packed.columns(),
                    packed.depth()
                )
            }
            Kernel::Quantized { layer, columns, level } => {
                write!(
                    f,
                    "Linear({columns:?} of {} x {} bytes, {level})",
                    layer.columns(),
                    layer.depth()
                )
            }
            Kernel::Tensors { weight, .. } => write!(f, "Linear({:?})", weight.dims()),
        }
    }
}

/// Runs `product` on the values of `x` and of the residual: `[.., columns]`.
fn host_product(
    x: &Tensor,
    residual: Option<&Tensor>,
    columns: usize,
    product: impl FnOnce(&[f32], Option<Residual<'_>>) -> Vec<f32>,
) -> Result<Tensor> {
    let x = x.contiguous()?;
    let y = with_values(&x, |x| match residual {
        Some(residual) => {
            let residual = residual.contiguous()?;
            with_values(&residual, |values| Ok(product(x, Some(Residual(values)))))
        }
        None => Ok(product(x, None)),
    })?;
    Tensor::from_vec(y, shape(&x, columns), &Device::Cpu)
}

/// The shape of `x` with another last dimension.
fn shape(x: &Tensor, last: usize) -> Vec<usize> {
    let mut shape = x.dims().to_vec();
    if let Some(width) = shape.last_mut() {
        *width = last;
    }
    shape
}

/// The values of a contiguous tensor.
fn with_values<T>(tensor: &Tensor, work: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    with_f32(tensor, |values, _| work(&values[..tensor.elem_count()]))
}
