//! Products through cuBLASLt, with what follows them in the same pass.

use std::{ffi::c_void, fmt, mem, sync::Arc};

use candle_core::{
    DType, Result, bail,
    cuda_backend::{
        WrapErr as _,
        cudarc::{
            cublas::sys::cublasOperation_t,
            cublaslt::{
                result,
                sys::{self, cublasLtEpilogue_t as Epilogue, cublasLtMatmulDescAttributes_t as Of},
            },
            driver::{CudaSlice, CudaStream, DevicePtr as _},
        },
    },
};

use super::arguments::Address;

/// Bytes of scratch memory: what NVIDIA advises for Hopper, and more than older generations use.
const WORKSPACE: usize = 32 << 20;

/// Addresses are taken to be aligned to this at most.
const MOST_ALIGNED: u64 = 256;

/// cuBLASLt on one stream.
pub(super) struct Products {
    handle: sys::cublasLtHandle_t,
    /// One for all: products on one stream come one after the other. It is held for its address, which is taken once: to
    /// ask a slice for it makes a stream wait for events, which a graph that is being captured must not.
    _workspace: CudaSlice<u8>,
    workspace_at: Address,
    stream: Arc<CudaStream>,
    values: sys::cudaDataType,
    compute: sys::cublasComputeType_t,
}

// SAFETY: a handle of cuBLASLt belongs to no thread: the library's documentation allows its use from any of them.
unsafe impl Send for Products {}
// SAFETY: the same documentation allows several threads to use one handle at the same time.
unsafe impl Sync for Products {}

/// `y = end(x W^T + b)`, or `y = x W^T + b + residual`. Rows are of adjacent values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) rows: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// From one row to the next of `x`, of `residual` and of `y`, in values.
    pub(super) x_stride: usize,
    pub(super) residual_stride: usize,
    pub(super) y_stride: usize,
    pub(super) end: End,
    /// What divides every address that it runs with.
    pub(super) aligned: u64,
}

/// What follows the product and its bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Nothing,
    GeluTanh,
    Residual,
}

/// What a product runs with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operands {
    pub(super) x: Address,
    /// `[outputs, inputs]`
    pub(super) weight: Address,
    /// `[outputs]`
    pub(super) bias: Address,
    /// Read only by [`End::Residual`]; it may be `y` itself.
    pub(super) residual: Address,
    pub(super) y: Address,
}

/// The greatest power of two, up to what is of use, that divides all of the addresses or sizes.
pub(super) fn alignment(numbers: impl IntoIterator<Item = u64>) -> u64 {
    let all = numbers.into_iter().fold(MOST_ALIGNED, |all, number| all | number);
    1 << all.trailing_zeros()
}

impl Products {
    /// * `is_fast`: whether f32 may be multiplied in TF32
    pub(super) fn new(stream: &Arc<CudaStream>, dtype: DType, is_fast: bool) -> Result<Self> {
        use sys::{cublasComputeType_t as Compute, cudaDataType as Values};
        let (values, compute) = match dtype {
            DType::F32 if is_fast => (Values::CUDA_R_32F, Compute::CUBLAS_COMPUTE_32F_FAST_TF32),
            DType::F32 => (Values::CUDA_R_32F, Compute::CUBLAS_COMPUTE_32F),
            DType::F16 => (Values::CUDA_R_16F, Compute::CUBLAS_COMPUTE_32F),
            DType::BF16 => (Values::CUDA_R_16BF, Compute::CUBLAS_COMPUTE_32F),
            _ => bail!("no product is of {dtype:?}"),
        };
        stream.context().bind_to_thread().w()?;
        // SAFETY: only cuBLASLt reads the workspace, and it writes each byte before it reads it.
        let workspace = unsafe { stream.alloc::<u8>(WORKSPACE) }.w()?;
        let workspace_at = workspace.device_ptr(stream).0;
        let handle = result::create_handle().map_err(failed)?;
        let stream = Arc::clone(stream);
        Ok(Self { handle, _workspace: workspace, workspace_at, stream, values, compute })
    }

