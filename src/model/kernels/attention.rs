//! Multi-head attention without a mask.

use candle_core::{DType, Device, Result, Tensor, bail};
use gemm::Parallelism;
use rayon::prelude::*;

use super::{elementwise::softmax_row, view::with_f32};

/// `softmax(q k^T / sqrt(head_dim)) v`, head by head; the softmax in f32.
///
/// * `q`: `[batch, queries, width]`, `k` and `v`: `[batch, keys, width]`; views are read in place
/// * returns `[batch, queries, width]`
///
/// No mask: SigLIP's text tower attends to its padding.
pub(in crate::model) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
) -> Result<Tensor> {
    if matches!(q.device(), Device::Cpu) && q.dtype() == DType::F32 {
        return attention_on_host(q, k, v, heads);
    }
    let (batch, queries, width) = q.dims3()?;
    let head_dim = width / heads;
    let split = |x: &Tensor| {
        let rows = x.dim(1)?;
        x.reshape((batch, rows, heads, head_dim))?.transpose(1, 2)?.contiguous()
    };
    let scale = (head_dim as f64).powf(-0.5);
    let scores = (split(q)?.matmul(&split(k)?.t()?)? * scale)?;
    let weights = candle_nn::ops::softmax_last_dim(&scores.to_dtype(DType::F32)?)?;
    let mixed = weights.to_dtype(q.dtype())?.matmul(&split(v)?)?;
    mixed.transpose(1, 2)?.reshape((batch, queries, width))
}

/// A `[batch, rows, width]` view: where each row begins, and that its values are adjacent.
#[derive(Clone, Copy)]
struct Rows<'a> {
    values: &'a [f32],
    batch_stride: usize,
    row_stride: usize,
}

impl<'a> Rows<'a> {
    fn new(values: &'a [f32], stride: &[usize], tensor: &Tensor) -> Result<Self> {
        let (batch, rows, width) = tensor.dims3()?;
        let &[batch_stride, row_stride, 1] = stride else {
            bail!("attention reads rows of adjacent values, not strides {stride:?}")
        };
        let end = (batch - 1) * batch_stride + (rows - 1) * row_stride + width;
        if values.len() < end {
            bail!("a view that ends at {end} of {} values", values.len())
        }
        Ok(Self { values, batch_stride, row_stride })
    }

    /// The values from the first of one head of one batch row on.
    fn head(&self, batch: usize, column: usize) -> &'a [f32] {
        &self.values[batch * self.batch_stride + column..]
    }
}

/// One task a head and picture: its scores stay in that core's cache, and nothing of size
/// `batch x heads x keys^2` is ever written.
fn attention_on_host(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, queries, width) = q.dims3()?;
    let (_, keys, _) = k.dims3()?;
    if batch * queries * keys == 0 || k.dims() != v.dims() || k.dims() != [batch, keys, width] {
        bail!("attention of {:?}, {:?} and {:?}", q.shape(), k.shape(), v.shape());
    }
    let head_dim = width / heads;
    let scale = (head_dim as f32).powf(-0.5);
    // `[batch, heads, queries, head_dim]`, so that each task owns one chunk of it.
    let mut mixed = vec![0f32; batch * queries * width];
    with_f32(q, |q_values, stride| {
        let q = Rows::new(q_values, stride, q)?;
        with_f32(k, |k_values, stride| {
            let k = Rows::new(k_values, stride, k)?;
            with_f32(v, |v_values, stride| {
                let v = Rows::new(v_values, stride, v)?;
                mixed.par_chunks_mut(queries * head_dim).enumerate().for_each_init(
                    || vec![0f32; queries * keys],
                    |scores, (task, out)| {
                        let (batch, column) = (task / heads, task % heads * head_dim);
                        let (q_head, k_head) = (q.head(batch, column), k.head(batch, column));
                        // SAFETY: `Rows::new` checked that every row of every batch lies inside its
                        // slice, and `column + head_dim <= width`; `scores` holds queries x keys.
                        unsafe {
                            multiply(
                                Product { m: queries, n: keys, k: head_dim, alpha: scale },
                                (scores.as_mut_ptr(), keys),
                                (q_head.as_ptr(), [q.row_stride, 1]),
                                (k_head.as_ptr(), [1, k.row_stride]),
                            );
                        }
                        for row in scores.chunks_exact_mut(keys) {
                            softmax_row(row);
                        }
                        let v_head = v.head(batch, column);
                        // SAFETY: as above; `out` holds queries x head_dim.
                        unsafe {
                            multiply(
                                Product { m: queries, n: head_dim, k: keys, alpha: 1.0 },
                                (out.as_mut_ptr(), head_dim),
                                (scores.as_ptr(), [keys, 1]),
                                (v_head.as_ptr(), [v.row_stride, 1]),
                            );
                        }
                    },
                );
                Ok(())
            })
        })
    })?;
    let mixed = Tensor::from_vec(mixed, (batch, heads, queries, head_dim), &Device::Cpu)?;
    mixed.transpose(1, 2)?.reshape((batch, queries, width))
}

/// `alpha * (m x k) (k x n)`.
struct Product {
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
}

/// Writes the product to `out` (row stride given, columns adjacent); operands with `[row, column]` strides.
///
/// # Safety
/// Every element that the shapes and strides name lies inside its allocation, and `out` is not shared.
unsafe fn multiply(
    shape: Product,
    out: (*mut f32, usize),
    lhs: (*const f32, [usize; 2]),
    rhs: (*const f32, [usize; 2]),
) {
    // SAFETY: the caller's promise. One thread: the tasks above already use them all.
    unsafe {
        gemm::gemm(
            shape.m,
            shape.n,
            shape.k,
            out.0,
            1,
            out.1 as isize,
            false,
            lhs.0,
            lhs.1[1] as isize,
            lhs.1[0] as isize,
            rhs.0,
            rhs.1[1] as isize,
            rhs.1[0] as isize,
            0.0,
            shape.alpha,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
