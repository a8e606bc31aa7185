//! A device with the kernels for one type of activations.

use std::{fmt, sync::Arc};

use candle_core::{
    DType, Result, bail,
    cuda_backend::{
        CudaDevice, WrapErr as _,
        cudarc::{
            driver::{
                CudaFunction, CudaModule, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg as _,
                sys::CUfunction_attribute,
            },
            nvrtc::Ptx,
        },
    },
};

use super::{
    arguments::{Activate, Attend, Embed, LayerNorm, OwnHeads, Pool, UnfoldPixels},
    products::Products,
};

/// The compiled kernels: for Ampere and Hopper, and in NVIDIA's assembly language for what comes after.
static MODULE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// The oldest generation that they are compiled for.
const OLDEST: (i32, i32) = (8, 0);

/// The widest head that attention is computed for.
pub(super) const WIDEST_HEAD: usize = 128;

/// The most tokens that a pooling head reads: their scores are in memory that a block shares.
pub(super) const MOST_POOLED: usize = 3072;

/// Of a block of most kernels.
const THREADS: u32 = 256;
const WARP: u32 = 32;
/// Heads of a block of the pooling head's attention.
const POOL_HEADS: usize = 4;

/// A device, its stream, and what is launched on it. All of it runs on the one stream, in the order of the calls.
pub(super) struct Cuda {
    pub(super) device: CudaDevice,
    pub(super) stream: Arc<CudaStream>,
    /// Of activations.
    pub(super) dtype: DType,
    pub(super) products: Products,
    layer_norm: CudaFunction,
    activate: CudaFunction,
    unfold: CudaFunction,
    pool: CudaFunction,
    own_heads: CudaFunction,
    /// For each type of the table.
    embed: Vec<(DType, CudaFunction)>,
    /// For heads up to each width, from the narrowest on.
    attention: Vec<(usize, CudaFunction)>,
}

impl Cuda {
    /// * `is_fast`: whether f32 may be multiplied in TF32
    ///
    /// # Errors
    /// Fails for a device that the kernels are not compiled for.
    pub(super) fn new(device: &CudaDevice, dtype: DType, is_fast: bool) -> Result<Self> {
        let stream = device.cuda_stream();
        let context = Arc::clone(stream.context());
        let capability = context.compute_capability().w()?;
        if capability < OLDEST {
            bail!("it is of generation {}.{}, and they need 8.0", capability.0, capability.1);
        }
        let module = context.load_module(Ptx::from_binary(MODULE.to_vec())).w()?;
        let (name, tables): (_, &[_]) = match dtype {
            DType::F32 => {
                ("f32", &[("f32", DType::F32), ("f16", DType::F16), ("bf16", DType::BF16)])
            }
            DType::F16 => ("f16", &[("f16", DType::F16)]),
            DType::BF16 => ("bf16", &[("bf16", DType::BF16)]),
            _ => bail!("none computes in {dtype:?}"),
        };
        let function = |kernel: &str| module.load_function(&format!("{kernel}_{name}")).w();
        let embed = tables.iter().map(|(table, dtype)| {
            Ok((*dtype, module.load_function(&format!("embed_{name}_{table}")).w()?))
        });
        Ok(Self {
            layer_norm: function("layer_norm")?,
            activate: function("activate")?,
            unfold: function("unfold")?,
            pool: function("pool")?,
            own_heads: function("own_heads")?,
            embed: embed.collect::<Result<_>>()?,
            attention: attention(&module, dtype, name)?,
            products: Products::new(&stream, dtype, is_fast)?,
            device: device.clone(),
            stream,
            dtype,
        })
    }

    pub(super) fn layer_norm(&self, arguments: &LayerNorm) -> Result<()> {
        let blocks = count(arguments.rows)?.div_ceil(128 / WARP);
        self.launch(&self.layer_norm, ([blocks, 1], 128, 0), arguments)
    }

    pub(super) fn activate(&self, arguments: &Activate) -> Result<()> {
        let blocks = count(arguments.count)?.div_ceil(THREADS * 8);
        self.launch(&self.activate, ([blocks, 1], THREADS, 0), arguments)
    }

    /// * `images`: whose pixels there are
    pub(super) fn unfold_pixels(&self, arguments: &UnfoldPixels, images: usize) -> Result<()> {
        let lines = count(images)? * count(arguments.down)? * count(arguments.patch)?;
        self.launch(&self.unfold, ([lines, 1], THREADS, 0), arguments)
    }