    /// Finds how a product is computed.
    ///
    /// * `bias`: of one of those that it will run with
    ///
    /// # Errors
    /// Fails if cuBLASLt knows no way.
    pub(super) fn prepare(&self, spec: Spec, bias: Address) -> Result<Product> {
        self.stream.context().bind_to_thread().w()?;
        let (rows, inputs, outputs) = (spec.rows as u64, spec.inputs as u64, spec.outputs as u64);
        let layout = |rows, columns, stride: usize| {
            result::create_matrix_layout(self.values, rows, columns, stride as i64)
                .map(Layout)
                .map_err(failed)
        };
        // cuBLASLt has columns where we have rows: it computes the transpose of y.
        let description = result::create_matmul_desc(self.compute, sys::cudaDataType::CUDA_R_32F);
        let product = Product {
            description: Description(description.map_err(failed)?),
            weight: layout(inputs, outputs, spec.inputs)?,
            x: layout(inputs, rows, spec.x_stride)?,
            residual: layout(outputs, rows, spec.residual_stride)?,
            y: layout(outputs, rows, spec.y_stride)?,
            // SAFETY: the type is a C struct of integers, for which all zeros are valid.
            algorithm: unsafe { mem::zeroed() },
            beta: if spec.end == End::Residual { 1.0 } else { 0.0 },
        };
        let transposed = cublasOperation_t::CUBLAS_OP_T as i32;
        let epilogue = match spec.end {
            End::Nothing | End::Residual => Epilogue::CUBLASLT_EPILOGUE_BIAS,
            End::GeluTanh => Epilogue::CUBLASLT_EPILOGUE_GELU_BIAS,
        };
        product.description.set(Of::CUBLASLT_MATMUL_DESC_TRANSA, &transposed)?;
        product.description.set(Of::CUBLASLT_MATMUL_DESC_EPILOGUE, &(epilogue as u32))?;
        product.description.set(Of::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        let algorithm = self.choose(&product, spec.aligned)?;
        Ok(Product { algorithm, ..product })
    }

    fn choose(&self, product: &Product, aligned: u64) -> Result<sys::cublasLtMatmulAlgo_t> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Wish;
        let wishes = Wishes(result::create_matmul_pref().map_err(failed)?);
        wishes.set(Wish::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE)?;
        // Parts of a sum are added in f32 and not in the type of the result.
        let in_f32 = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        wishes.set(Wish::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &in_f32)?;
        for operand in [
            Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            wishes.set(operand, &(aligned as u32))?;
        }
        // SAFETY: `self`, `product` and `wishes` own these handles and are borrowed until the call returns.
        let found = unsafe {
            result::get_matmul_algo_heuristic(
                self.handle,
                product.description.0,
                product.weight.0,
                product.x.0,
                product.residual.0,
                product.y.0,
                wishes.0,
            )
        };
        Ok(found.map_err(failed)?.algo)
    }

    /// Launches a product.
    ///
    /// # Errors
    /// Fails if cuBLASLt does.
    pub(super) fn run(&self, product: &mut Product, operands: Operands) -> Result<()> {
        self.stream.context().bind_to_thread().w()?;
        product.description.set(Of::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &operands.bias)?;
        let residual = if product.beta == 0.0 { operands.y } else { operands.residual };
        // Where nothing is added, what cuBLASLt calls C has the shape of the result.
        let residual_layout = if product.beta == 0.0 { product.y.0 } else { product.residual.0 };
        let alpha = 1.0_f32;
        // SAFETY: the addresses are of matrices of the shapes that the product was prepared for, which are freed on
        // this stream, behind it. The two factors are read before this returns.
        unsafe {
            result::matmul(
                self.handle,
                product.description.0,
                (&raw const alpha).cast(),
                (&raw const product.beta).cast(),
                operands.weight as *const c_void,
                product.weight.0,
                operands.x as *const c_void,
                product.x.0,
                residual as *const c_void,
                residual_layout,
                operands.y as *mut c_void,
                product.y.0,
                &raw const product.algorithm,
                self.workspace_at as *mut c_void,
                WORKSPACE,
                self.stream.cu_stream().cast(),
            )
        }
        .map_err(failed)
    }
}

/// A broken device's handles are left to the process's end, as candle's are.
impl Drop for Products {
    fn drop(&mut self) {
        if self.stream.synchronize().is_ok() {
            // SAFETY: the handle is owned by this value, which is being dropped, and the stream has finished its work.
            if let Err(error) = unsafe { result::destroy_handle(self.handle) } {
                tracing::debug!(?error, "cuBLASLt was not let go of");
            }
        }
    }
}

/// A product of one shape, ready to run.
pub(super) struct Product {
    description: Description,
    weight: Layout,
    x: Layout,
    residual: Layout,
    y: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
    beta: f32,
}

// SAFETY: its parts are memory of the host that one thread at a time changes, since `run` takes it exclusively.
unsafe impl Send for Product {}

struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    fn set<T>(&self, attribute: Of, value: &T) -> Result<()> {
        let (value, size) = ((&raw const *value).cast(), mem::size_of::<T>());
        // SAFETY: the value is of the type that the attribute has, and is copied.
        unsafe { result::set_matmul_desc_attribute(self.0, attribute, value, size) }.map_err(failed)
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: this value owns the description and is being dropped. A failure leaks it, and nothing can be done.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

struct Layout(sys::cublasLtMatrixLayout_t);

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: this value owns the layout and is being dropped.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

struct Wishes(sys::cublasLtMatmulPreference_t);

impl Wishes {
    fn set<T>(
        &self,
        attribute: sys::cublasLtMatmulPreferenceAttributes_t,
        value: &T,
    ) -> Result<()> {
        let (value, size) = ((&raw const *value).cast(), mem::size_of::<T>());
        // SAFETY: the value is of the type that the attribute has, and is copied.
        unsafe { result::set_matmul_pref_attribute(self.0, attribute, value, size) }.map_err(failed)
    }
}

impl Drop for Wishes {
    fn drop(&mut self) {
        // SAFETY: this value owns the preferences and is being dropped.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

impl fmt::Debug for Products {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Products").field("compute", &self.compute).finish_non_exhaustive()
    }
}

fn failed(error: result::CublasError) -> candle_core::Error {
    candle_core::Error::Msg(format!("cuBLASLt: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alignment_of_several_is_that_of_the_least() {
        assert_eq!(alignment([]), 256);
        assert_eq!(alignment([4096, 0]), 256);
        assert_eq!(alignment([4096, 4096 + 96]), 32);
        assert_eq!(alignment([1, 256]), 1);
    }
}
