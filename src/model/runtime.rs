//! Where a tower computes, in which types and on how many threads.

use std::{
    borrow::Cow,
    sync::{Arc, Weak},
};

use candle_core::{DType, Device, Tensor};
use parking_lot::Mutex;
use rayon::{ThreadPool, prelude::*};
use siglip_kernels::{Element, Level};

use super::{
    Instructions, LoadError, TowerError,
    cores::Cores,
    device::Own,
    kernels::{Copies, Download},
    pairs,
};
use crate::config::{self, CpuFeatures};

/// Where a tower computes, in which types and on how many threads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub(super) device: Device,
    pub(super) copies: Copies,
    /// Kernels of our own, where the device has any.
    pub(super) own: Own,
    /// The type of activations.
    pub(super) compute: DType,
    /// The type of tables of which single rows are read.
    pub(super) resident: DType,
    /// What the weights of layers are made of on a processor. It may be narrower than `compute`: 16-bit weights
    /// are kept for the memory, and widened on the way into the product.
    pub(super) element: Element,
    /// Whether the layers that do most of the work are made of bytes instead.
    pub(super) bytes: bool,
    /// The processor's instructions that the kernels use.
    pub(super) level: Level,
    /// Why these.
    why: Arc<str>,
    /// The processor's threads; none for a device that brings its own parallelism.
    pool: Option<Arc<ThreadPool>>,
}

impl Runtime {
    /// # Errors
    /// Fails if the device is absent or not compiled in, or if the threads cannot be started.
    pub(super) fn new(config: &config::Model) -> Result<Self, LoadError> {
        let (resident, element) = match config.dtype {
            config::DType::F32 => (DType::F32, Element::F32),
            config::DType::F16 => (DType::F16, Element::F16),
            // What is not bytes is a small part of the model, and costs little where it is exact to 8 bits.
            config::DType::Bf16 | config::DType::Int8 => (DType::BF16, Element::Bf16),
        };
        let bytes = config.dtype == config::DType::Int8;
        let on_processor = config.device == config::Device::Cpu;
        if bytes && config.device != config::Device::Cpu {
            return Err(LoadError::new(format!(
                "dtype `int8` is for the device `cpu`; on `{}` choose bf16 or f16",
                config.device
            )));
        }
        let (level, why) = level(config.cpu_features)?;
        let why = why.into();
        // Tiles multiply bf16 so much faster than vectors do f32 that three products of it are faster than one of that.
        let highest = config.matmul_precision == Some(config::MatmulPrecision::Highest);
        let element = match element {
            Element::F32 if on_processor && level.has_tiles() && !highest => Element::Split,
            element => element,
        };
        let opened = open(config.device).and_then(|device| Ok((Copies::new(&device)?, device)));
        let (copies, device) = opened.map_err(|error| {
            LoadError::new(format!("device `{}` cannot be used: {error}", config.device))
        })?;
        if !matches!(device, Device::Cpu) {
            let (compute, pool) = (resident, None);
            let own = Own::new(&device, compute, config);
            return Ok(Self {
                device,
                copies,
                own,
                compute,
                resident,
                element,
                bytes,
                level,
                why,
                pool,
            });
        }
        let threads = match config.threads {
            0 => default_threads(),
            threads => threads,
        };
        let pool = shared_pool(threads, None).map_err(cannot_start)?;
        let (compute, pool, own) = (DType::F32, Some(pool), Own::default());
        Ok(Self { device, copies, own, compute, resident, element, bytes, level, why, pool })
    }

    /// As many runtimes, each with its share of the threads on cores of its own; this one where it is one.
    ///
    /// # Errors
    /// Fails for more replicas than threads, or on a device that brings its own parallelism.
    pub(super) fn replicas(&self, count: usize) -> Result<Vec<Self>, LoadError> {
        if count == 1 {
            return Ok(vec![self.clone()]);
        }
        let threads = self.pool.as_ref().map_or(0, |pool| pool.current_num_threads());
        if count > threads {
            return Err(LoadError::new(match threads {
                0 => "replicas share out the cores of a processor; this device has none".to_owned(),
                _ => format!(
                    "{count} replicas of the towers need as many threads; there are {threads}"
                ),
            }));
        }
        (0..count)
            .map(|index| {
                let threads = (index + 1) * threads / count - index * threads / count;
                let pool = shared_pool(threads, Some(Share { index, count }));
                Ok(Self { pool: Some(pool.map_err(cannot_start)?), ..self.clone() })
            })
            .collect()
    }

    /// The instructions in use, and why these, where a processor computes.
    pub(super) fn cpu_features(&self) -> Option<Instructions> {
        let why = || self.why.to_string();
        matches!(self.device, Device::Cpu)
            .then(|| Instructions { name: self.level.to_string(), why: why() })
    }

    /// Bytes that a weight takes in memory, about; of types of which not every layer is made, those of the widest.
    pub(super) fn bytes_of_value(&self) -> u64 {
        self.resident.size_in_bytes() as u64
    }

