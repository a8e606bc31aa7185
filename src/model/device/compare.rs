//! Each kernel on a card against its twin on the host, for the kit.

mod encoder;

use std::{sync::Arc, time::Instant};

use candle_core::{DType, Device, Result, Tensor, bail, cuda_backend::WrapErr as _};

use super::{
    Unfold,
    arguments::{Activate, Address, LayerNorm},
    cuda::Cuda,
    memory::{reading, written},
    operations::int,
    twins::{self, Heads},
};
use crate::{
    config,
    model::{
        LoadError,
        kernels::{Activation, Mask},
    },
};

/// One kernel on one shape.
#[derive(Debug, Clone)]
pub struct Compared {
    /// The kernel's name.
    pub kernel: &'static str,
    /// What it ran on.
    pub shape: String,
    /// The largest difference from the twin, relative to 1 or to the value, whichever is greater.
    pub worst: f64,
    /// Most that it may be.
    pub tolerance: f64,
    /// Of one launch, among several behind each other.
    pub microseconds: f64,
}

/// Runs every kernel for a type of activations on a CUDA device, compares what it gives with its twin and tells `each`.
///
/// * `launches`: that the time of one is the mean of; none is taken for 0
///
/// # Errors
/// Fails for other devices and types, and if a kernel cannot be launched.
pub fn compare_kernels(
    device: config::Device,
    dtype: config::DType,
    launches: u32,
    each: impl FnMut(Compared),
) -> std::result::Result<(), LoadError> {
    let run = move || {
        let config::Device::Cuda(index) = device else { bail!("{device} is no CUDA device") };
        let dtype = match dtype {
            config::DType::F32 => DType::F32,
            config::DType::F16 => DType::F16,
            config::DType::Bf16 => DType::BF16,
            config::DType::Int8 => bail!("no kernel computes in int8"),
        };
        let device = Device::new_cuda_with_stream(index)?;
        let cuda = Arc::new(Cuda::new(device.as_cuda_device()?, dtype, false)?);
        let mut bench = Bench { cuda, device, seed: 0, launches, each };
        bench.norms()?;
        bench.activations()?;
        bench.inputs()?;
        bench.pooling()?;
        bench.attention()?;
        bench.products()?;
        bench.stacks()?;
        Ok(())
    };
    run().map_err(|error: candle_core::Error| LoadError::new(error.to_string()))
}

struct Bench<E> {
    cuda: Arc<Cuda>,
    device: Device,
    seed: u32,
    launches: u32,
    each: E,
}

/// A tensor on the device, and its values.
struct Input {
    tensor: Tensor,
    values: Vec<f64>,
}

impl<E: FnMut(Compared)> Bench<E> {
    /// Values without structure, about as far from zero as those of a tower.
    fn input(&mut self, shape: &[usize], scale: f32) -> Result<Input> {
        self.input_of(shape, scale, self.cuda.dtype)
    }