    /// * `texts`: of equally many tokens
    /// * returns false for a table of a type that no kernel reads
    pub(super) fn embed_tokens(
        &self,
        arguments: &Embed,
        texts: usize,
        table: DType,
    ) -> Result<bool> {
        let Some((_, function)) = self.embed.iter().find(|(dtype, _)| *dtype == table) else {
            return Ok(false);
        };
        let tokens = count(texts)? * count(arguments.tokens)?;
        self.launch(function, ([tokens, 1], THREADS, 0), arguments)?;
        Ok(true)
    }

    /// * `batch`: of rows with up to [`MOST_POOLED`] tokens
    pub(super) fn pool_tokens(&self, arguments: &Pool, batch: usize) -> Result<()> {
        let heads = count(arguments.heads)?.div_ceil(POOL_HEADS as u32);
        let shared = POOL_HEADS as u32 * count(arguments.tokens)? * 4;
        self.launch(&self.pool, ([heads, count(batch)?], THREADS, shared), arguments)
    }

    pub(super) fn gather_heads(&self, arguments: &OwnHeads) -> Result<()> {
        let values = count(arguments.batch)? * count(arguments.width)?;
        self.launch(&self.own_heads, ([values.div_ceil(THREADS), 1], THREADS, 0), arguments)
    }

    /// * `batch`: of rows with heads of up to [`WIDEST_HEAD`] values
    pub(super) fn attend(&self, arguments: &Attend, batch: usize) -> Result<()> {
        let width = arguments.head_dim as usize;
        let Some((dim, function)) = self.attention.iter().find(|(dim, _)| width <= *dim) else {
            bail!("heads of {width} values");
        };
        let queries = if self.dtype == DType::F32 { 16 } else { 64 };
        let tiles = count(arguments.queries)?.div_ceil(queries);
        let blocks = tiles * count(batch)? * count(arguments.heads)?;
        let shared = if self.dtype == DType::F32 { wide_shared(width) } else { shared(*dim) };
        self.launch(function, ([blocks, 1], 128, shared), arguments)
    }

    /// * `sizes`: the grid, the threads of a block and the bytes that they share
    fn launch<A: DeviceRepr>(
        &self,
        function: &CudaFunction,
        ([x, y], threads, shared_mem_bytes): ([u32; 2], u32, u32),
        arguments: &A,
    ) -> Result<()> {
        let config =
            LaunchConfig { grid_dim: (x, y, 1), block_dim: (threads, 1, 1), shared_mem_bytes };
        let mut launch = self.stream.launch_builder(function);
        launch.arg(arguments);
        // SAFETY: the kernel takes this struct by value. The addresses and sizes in it were made from the same shapes,
        // so the memory is large enough, and it is freed on this stream, after the kernel.
        unsafe { launch.launch(config) }.w()?;
        Ok(())
    }
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cuda").field("device", &self.device).finish_non_exhaustive()
    }
}

/// The entry points of attention, each with the widest head that it is for.
fn attention(
    module: &Arc<CudaModule>,
    dtype: DType,
    name: &str,
) -> Result<Vec<(usize, CudaFunction)>> {
    if dtype == DType::F32 {
        return Ok(vec![(WIDEST_HEAD, module.load_function("attention_f32").w()?)]);
    }
    let load = |dim| {
        let function = module.load_function(&format!("attention_{name}_{dim}")).w()?;
        // More than 48 KiB must be asked for.
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(attribute, shared(dim) as i32).w()?;
        Ok((dim, function))
    };
    [16, 32, 64, 80, 96, WIDEST_HEAD].into_iter().map(load).collect()
}

/// Bytes that a block of `attention_16` shares: five tiles of 64 rows, each of eight values more than it needs.
fn shared(dim: usize) -> u32 {
    (5 * 64 * (dim + 8) * 2) as u32
}

/// Bytes that a block of `attention_f32` shares.
fn wide_shared(dim: usize) -> u32 {
    (4 * (16 * dim + 2 * 32 * (dim + 1) + 16 * 32)) as u32
}

/// A number of things as kernels take it.
fn count<N: TryInto<u32>>(number: N) -> Result<u32> {
    number.try_into().map_err(|_| candle_core::Error::Msg("too many for one launch".to_owned()))
}
