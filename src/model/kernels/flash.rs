//! Attention in one fused CUDA kernel, where the build has it.

use candle_core::{DType, Result, Tensor};

use super::attention::Mask;

/// What [`Attention`](super::Attention) computes, by candle's FlashAttention 2, which keeps the scores on the chip.
///
/// * returns none where its kernels do not apply: other devices than CUDA, f32, and head dimensions that
///   are no multiple of 8 or above 512
pub(super) fn flash_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    (heads, mask): (usize, Mask),
) -> Result<Option<Tensor>> {
    let (batch, queries, width) = q.dims3()?;
    let head_dim = width / heads;
    let sixteen_bits = matches!(q.dtype(), DType::F16 | DType::BF16);
    if !q.device().is_cuda() || !sixteen_bits || !head_dim.is_multiple_of(8) || head_dim > 512 {
        return Ok(None);
    }
    // Heads stay beside each other: this layout needs no transposition.
    let split = |x: &Tensor| x.reshape((batch, x.dim(1)?, heads, head_dim));
    let scale = (head_dim as f32).powf(-0.5);
    let causal = mask == Mask::Causal;
    let mixed = candle_flash_attn::flash_attn(&split(q)?, &split(k)?, &split(v)?, scale, causal)?;
    mixed.reshape((batch, queries, width)).map(Some)
}
