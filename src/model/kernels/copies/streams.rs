//! Copies on CUDA streams of their own.
//!
//! What one stream does with a tensor's memory waits for what another did: cudarc keeps an event with each of its
//! slices for every last read and write, and frees a slice behind them. It knows nothing of the host's memory, which
//! [`Staging`] keeps until it was copied.

use std::{collections::VecDeque, fmt, sync::Arc};

use candle_core::{
    Result, Shape, Storage, Tensor, bail,
    cuda_backend::{
        CudaDevice, CudaStorage, WrapErr,
        cudarc::driver::{
            CudaEvent, CudaStream, DeviceRepr, PinnedHostSlice, ValidAsZeroBits, sys,
        },
    },
    op::BackpropOp,
};
use parking_lot::Mutex;

/// A stream for each direction, beside the one that computes.
pub(super) struct Streams {
    device: CudaDevice,
    up: Arc<CudaStream>,
    down: Arc<CudaStream>,
    to_device: Idle<u8>,
    to_host: Arc<Idle<f32>>,
}

impl Streams {
    pub(super) fn new(device: &CudaDevice) -> Result<Self> {
        let context = Arc::clone(device.cuda_stream().context());
        Ok(Self {
            device: device.clone(),
            up: context.new_stream().w()?,
            down: context.new_stream().w()?,
            to_device: Idle::default(),
            to_host: Arc::default(),
        })
    }

    /// See [`Copies::upload`](super::Copies::upload).
    pub(super) fn upload(&self, parts: &[&[u8]], shape: Shape) -> Result<Tensor> {
        let len = parts.iter().map(|part| part.len()).sum();
        if shape.elem_count() != len {
            bail!("{len} bytes for {shape:?}");
        }
        // The processor writes it from the first byte to the last and never reads it.
        let flags = sys::CU_MEMHOSTALLOC_WRITECOMBINED;
        let mut staging = self.to_device.take(len, &self.up, flags)?;
        let uploaded = staging.copy(len, |memory| {
            let mut rest = &mut *memory;
            for part in parts {
                let (here, behind) = rest.split_at_mut(part.len());
                here.copy_from_slice(part);
                rest = behind;
            }
            self.up.clone_htod(&*memory).w()
        });
        let uploaded = uploaded?;
        self.to_device.put_back(staging);
        let storage = CudaStorage::wrap_cuda_slice(uploaded, self.device.clone());
        Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
    }

    /// * `tensor`: contiguous, of f32
    pub(super) fn download(&self, tensor: Tensor) -> Result<Coming> {
        let (len, mut staging);
        {
            let (storage, layout) = tensor.storage_and_layout();
            let (Storage::Cuda(storage), Some((start, end))) =
                (&*storage, layout.contiguous_offsets())
            else {
                bail!("a download of what is not on the device in one piece");
            };
            let values = storage.as_cuda_slice::<f32>()?.slice(start..end);
            len = end - start;
            staging = self.to_host.take(len, &self.down, 0)?;
            staging.copy(len, |memory| self.down.memcpy_dtoh(&values, memory).w())?;
        }
        Ok(Coming { staging, len, source: tensor, idle: Arc::clone(&self.to_host) })
    }
}

/// A kernel that fails breaks its context for good: every later call of the process fails, also those by which cuBLAS and
/// cuRAND let go of their handles, and these panic in cudarc. So a broken device is never let go of. Only the process's
/// end frees it, which is near: no towers can be loaded on it again.
impl Drop for Streams {
    fn drop(&mut self) {
        if let Err(error) = self.device.cuda_stream().synchronize() {
            tracing::error!(%error, "the device is broken; it needs a new process");
            std::mem::forget(self.device.clone());
        }
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").field("device", &self.device).finish_non_exhaustive()
    }
}

/// Values that the device was asked for.
pub(super) struct Coming {
    staging: Staging<f32>,
    len: usize,
    /// Freed later, since the computing stream waits with whatever it frees until that was copied.
    source: Tensor,
    idle: Arc<Idle<f32>>,
}

impl Coming {
    pub(super) fn wait(self) -> Result<Vec<f32>> {
        let Self { mut staging, len, source, idle } = self;
        staging.wait()?;
        let values = staging.memory.as_slice().w()?[..len].to_vec();
        drop(source);
        idle.put_back(staging);
        Ok(values)
    }
}

/// Page-locked memory on the host, which a device reads and writes by itself.
struct Staging<T> {
    memory: PinnedHostSlice<T>,
    stream: Arc<CudaStream>,
    /// Behind the last copy.
    copied: Option<CudaEvent>,
}

impl<T: DeviceRepr + ValidAsZeroBits> Staging<T> {
    fn new(len: usize, stream: &Arc<CudaStream>, flags: u32) -> Result<Self> {
        // SAFETY: the memory is the driver's, not Rust's to leave uninitialised, any bits are a `T`, and it is written
        // before it is read.
        let memory = unsafe { stream.context().alloc_pinned_with_flags(len, flags) }.w()?;
        Ok(Self { memory, stream: Arc::clone(stream), copied: None })
    }

    /// Waits for the last copy.
    fn wait(&mut self) -> Result<()> {
        match self.copied.take() {
            Some(copied) => copied.synchronize().w(),
            None => Ok(()),
        }
    }

    /// * `begin`: begins a copy of the first `len` values or into them, on this memory's stream
    fn copy<R>(&mut self, len: usize, begin: impl FnOnce(&mut [T]) -> Result<R>) -> Result<R> {
        self.wait()?;
        let begun = begin(&mut self.memory.as_mut_slice().w()?[..len])?;
        // A thread that waits for it sleeps.
        let flags = sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC;
        self.copied = Some(self.stream.record_event(Some(flags)).w()?);
        Ok(begun)
    }
}

/// No copy outlives its memory, whether it has an event or failed before it got one.
impl<T> Drop for Staging<T> {
    fn drop(&mut self) {
        if let Err(error) = self.stream.synchronize() {
            tracing::debug!(%error, "a copy did not end");
        }
    }
}

/// Memory that waits for its next copy, the longest unused first. To lock pages takes longer than to copy them.
struct Idle<T>(Mutex<VecDeque<Staging<T>>>);

/// Two batches of each tower.
const KEPT: usize = 4;

impl<T: DeviceRepr + ValidAsZeroBits> Idle<T> {
    fn take(&self, len: usize, stream: &Arc<CudaStream>, flags: u32) -> Result<Staging<T>> {
        let mut idle = self.0.lock();
        let fitting = idle.iter().position(|staging| staging.memory.len() >= len);
        match fitting.and_then(|index| idle.remove(index)) {
            Some(staging) => Ok(staging),
            None => Staging::new(len.next_power_of_two(), stream, flags),
        }
    }

    fn put_back(&self, staging: Staging<T>) {
        let mut idle = self.0.lock();
        idle.push_back(staging);
        if idle.len() > KEPT {
            idle.pop_front();
        }
    }
}

impl<T> Default for Idle<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}
