//! Measures whether products of bf16 are faster in pairs than with weights that are widened to f32.
//!
//! The kernels leave a set out whose instruction for pairs is very slow. But neither its presence nor its peak rate
//! tells which way is faster: that depends on the rest of the product, and on threads that share a core. So a product
//! of common size is computed both ways when a model is loaded, in a few milliseconds, on as many threads as there are
//! processors.

use std::{
    hint::black_box,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use rayon::ThreadPoolBuilder;
use siglip_kernels::{Activation, Choice, Element, Epilogue, Level, Packer, product};

/// Rows, inputs and outputs of the product: one of the attention of a small batch, for which a core takes about 0.5 ms.
const SHAPE: (usize, usize, usize) = (96, 768, 384);

/// How often each of the two is timed, in turns. The smallest time counts, because other work on the machine only adds
/// time.
const TURNS: usize = 7;

/// More threads than this say nothing new.
const MAX_THREADS: usize = 8;

/// Why a set is slower than the next one for weights of bf16; none if it is not.
pub(super) fn drawback(level: Level) -> Option<String> {
    let pairs = Level::choose(Choice::Avx512Bf16).ok().filter(|&pairs| pairs == level)?;
    let widened = Level::choose(Choice::Avx512Vnni).ok()?;
    let times = pairs_by_widened(pairs, widened);
    (times > 1.0).then(|| {
        format!("a product of bf16 takes {times:.1} times as long in pairs as with weights widened to f32")
    })
}

/// The time of a product in pairs, in times of the same product with widened weights. It is measured once.
fn pairs_by_widened(pairs: Level, widened: Level) -> f64 {
    static RATIO: OnceLock<f64> = OnceLock::new();
    *RATIO.get_or_init(|| {
        let threads = thread::available_parallelism().map_or(1, |threads| threads.get());
        let pool = ThreadPoolBuilder::new().num_threads(threads.min(MAX_THREADS)).build();
        let measure = || measured(pairs, widened);
        // A machine that gives no further threads is measured on this one.
        pool.map_or_else(|_| measure(), |pool| pool.install(measure))
    })
}

fn measured(pairs: Level, widened: Level) -> f64 {
    let (rows, depth, columns) = SHAPE;
    let values = |count: usize| (0..count).map(|index| (index % 31) as f32 / 31.0).collect();
    let x: Vec<f32> = values(rows * depth);
    let weights: Vec<f32> = values(columns * depth);
    let mut packer = Packer::new(columns, depth, Element::Bf16);
    packer.push(&weights);
    let packed = packer.finish();
    let mut least = [Duration::MAX; 2];
    for _ in 0..TURNS {
        for (least, level) in least.iter_mut().zip([pairs, widened]) {
            let epilogue = Epilogue { activation: Activation::None, residual: None };
            let start = Instant::now();
            black_box(product(level, &x, &packed.part(0..columns), epilogue));
            *least = start.elapsed().min(*least);
        }
    }
    least[0].as_secs_f64() / least[1].as_secs_f64().max(1e-9)
}
