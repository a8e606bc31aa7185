//! Tensors as addresses on the device.
//!
//! cudarc keeps an event with each slice for its last read and write, by which streams wait for each other. Code
//! that hands an address to a kernel keeps the guard that records the event until the kernel is launched.

use candle_core::{
    DType, Result, Shape, Storage, Tensor, bail,
    cuda_backend::{
        CudaDType, CudaDevice, CudaStorage, CudaStorageSlice,
        cudarc::driver::{CudaStream, DevicePtr as _, DevicePtrMut as _, DeviceRepr},
    },
    op::BackpropOp,
};
use half::{bf16, f16};

use super::arguments::Address;

/// Runs `work`, which launches what reads the tensor on `stream`, with the address of its first value.
///
/// # Errors
/// Fails if the tensor is not on a CUDA device in one piece, or of a type that no kernel reads.
pub(super) fn reading<R>(
    tensor: &Tensor,
    stream: &CudaStream,
    work: impl FnOnce(Address) -> Result<R>,
) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cuda(storage), Some((start, _))) = (&*storage, layout.contiguous_offsets())
    else {
        bail!("a kernel was given {:?} on {:?}", tensor.shape(), tensor.device());
    };
    let offset = (start * tensor.dtype().size_in_bytes()) as u64;
    let (address, _read) = match &storage.slice {
        CudaStorageSlice::U8(slice) => slice.device_ptr(stream),
        CudaStorageSlice::U32(slice) => slice.device_ptr(stream),
        CudaStorageSlice::F32(slice) => slice.device_ptr(stream),
        CudaStorageSlice::F16(slice) => slice.device_ptr(stream),
        CudaStorageSlice::BF16(slice) => slice.device_ptr(stream),
        _ => bail!("a kernel was given values of {:?}", tensor.dtype()),
    };
    work(address + offset)
}

/// The address of a tensor that is written by nobody and outlives all that reads it.
///
/// # Errors
/// As [`reading`].
pub(super) fn address_of(weight: &Tensor, stream: &CudaStream) -> Result<Address> {
    reading(weight, stream, Ok)
}

/// A new tensor, which `write` launches the writing of.
///
/// # Errors
/// Fails without room, or if `write` does.
pub(super) fn written(
    device: &CudaDevice,
    dtype: DType,
    shape: impl Into<Shape>,
    write: impl FnOnce(Address) -> Result<()>,
) -> Result<Tensor> {
    let shape = shape.into();
    match dtype {
        DType::F32 => written_as::<f32>(device, shape, write),
        DType::F16 => written_as::<f16>(device, shape, write),
        DType::BF16 => written_as::<bf16>(device, shape, write),
        _ => bail!("no kernel writes {dtype:?}"),
    }
}

fn written_as<T: CudaDType + DeviceRepr>(
    device: &CudaDevice,
    shape: Shape,
    write: impl FnOnce(Address) -> Result<()>,
) -> Result<Tensor> {
    // SAFETY: the memory is not read before it is written: `write` fills it on the stream that it is allocated on, and
    // every later use is on that stream.
    let mut slice = unsafe { device.alloc::<T>(shape.elem_count()) }?;
    {
        let stream = device.cuda_stream();
        let (address, _written) = slice.device_ptr_mut(&stream);
        write(address)?;
    }
    let storage = CudaStorage::wrap_cuda_slice(slice, device.clone());
    Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
}