    /// Whether f32 is multiplied as sums of two bf16.
    pub(super) fn is_split(&self) -> bool {
        self.element == Element::Split
    }

    /// Runs a forward pass on this runtime's threads.
    pub(super) fn run<T: Send>(
        &self,
        forward: impl FnOnce() -> candle_core::Result<T> + Send,
    ) -> Result<T, TowerError> {
        self.install(forward).map_err(tower_error)
    }

    /// Runs a forward pass, or a part of one, for each row by itself.
    pub(super) fn row_by_row<T: Sync, R: Send>(
        &self,
        rows: &[T],
        forward: impl Fn(&T) -> candle_core::Result<R> + Send,
    ) -> Result<Vec<R>, TowerError> {
        self.run(|| rows.iter().map(forward).collect())
    }

    /// Runs other work on this runtime's threads.
    pub(super) fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    /// Begins a pass on a device and returns while it is under way.
    pub(super) fn begin(
        &self,
        forward: impl FnOnce() -> candle_core::Result<Tensor>,
    ) -> Result<Download, TowerError> {
        forward().and_then(|results| self.copies.download(&results)).map_err(tower_error)
    }

    /// A batch's rows in as many passes as are fastest.
    ///
    /// A device gets few different batch sizes, so that the buffers and kernel plans of one batch serve the next; the
    /// results beyond `rows.len()` are to be dropped. The processor gets passes that its caches hold if each of its
    /// threads has one, and else larger ones, which the threads share.
    ///
    /// * `tokens`: of a row
    pub(super) fn passes<'a, T: Clone>(&self, rows: &'a [T], tokens: usize) -> Vec<Cow<'a, [T]>> {
        let Some(last) = rows.last() else { return Vec::new() };
        let Some(pool) = &self.pool else { return vec![filled_up(rows, last)] };
        rows.chunks(rows_of_pass(rows.len(), tokens, pool.current_num_threads()))
            .map(Cow::Borrowed)
            .collect()
    }

    /// Runs passes: beside each other on a processor, one after the other on a device. A thread that has none left
    /// helps with what another is at. To be called on this runtime's threads.
    pub(super) fn each<P: Sync, T: Send>(
        &self,
        passes: &[P],
        run: impl Fn(&P) -> candle_core::Result<T> + Send + Sync,
    ) -> candle_core::Result<Vec<T>> {
        match &self.pool {
            Some(_) => passes.par_iter().with_max_len(1).map(run).collect(),
            None => passes.iter().map(run).collect(),
        }
    }
}

/// Rows of a pass on a processor: few where that makes a pass for each thread, else what all of them hold.
fn rows_of_pass(rows: usize, tokens: usize, threads: usize) -> usize {
    let hold = |threads: usize| (TOKENS_OF_PASS * threads / tokens.max(1)).max(1);
    let few = hold(1);
    if rows.div_ceil(few) >= threads { few } else { hold(threads) }
}

/// Tokens of a thread's pass, about. With more of them a layer's values leave a thread's second-level cache before the
/// next layer reads them. One image of a usual checkpoint has more, and is a pass by itself.
const TOKENS_OF_PASS: usize = 128;

/// Bytes of a thread's stack. One that waits for a part of its pass may begin another pass meanwhile, and wait there
/// again. Memory is what was used of it.
const STACK: usize = 16 << 20;

/// The instructions that the configuration asks for, or the fastest, once they were seen to compute what plain Rust
/// computes: a processor, or what emulates one, may say that it has some and get them wrong. And a sentence on why
/// these.
fn level(choice: CpuFeatures) -> Result<(Level, String), LoadError> {
    if choice != CpuFeatures::Auto {
        let chosen = Level::choose(choice).map_err(|error| LoadError::new(error.to_string()))?;
        return match chosen.is_sound() {
            true => Ok((chosen, "the configuration pins it".to_owned())),
            false => Err(LoadError::new(format!("this processor computes wrongly with {chosen}"))),
        };
    }
    let (levels, mut why) = Level::preferred();
    for level in levels {
        if let Some(drawback) = pairs::drawback(level) {
            why.push(format!("{level} is left out: {drawback}"));
        } else if level.is_sound() {
            why.insert(0, format!("{level} is the fastest that this processor has"));
            return Ok((level, why.join("; ")));
        } else {
            tracing::warn!(%level, "the processor computes wrongly with these instructions; they are not used");
            why.push(format!("{level} is left out: the processor computes wrongly with it"));
        }
    }
    Err(LoadError::new("this processor computes wrongly without instructions of any set"))
}

/// One for each physical core: the threads of a core share what products are made of.
fn default_threads() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, Into::into);
    num_cpus::get_physical().clamp(1, allowed)
}

