//! How fast this processor's multiply-adds of bf16 are beside those of f32.
//!
//! That it has an instruction says nothing of its speed: `vdpbf16ps` does twice the multiply-adds of f32 on AMD's Zen 4,
//! and half of them on Intel's Xeon of the Sapphire and Emerald Rapids kind. So both are measured, once, in a fraction
//! of a millisecond.

use std::{
    hint::black_box,
    sync::OnceLock,
    time::{Duration, Instant},
};

use crate::simd::{
    Kernel, Simd,
    avx512::{Avx512, BF16},
};

/// Independent sums: more than a unit needs to be busy on any of today's cores.
const CHAINS: usize = 12;

/// Steps of each chain that are timed at once: some 10 us.
const STEPS: usize = 2_000;

/// How often each of the two is timed, in turns. The least time of each counts: whatever else the machine does only
/// adds to it.
const TURNS: usize = 9;

/// Multiply-adds of bf16 in the time of one of f32, in vectors of sixteen words. Measured once.
pub(super) fn pairs_by_numbers(simd: Avx512<BF16>) -> f64 {
    static RATIO: OnceLock<f64> = OnceLock::new();
    *RATIO.get_or_init(|| {
        let mut least = [Duration::MAX; 2];
        for _ in 0..TURNS {
            for (least, pairs) in least.iter_mut().zip([false, true]) {
                let start = Instant::now();
                simd.vectorize(Chains { pairs });
                *least = start.elapsed().min(*least);
            }
        }
        2.0 * least[0].as_secs_f64() / least[1].as_secs_f64().max(1e-9)
    })
}

struct Chains {
    pairs: bool,
}

impl Kernel for Chains {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut sums = [simd.splat(0.0); CHAINS];
        if self.pairs {
            // 1.0 as bf16, twice.
            let ones = simd.splat_i32(black_box(0x3f80_3f80));
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = simd.add_pairs(ones, ones, *sum);
                }
            }
        } else {
            let ones = simd.splat(black_box(1.0));
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = simd.mul_add(ones, ones, *sum);
                }
            }
        }
        for sum in sums {
            black_box(simd.sum(sum));
        }
    }
}
