//! What kernels are launched with: the same structs as in `kernels/`, field by field.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;

/// An address on the device; 0 where a kernel takes none.
pub(super) type Address = u64;

/// See `layer_norm.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LayerNorm {
    pub(super) x: Address,
    pub(super) residual: Address,
    pub(super) sum: Address,
    pub(super) y: Address,
    pub(super) weight: Address,
    pub(super) bias: Address,
    pub(super) x_stride: i64,
    pub(super) rows: i32,
    pub(super) width: i32,
    pub(super) eps: f32,
}

/// See `activation.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Activate {
    pub(super) x: Address,
    pub(super) bias: Address,
    pub(super) count: i64,
    pub(super) width: i32,
    pub(super) kind: i32,
}

/// See `inputs.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct UnfoldPixels {
    pub(super) pixels: Address,
    pub(super) patches: Address,
    pub(super) height: i32,
    pub(super) width: i32,
    pub(super) patch: i32,
    pub(super) down: i32,
    pub(super) across: i32,
    pub(super) scale: [f32; 3],
    pub(super) offset: [f32; 3],
}

/// See `inputs.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Embed {
    pub(super) ids: Address,
    pub(super) table: Address,
    pub(super) positions: Address,
    pub(super) out: Address,
    pub(super) tokens: i32,
    pub(super) width: i32,
    pub(super) vocabulary: u32,
}

/// See `pool.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pool {
    pub(super) queries: Address,
    pub(super) x: Address,
    pub(super) out: Address,
    pub(super) tokens: i32,
    pub(super) width: i32,
    pub(super) heads: i32,
    pub(super) scale: f32,
}

/// See `pool.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OwnHeads {
    pub(super) values: Address,
    pub(super) out: Address,
    pub(super) batch: i32,
    pub(super) heads: i32,
    pub(super) width: i32,
}

/// See `attention.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Attend {
    pub(super) q: Address,
    pub(super) k: Address,
    pub(super) v: Address,
    pub(super) out: Address,
    pub(super) key_counts: Address,
    pub(super) q_batch: i64,
    pub(super) q_token: i64,
    pub(super) kv_batch: i64,
    pub(super) kv_token: i64,
    pub(super) out_batch: i64,
    pub(super) out_token: i64,
    pub(super) queries: i32,
    pub(super) keys: i32,
    pub(super) heads: i32,
    pub(super) head_dim: i32,
    pub(super) scale: f32,
    pub(super) causal: i32,
}

/// Lets kernels take these structs by value.
macro_rules! taken_by_value {
    ($($name:ident),*) => {$(
        // SAFETY: the struct is laid out as C lays out the struct that its kernel takes, and holds only numbers.
        unsafe impl DeviceRepr for $name {}
    )*};
}

taken_by_value!(LayerNorm, Activate, UnfoldPixels, Embed, Pool, OwnHeads, Attend);
