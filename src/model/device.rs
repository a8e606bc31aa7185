//! Kernels of our own for CUDA, beside candle's operations.
//!
//! A model that runs on a CUDA device has both ways through its towers over the same weights. [`Own`] says which one is
//! in use: ours, once a batch was seen to give what candle's operations give, or candle's. In a build without CUDA
//! there is one way alone.

#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "kernels take its structs by value")]
mod arguments;
#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "copies memory of the device")]
mod compare;
#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "launches kernels")]
mod cuda;
#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "allocates memory of the device")]
mod memory;
#[cfg(feature = "cuda")]
mod operations;
#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "sends CUDA graphs to other threads")]
mod plan;
#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "calls cuBLASLt, which is C")]
mod products;
#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "allocates and copies memory of the device")]
mod stack;
#[cfg(feature = "cuda")]
mod twins;

mod check;
mod layers;

use std::sync::Arc;
#[cfg(feature = "cuda")]
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Device, Result, Tensor};
use parking_lot::Mutex;

#[cfg(feature = "cuda")]
pub use self::compare::{Compared, compare_kernels};
pub(in crate::model) use self::layers::{LayerWeights, OwnLayers, StackShape};
use super::Kernels;
use crate::config::{self, CudaKernels, MatmulPrecision};

/// Which kernels a model's towers use on a CUDA device. All of its towers share it.
#[derive(Debug, Clone, Default)]
pub(in crate::model) struct Own {
    /// None on other devices.
    chosen: Option<Arc<Mutex<Kernels>>>,
    #[cfg(feature = "cuda")]
    cuda: Option<Arc<cuda::Cuda>>,
    #[cfg(feature = "cuda")]
    in_use: Arc<AtomicBool>,
}

impl Own {
    /// * `compute`: the type of activations
    pub(in crate::model) fn new(device: &Device, compute: DType, config: &config::Model) -> Self {
        if !device.is_cuda() {
            return Self::default();
        }
        if config.cuda_kernels == CudaKernels::Candle {
            return Self::default()
                .with(CudaKernels::Candle, "the configuration asks for them".into());
        }
        let is_fast = config.matmul_precision == Some(MatmulPrecision::High);
        match Self::open(device, compute, is_fast) {
            Ok(own) => own.with(CudaKernels::Own, "they were not compared yet".into()),
            Err(error) => {
                tracing::warn!(%error, "own kernels cannot be used on this device");
                let why = format!("own kernels cannot be used on this device: {error}");
                Self::default().with(CudaKernels::Candle, why)
            }
        }
    }

    fn with(mut self, value: CudaKernels, why: String) -> Self {
        self.chosen = Some(Arc::new(Mutex::new(Kernels { value, why })));
        self
    }

    #[cfg(feature = "cuda")]
    fn open(device: &Device, compute: DType, is_fast: bool) -> Result<Self> {
        let cuda = Some(Arc::new(cuda::Cuda::new(device.as_cuda_device()?, compute, is_fast)?));
        Ok(Self { chosen: None, cuda, in_use: Arc::new(AtomicBool::new(true)) })
    }

    #[cfg(not(feature = "cuda"))]
    fn open(_: &Device, _: DType, _: bool) -> Result<Self> {
        candle_core::bail!("this build has none")
    }

    /// Which kernels are used, and why these; none where there is no choice.
    pub(in crate::model) fn chosen(&self) -> Option<Kernels> {
        self.chosen.as_ref().map(|chosen| chosen.lock().clone())
    }

    /// Whether ours are in use.
    pub(in crate::model) fn is_in_use(&self) -> bool {
        #[cfg(feature = "cuda")]
        return self.cuda.is_some() && self.in_use.load(Ordering::Relaxed);
        #[cfg(not(feature = "cuda"))]
        false
    }

    fn choose(&self, value: CudaKernels, why: String) {
        self.use_them(value == CudaKernels::Own);
        if let Some(chosen) = &self.chosen {
            *chosen.lock() = Kernels { value, why };
        }
    }

    #[cfg(feature = "cuda")]
    fn use_them(&self, are_used: bool) {
        self.in_use.store(are_used, Ordering::Relaxed);
    }

    #[cfg(not(feature = "cuda"))]
    fn use_them(&self, _: bool) {}

    /// What computes, where ours are in use.
    #[cfg(feature = "cuda")]
    fn cuda(&self) -> Option<&Arc<cuda::Cuda>> {
        self.cuda.as_ref().filter(|_| self.in_use.load(Ordering::Relaxed))
    }

    /// What would compute, whether ours are in use or not.
    #[cfg(feature = "cuda")]
    fn available(&self) -> Option<&Arc<cuda::Cuda>> {
        self.cuda.as_ref()
    }

    /// Bytes of pixels, normalised and patch by patch.
    ///
    /// * `pixels`: `[images, height, width, 3]`, bytes
    /// * returns `[images, patches, patch * patch * 3]`; none where candle's operations are used
    pub(in crate::model) fn unfold(
        &self,
        pixels: &Tensor,
        unfold: Unfold,
    ) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        return self.cuda().map(|cuda| cuda.unfold(pixels, unfold)).transpose();
        #[cfg(not(feature = "cuda"))]
        {
            let _ = (pixels, unfold);
            Ok(None)
        }
    }

    /// Rows of a table, with a position added to each.
    ///
    /// * `ids`: `[texts * tokens]`
    /// * `table`: `[vocabulary, width]`, `positions`: `[tokens, width]`
    /// * returns `[texts, tokens, width]`; none where candle's operations are used
    pub(in crate::model) fn embed(
        &self,
        ids: &Tensor,
        table: &Tensor,
        positions: &Tensor,
    ) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        return Ok(self
            .cuda()
            .map(|cuda| cuda.embed(ids, table, positions))
            .transpose()?
            .flatten());
        #[cfg(not(feature = "cuda"))]
        {
            let _ = (ids, table, positions);
            Ok(None)
        }
    }

    /// The attention of queries that never change to whole tokens, scaled by the root of their width.
    ///
    /// * `queries`: `[1, heads, width]`, `x`: `[batch, tokens, width]`
    /// * returns `[batch, heads, width]`; none where candle's operations are used
    pub(in crate::model) fn pool(&self, queries: &Tensor, x: &Tensor) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        return Ok(self.cuda().map(|cuda| cuda.pool(queries, x)).transpose()?.flatten());
        #[cfg(not(feature = "cuda"))]
        {
            let _ = (queries, x);
            Ok(None)
        }
    }

    /// Of each head its own part of a row.
    ///
    /// * `values`: `[batch, heads, width]`
    /// * returns `[batch, 1, width]`; none where candle's operations are used
    pub(in crate::model) fn own_heads(&self, values: &Tensor) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        return self.cuda().map(|cuda| cuda.own_heads(values)).transpose();
        #[cfg(not(feature = "cuda"))]
        {
            let _ = values;
            Ok(None)
        }
    }
}

/// How pixels are normalised and cut into patches.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "a kernel reads it"))]
pub(in crate::model) struct Unfold {
    /// Pixels of a patch's side.
    pub(in crate::model) patch: usize,
    /// Rows and columns of whole patches.
    pub(in crate::model) grid: [usize; 2],
    /// For each channel what a byte is multiplied with, and what is added then.
    pub(in crate::model) scale: [f32; 3],
    pub(in crate::model) offset: [f32; 3],
}