/// `rows` and as many copies of `last` as lead to a power of two up to 8, or to a multiple of 8.
fn filled_up<'a, T: Clone>(rows: &'a [T], last: &T) -> Cow<'a, [T]> {
    let few = if rows.len() <= 8 {
        rows.len().next_power_of_two()
    } else {
        rows.len().next_multiple_of(8)
    };
    if few == rows.len() {
        return Cow::Borrowed(rows);
    }
    let mut filled = rows.to_vec();
    filled.resize(few, last.clone());
    Cow::Owned(filled)
}

fn cannot_start(error: rayon::ThreadPoolBuildError) -> LoadError {
    LoadError::new(format!("tower threads cannot start: {error}"))
}

/// One of several equal shares of the cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    index: usize,
    count: usize,
}

/// Threads, and which of the cores they keep to; all where there is none.
type PoolKey = (usize, Option<Share>);

/// The pools of this process.
static POOLS: Mutex<Vec<(PoolKey, Weak<ThreadPool>)>> = Mutex::new(Vec::new());

/// The threads that every model with equal numbers shares: two models that are busy at once take
/// turns on the cores, where a pool each would put twice as many threads on them.
///
/// Not rayon's global pool: `threads` is obeyed, and the images being decoded elsewhere do not queue
/// behind a product. Its threads sleep when idle, and end with the last model.
fn shared_pool(
    threads: usize,
    share: Option<Share>,
) -> Result<Arc<ThreadPool>, rayon::ThreadPoolBuildError> {
    let key = (threads, share);
    let mut pools = POOLS.lock();
    pools.retain(|(_, pool)| pool.strong_count() > 0);
    let known = pools.iter().find(|(known, _)| *known == key);
    if let Some(pool) = known.and_then(|(_, pool)| pool.upgrade()) {
        return Ok(pool);
    }
    let name = move |thread| match share {
        Some(Share { index, .. }) => format!("tower-{index}-{thread}"),
        None => format!("tower-{thread}"),
    };
    let builder = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(name);
    let mut builder = builder.stack_size(STACK);
    if let Some(Share { index, count }) = share {
        let cores = Cores::share(index, count);
        builder = builder.start_handler(move |_| cores.keep_to());
    }
    let pool = Arc::new(builder.build()?);
    pools.push((key, Arc::downgrade(&pool)));
    Ok(pool)
}

fn open(device: config::Device) -> candle_core::Result<Device> {
    match device {
        config::Device::Cpu => Ok(Device::Cpu),
        // A stream that all threads share: the one that is each thread's own would not wait, in the thread that runs
        // the towers, for what the one that loaded them has under way.
        config::Device::Cuda(index) => Device::new_cuda_with_stream(index),
        config::Device::Metal => Device::new_metal(0),
    }
}

/// Candle hands the driver's error on as text, so the text is all there is to tell by.
pub(super) fn tower_error(error: candle_core::Error) -> TowerError {
    let text = error.to_string().to_ascii_lowercase();
    // The last is cuBLAS's, which has scratch memory of its own.
    let told = ["out_of_memory", "out of memory", "status_alloc_failed"];
    if told.into_iter().any(|told| text.contains(told)) {
        TowerError::OutOfMemory
    } else {
        TowerError::Device(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_has_a_pass_or_all_share_what_their_caches_hold() {
        // Images of 196 tokens: one for each of two threads, one that both share.
        assert_eq!([1, 2, 3, 8].map(|rows| rows_of_pass(rows, 196, 2)), [1; 4]);
        assert_eq!(rows_of_pass(4, 196, 8), 5, "all in one");
        // Texts of 64: two a thread.
        assert_eq!([1, 2, 3, 8].map(|rows| rows_of_pass(rows, 64, 2)), [4, 4, 2, 2]);
        // Sixteen large images among 64 threads take no more memory than 128 tokens a thread.
        assert_eq!(rows_of_pass(16, 1024, 64), 8);
        assert_eq!(rows_of_pass(16, 1_000_000, 64), 1);
        assert_eq!(rows_of_pass(1, 0, 1), 128, "a row without tokens is refused elsewhere");
    }

    #[test]
    fn what_a_device_says_without_room_is_known() {
        let told = |text: &str| tower_error(candle_core::Error::Msg(text.to_owned()));
        for text in [
            r#"DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")"#,
            "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
        ] {
            assert!(matches!(told(text), TowerError::OutOfMemory), "{text}");
        }
        let other = r#"DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered")"#;
        assert!(matches!(told(other), TowerError::Device(_)));
    }

    #[test]
    fn a_device_sees_few_batch_sizes() {
        let mut sizes = Vec::new();
        for len in 1..=32_usize {
            let rows: Vec<_> = (0..len).collect();
            let filled = filled_up(&rows, &(len - 1));
            assert_eq!(filled[..len], rows, "what was asked for stays in front");
            assert!(filled[len..].iter().all(|&row| row == len - 1));
            sizes.push(filled.len());
        }
        sizes.dedup();
        assert_eq!(sizes, [1, 2, 4, 8, 16, 24, 32]);
    }
}
