//! Borrowed f32 rows of a tensor in host memory.

use candle_core::{CpuStorage, Result, Storage, Tensor, bail};

/// Runs `work` on the tensor's values from its first one on, and on its strides, without a copy.
///
/// # Errors
/// Fails if the tensor is not f32 in host memory, which is a defect of the caller.
pub(super) fn with_f32<T>(
    tensor: &Tensor,
    work: impl FnOnce(&[f32], &[usize]) -> Result<T>,
) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => {
            work(&values[layout.start_offset()..], layout.stride())
        }
        _ => bail!("a host kernel was given {:?} on {:?}", tensor.dtype(), tensor.device()),
    }
}