    fn input_of(&mut self, shape: &[usize], scale: f32, dtype: DType) -> Result<Input> {
        let mut state = self.seed.wrapping_mul(0x9e37_79b9) ^ 0x1234_5678;
        self.seed += 1;
        let mut uniform = || {
            // Marsaglia's xorshift.
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 - 0.5
        };
        // A sum of four is nearly normal.
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|_| (uniform() + uniform() + uniform() + uniform()) * 1.73 * scale)
            .collect();
        let rounded = Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?;
        let tensor = rounded.to_device(&self.device)?;
        let values = rounded.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
        Ok(Input { tensor, values })
    }

    fn unit(&self) -> f64 {
        match self.cuda.dtype {
            DType::BF16 => 3.9e-3,
            DType::F16 => 4.9e-4,
            _ => 1e-6,
        }
    }

    /// Compares what `launch` gives, and times it.
    fn compare(
        &mut self,
        (kernel, shape): (&'static str, String),
        expected: &[f64],
        units: f64,
        launch: impl Fn() -> Result<Tensor>,
    ) -> Result<()> {
        let found = launch()?.flatten_all()?.to_device(&Device::Cpu)?;
        let found: Vec<f64> = found.to_dtype(DType::F64)?.to_vec1()?;
        if found.len() != expected.len() {
            bail!("{kernel} gave {} values, not {}", found.len(), expected.len());
        }
        let off = |(a, b): (&f64, &f64)| (a - b).abs() / b.abs().max(1.0);
        let worst =
            found.iter().zip(expected).map(off).fold(0.0, |worst, off| {
                if f64::is_nan(worst) || worst > off { worst } else { off }
            });
        self.cuda.stream.synchronize().w()?;
        let begin = Instant::now();
        for _ in 0..self.launches {
            launch()?;
        }
        self.cuda.stream.synchronize().w()?;
        let microseconds = begin.elapsed().as_secs_f64() * 1e6 / f64::from(self.launches.max(1));
        let tolerance = units * self.unit() + 2e-5;
        (self.each)(Compared { kernel, shape, worst, tolerance, microseconds });
        Ok(())
    }

    fn norms(&mut self) -> Result<()> {
        let cuda = Arc::clone(&self.cuda);
        for (rows, width) in [(197, 768), (37, 1152), (5, 37), (3, 4096)] {
            let x = self.input(&[rows, width], 2.0)?;
            let [weight, bias] = [self.input(&[width], 1.0)?, self.input(&[width], 1.0)?];
            let expected = twins::layer_norm(&x.values, (&weight.values, &bias.values), 1e-6);
            self.compare(("layer_norm", format!("{rows} x {width}")), &expected, 8.0, || {
                each([&x.tensor, &weight.tensor, &bias.tensor], &cuda, |[x, weight, bias]| {
                    written(&cuda.device, cuda.dtype, (rows, width), |y| {
                        let (rows, width) = (int(rows)?, int(width)?);
                        let x_stride = i64::from(width);
                        let eps = 1e-6;
                        cuda.layer_norm(&LayerNorm {
                            x,
                            y,
                            weight,
                            bias,
                            x_stride,
                            rows,
                            width,
                            eps,
                            ..LayerNorm::default()
                        })
                    })
                })
            })?;
        }
        Ok(())
    }

    fn activations(&mut self) -> Result<()> {
        let cuda = Arc::clone(&self.cuda);
        let kinds = [Activation::GeluTanh, Activation::GeluErf, Activation::QuickGelu];
        for (kind, activation) in kinds.into_iter().enumerate() {
            let (rows, width) = (33, 3072);
            let [x, bias] = [self.input(&[rows, width], 3.0)?, self.input(&[width], 1.0)?];
            let biased = x.values.chunks_exact(width).flat_map(|row| twins::add(row, &bias.values));
            let expected: Vec<_> = biased.map(|x| twins::activate(x, activation)).collect();
            self.compare(("activate", format!("{activation:?}")), &expected, 2.0, || {
                each([&x.tensor, &bias.tensor], &cuda, |[from, bias]| {
                    written(&cuda.device, cuda.dtype, (rows, width), |x| {
                        copy(&cuda, x, from, rows * width)?;
                        let (count, width) = ((rows * width) as i64, int(width)?);
                        cuda.activate(&Activate { x, bias, count, width, kind: int(kind)? })
                    })
                })
            })?;
        }
        Ok(())
    }

    fn inputs(&mut self) -> Result<()> {
        let cuda = Arc::clone(&self.cuda);
        let (scale, offset) = ([0.007, 0.008, 0.009], [-1.0, -0.9, 0.5]);
        for (images, side, patch) in [(2, 224, 16), (1, 384, 14)] {
            let across = side / patch;
            let bytes: Vec<u8> =
                (0..images * side * side * 3).map(|at| (at * 37 % 251) as u8).collect();
            let value = |at: usize| {
                let (inside, cell) = (at % (patch * patch * 3), at / (patch * patch * 3));
                let (image, cell) = (cell / (across * across), cell % (across * across));
                let y = cell / across * patch + inside / (patch * 3);
                let x = cell % across * patch + inside / 3 % patch;
                let byte = bytes[((image * side + y) * side + x) * 3 + at % 3];
                f64::from(byte) * f64::from(scale[at % 3]) + f64::from(offset[at % 3])
            };
            let count = images * across * across * patch * patch * 3;
            let expected: Vec<_> = (0..count).map(value).collect();
            let pixels = Tensor::from_vec(bytes.clone(), (images, side, side, 3), &self.device)?;
            let unfold = Unfold { patch, grid: [across, across], scale, offset };
            self.compare(
                ("unfold", format!("{images} x {side} by {patch}")),
                &expected,
                1.0,
                || cuda.unfold(&pixels, unfold),
            )?;
        }
        let (vocabulary, width, tokens) = (50, 768, 64);
        let ids: Vec<u32> = (0..2 * tokens as u32).map(|at| at * 7 % 50).collect();
        let table = self.input(&[vocabulary, width], 1.0)?;
        let positions = self.input(&[tokens, width], 1.0)?;
        let value = |at: usize| {
            let (token, column) = (at / width, at % width);
            table.values[ids[token] as usize * width + column]
                + positions.values[token % tokens * width + column]
        };
        let expected: Vec<_> = (0..ids.len() * width).map(value).collect();
        let ids = Tensor::from_vec(ids, 2 * tokens, &self.device)?;
        self.compare(("embed", format!("2 x {tokens} x {width}")), &expected, 1.0, || {
            match cuda.embed(&ids, &table.tensor, &positions.tensor)? {
                Some(embedded) => Ok(embedded),
                None => bail!("no kernel for its table"),
            }
        })
    }

    fn pooling(&mut self) -> Result<()> {
        let cuda = Arc::clone(&self.cuda);
        for (batch, tokens, heads, width) in [(2, 196, 12, 768), (1, 729, 16, 1152)] {
            let x = self.input(&[batch, tokens, width], 1.0)?;
            let queries = self.input(&[1, heads, width], 1.0)?;
            let shape = Heads {
                batch,
                queries: heads,
                keys: tokens,
                heads: 1,
                dim: width,
                mask: Mask::None,
            };
            let repeated = queries.values.repeat(batch);
            let expected = twins::attention(shape, [&repeated, &x.values, &x.values]);
            let name = format!("{batch} x {tokens}, {heads} of {width}");
            self.compare(("pool", name.clone()), &expected, 2.0, || {
                match cuda.pool(&queries.tensor, &x.tensor)? {
                    Some(pooled) => Ok(pooled),
                    None => bail!("too many tokens"),
                }
            })?;
            let values = self.input(&[batch, heads, width], 1.0)?;
            let own = |at: usize| {
                let (row, column) = (at / width, at % width);
                values.values[(row * heads + column / (width / heads)) * width + column]
            };
            let expected: Vec<_> = (0..batch * width).map(own).collect();
            self.compare(("own_heads", name), &expected, 0.0, || cuda.own_heads(&values.tensor))?;
        }
        Ok(())
    }
}

/// Runs `work` with the addresses of several tensors.
fn each<const N: usize, R>(
    tensors: [&Tensor; N],
    cuda: &Cuda,
    work: impl FnOnce([Address; N]) -> Result<R>,
) -> Result<R> {
    // All are of this stream, on which they are freed as well.
    let mut addresses = [0; N];
    for (address, tensor) in addresses.iter_mut().zip(tensors) {
        *address = reading(tensor, &cuda.stream, Ok)?;
    }
    work(addresses)
}

fn copy(cuda: &Cuda, to: Address, from: Address, values: usize) -> Result<()> {
    use candle_core::cuda_backend::cudarc::driver::result;
    let bytes = values * cuda.dtype.size_in_bytes();
    // SAFETY: both are of as many values, and in use on this stream alone.
    unsafe { result::memcpy_dtod_async(to, from, bytes, cuda.stream.cu_stream()) }.w()
}
