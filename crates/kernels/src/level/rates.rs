//! Measures how fast this processor's multiply-adds of bf16 are compared with those of f32.
//!
//! The presence of an instruction does not tell its speed: `vdpbf16ps` does twice the multiply-adds of f32 on
//! AMD's Zen 4, and half of them on Intel's Sapphire and Emerald Rapids Xeons. So both are measured once, in a
//! fraction of a millisecond.

use std::{
    hint::black_box,
    sync::OnceLock,
    time::{Duration, Instant},
};

use crate::simd::{
    Kernel, Simd,
    avx512::{Avx512, BF16},
};

/// The number of independent sums: enough to keep the unit of any of today's cores busy.
const CHAINS: usize = 12;

/// Steps of each chain that are timed together: about 10 us.
const STEPS: usize = 2_000;

/// How often each of the two is timed, in turns. The smallest time counts, because other work on the machine
/// only adds time.
const TURNS: usize = 9;

/// The number of multiply-adds of bf16 in the time of one in f32, in vectors of 16 words. It is measured once.
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
            // Two bf16 of the value 1.0.
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
