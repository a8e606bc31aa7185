//! What the processor's multiply-add instructions can do, with every operand in a register; one JSON line.
//!
//!     rustc -O -C codegen-units=1 bench/peak.rs -o peak && ./peak THREADS SECONDS
//!
//! Rates are in 10^9 operations a second (a multiplication and an addition are two), summed over the
//! threads: the limit of any kernel that uses these instructions. Standard library only.

use std::{
    env,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

/// Runs a number of rounds, and says how many operations they were.
type Kernel = fn(rounds: u64) -> u64;

/// Independent chains: more than latency times throughput on any of today's cores.
const CHAINS: usize = 12;

fn main() {
    let mut arguments = env::args().skip(1).filter_map(|text| text.parse::<f64>().ok());
    let threads = arguments.next().unwrap_or(1.0) as usize;
    let seconds = arguments.next().unwrap_or(1.0);
    let kernels = kernels();
    let rates = kernels.iter().map(|(name, instruction, kernel)| {
        let rate = rate(*kernel, threads, seconds);
        format!("{{\"type\": \"{name}\", \"instruction\": \"{instruction}\", \"gops\": {rate:.1}}}")
    });
    let rates: Vec<_> = rates.collect();
    println!("{{\"threads\": {threads}, \"peaks\": [{}]}}", rates.join(", "));
}

/// All threads start together; each counts what it does until the time is over.
fn rate(kernel: Kernel, threads: usize, seconds: f64) -> f64 {
    let start_line = Arc::new(Barrier::new(threads));
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let start_line = Arc::clone(&start_line);
            thread::spawn(move || {
                kernel(100_000);
                start_line.wait();
                let (start, mut operations) = (Instant::now(), 0);
                while start.elapsed() < Duration::from_secs_f64(seconds) {
                    operations += kernel(100_000);
                }
                operations as f64 / start.elapsed().as_secs_f64()
            })
        })
        .collect();
    workers.into_iter().filter_map(|worker| worker.join().ok()).sum::<f64>() / 1e9
}

/// Name of the number type, instruction, kernel: what this processor has.
#[cfg(target_arch = "x86_64")]
fn kernels() -> Vec<(&'static str, &'static str, Kernel)> {
    use std::arch::is_x86_feature_detected as has;

    let mut found: Vec<(&'static str, &'static str, Kernel)> = Vec::new();
    if has!("avx512f") {
        // SAFETY: the feature that the kernel was compiled for was just detected.
        found.push(("f32", "AVX-512 vfmadd", |rounds| unsafe { x86::f32_avx512(rounds) }));
    } else if has!("avx2") && has!("fma") {
        // SAFETY: as above, both features.
        found.push(("f32", "AVX2 vfmadd", |rounds| unsafe { x86::f32_avx2(rounds) }));
    }
    if has!("avx512bf16") {
        // SAFETY: as above.
        found.push(("bf16", "AVX-512 vdpbf16ps", |rounds| unsafe { x86::bf16_avx512(rounds) }));
    }
    if has!("avx512vnni") {
        // SAFETY: as above.
        found.push(("int8", "AVX-512 vpdpbusd", |rounds| unsafe { x86::int8_avx512(rounds) }));
    } else if has!("avx2") {
        // SAFETY: as above.
        found.push(("int8", "AVX2 vpmaddubsw, vpmaddwd, vpaddd", |rounds| unsafe {
            x86::int8_avx2(rounds)
        }));
        // SAFETY: as above.
        found.push(("int8 without saturation", "AVX2 vpmaddwd, vpaddd", |rounds| unsafe {
            x86::int16_avx2(rounds)
        }));
    }
    found
}

#[cfg(target_arch = "aarch64")]
fn kernels() -> Vec<(&'static str, &'static str, Kernel)> {
    // SAFETY: NEON is part of the architecture's baseline.
    vec![("f32", "NEON fmla", |rounds| unsafe { arm::f32_neon(rounds) })]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn kernels() -> Vec<(&'static str, &'static str, Kernel)> {
    Vec::new()
}

/// `rounds` rounds of one instruction on each of the chains. The operands pass a black box once, and the sums
/// at the end, so that nothing can be computed before or left out.
macro_rules! chains {
    ($rounds:expr, $zero:expr, $operand:expr, $operations:expr, |$sum:ident, $a:ident, $b:ident| $step:expr) => {{
        let ($a, $b) = (std::hint::black_box($operand), std::hint::black_box($operand));
        let mut sums = [$zero; CHAINS];
        for _ in 0..$rounds {
            for $sum in &mut sums {
                *$sum = $step;
            }
        }
        std::hint::black_box(sums);
        $rounds * CHAINS as u64 * $operations
    }};
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::CHAINS;

    #[target_feature(enable = "avx512f")]
    pub fn f32_avx512(rounds: u64) -> u64 {
        chains!(rounds, _mm512_setzero_ps(), _mm512_set1_ps(0.5), 32, |sum, a, b| {
            _mm512_fmadd_ps(a, b, *sum)
        })
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn f32_avx2(rounds: u64) -> u64 {
        chains!(rounds, _mm256_setzero_ps(), _mm256_set1_ps(0.5), 16, |sum, a, b| {
            _mm256_fmadd_ps(a, b, *sum)
        })
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn bf16_avx512(rounds: u64) -> u64 {
        let halves = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5), _mm512_set1_ps(0.5));
        chains!(rounds, _mm512_setzero_ps(), halves, 64, |sum, a, b| {
            _mm512_dpbf16_ps(*sum, a, b)
        })
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn int8_avx512(rounds: u64) -> u64 {
        chains!(rounds, _mm512_setzero_si512(), _mm512_set1_epi8(1), 128, |sum, a, b| {
            _mm512_dpbusd_epi32(*sum, a, b)
        })
    }

    /// Three instructions where VNNI has one. The multiplication by ones takes the sum in, so that no part of
    /// it is the same in every round.
    #[target_feature(enable = "avx2")]
    pub fn int8_avx2(rounds: u64) -> u64 {
        let ones = _mm256_set1_epi16(1);
        chains!(rounds, _mm256_setzero_si256(), _mm256_set1_epi8(1), 64, |sum, a, b| {
            let pairs = _mm256_maddubs_epi16(opaque(a), b);
            _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones))
        })
    }

    #[target_feature(enable = "avx2")]
    pub fn int16_avx2(rounds: u64) -> u64 {
        chains!(rounds, _mm256_setzero_si256(), _mm256_set1_epi16(1), 32, |sum, a, b| {
            _mm256_add_epi32(*sum, _mm256_madd_epi16(opaque(a), b))
        })
    }

    /// The same value, in its register, and the compiler can't know: a product of constants would be computed
    /// once, outside the loop.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn opaque(mut value: __m256i) -> __m256i {
        // SAFETY: the assembly is empty; it reads and writes the one register and nothing else.
        unsafe {
            std::arch::asm!("/* {0} */", inout(ymm_reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;

    use super::CHAINS;

    #[target_feature(enable = "neon")]
    pub fn f32_neon(rounds: u64) -> u64 {
        chains!(rounds, vdupq_n_f32(0.0), vdupq_n_f32(0.5), 8, |sum, a, b| vfmaq_f32(*sum, a, b))
    }
}
