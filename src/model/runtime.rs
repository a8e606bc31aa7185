//! Where a tower computes, in which types and on how many threads.

use std::sync::Arc;

use candle_core::{DType, Device};

use super::{LoadError, TowerError};
use crate::config;

/// Where a tower computes, in which types and on how many threads. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Runtime {
    pub(super) device: Device,
    /// The type of activations.
    pub(super) compute: DType,
    /// The type of resident matrices. It may be narrower than `compute`: a processor keeps 16-bit
    /// weights, for the memory, and computes in f32.
    pub(super) resident: DType,
    /// The processor's threads; none for a device that brings its own parallelism.
    pool: Option<Arc<rayon::ThreadPool>>,
}

impl Runtime {
    /// # Errors
    /// Fails if the device is absent or not compiled in, or if the threads cannot be started.
    pub(super) fn new(config: &config::Model) -> Result<Self, LoadError> {
        let resident = match config.dtype {
            config::DType::F32 => DType::F32,
            config::DType::F16 => DType::F16,
            config::DType::Bf16 => DType::BF16,
        };
        let device = open(config.device).map_err(|error| {
            LoadError::new(format!("device `{}` cannot be used: {error}", config.device))
        })?;
        if !matches!(device, Device::Cpu) {
            return Ok(Self { device, compute: resident, resident, pool: None });
        }
        // A pool of its own, not rayon's global one: `threads` is obeyed, and the pictures being
        // decoded elsewhere do not queue behind a product. Its threads sleep when idle.
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(config.threads)
            .thread_name(|index| format!("tower-{index}"))
            .build()
            .map_err(|error| LoadError::new(format!("tower threads cannot start: {error}")))?;
        Ok(Self { device, compute: DType::F32, resident, pool: Some(Arc::new(pool)) })
    }

    /// Runs a forward pass on this runtime's threads.
    pub(super) fn run<T: Send>(
        &self,
        forward: impl FnOnce() -> candle_core::Result<T> + Send,
    ) -> Result<T, TowerError> {
        match &self.pool {
            Some(pool) => pool.install(forward),
            None => forward(),
        }
        .map_err(tower_error)
    }
}

fn open(device: config::Device) -> candle_core::Result<Device> {
    match device {
        config::Device::Cpu => Ok(Device::Cpu),
        config::Device::Cuda(index) => Device::new_cuda(index),
        config::Device::Metal => Device::new_metal(0),
    }
}

/// Candle hands the driver's error on as text, so the text is all there is to tell by.
fn tower_error(error: candle_core::Error) -> TowerError {
    let text = error.to_string();
    if text.contains("OUT_OF_MEMORY") || text.to_ascii_lowercase().contains("out of memory") {
        TowerError::OutOfMemory
    } else {
        TowerError::Device(error.into())
    }
}
