//! Where a tower computes, in which types and on how many threads.

use std::sync::{Arc, Weak};

use candle_core::{DType, Device};
use parking_lot::Mutex;
use rayon::ThreadPool;

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
    pool: Option<Arc<ThreadPool>>,
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
        let pool = shared_pool(config.threads)
            .map_err(|error| LoadError::new(format!("tower threads cannot start: {error}")))?;
        Ok(Self { device, compute: DType::F32, resident, pool: Some(pool) })
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

/// The pools of this process, by what `threads` says.
static POOLS: Mutex<Vec<(usize, Weak<ThreadPool>)>> = Mutex::new(Vec::new());

/// The threads that every model with an equal `threads` shares: two models that are busy at once take
/// turns on the cores, where a pool each would put twice as many threads on them.
///
/// Not rayon's global pool: `threads` is obeyed, and the pictures being decoded elsewhere do not queue
/// behind a product. Its threads sleep when idle, and end with the last model.
fn shared_pool(threads: usize) -> Result<Arc<ThreadPool>, rayon::ThreadPoolBuildError> {
    let mut pools = POOLS.lock();
    pools.retain(|(_, pool)| pool.strong_count() > 0);
    let known = pools.iter().find(|(known, _)| *known == threads);
    if let Some(pool) = known.and_then(|(_, pool)| pool.upgrade()) {
        return Ok(pool);
    }
    let name = |index| format!("tower-{index}");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(name).build()?;
    let pool = Arc::new(pool);
    pools.push((threads, Arc::downgrade(&pool)));
    Ok(pool)
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
