//! AVX2 with FMA and F16C: eight lanes, sixteen registers.

use std::arch::x86_64::*;

use half::f16;

use super::{Kernel, Room, Simd};

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The processor has AVX2, FMA and F16C.
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }

    /// Runs a kernel compiled with the set's instructions.
    #[inline]
    pub(crate) fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inner<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: `self` is the proof.
        unsafe { inner(self, kernel) }
    }
}

// SAFETY of the blocks below: `self` is the proof that the processor has the instructions.
impl Simd for Avx2 {
    type F = __m256;
    type I = __m256i;
    const LANES: usize = 8;
    // Twelve sums, two vectors of weights, one broadcast.
    const ROWS: usize = 6;
    // Eight sums; with more rows, intermediate products would not fit into the registers.
    const BYTE_ROWS: usize = 4;
    const ROOM: Room = Room::Sixteen;

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // SAFETY: the caller's promise; unaligned.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, vector: __m256) {
        // SAFETY: the caller's promise; unaligned.
        unsafe { _mm256_storeu_ps(to, vector) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> __m256 {
        // SAFETY: the caller's promise; unaligned.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the impl. The instruction returns its second operand if one operand is NaN.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: as for `max`.
        unsafe { _mm256_min_ps(a, b) }
    }

    #[inline(always)]
    fn power_of_two(self, shifted: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe {
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
            _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(0x3f80_0000)))
        }
    }

    #[inline(always)]
    fn copy_sign(self, magnitude: __m256, sign: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe {
            let mask = _mm256_set1_ps(-0.0);
            _mm256_or_ps(_mm256_andnot_ps(mask, magnitude), _mm256_and_ps(mask, sign))
        }
    }

    #[inline(always)]
    fn sum(self, vector: __m256) -> f32 {
        lanes(vector).iter().sum()
    }

    #[inline(always)]
    fn max_of(self, vector: __m256) -> f32 {
        lanes(vector).into_iter().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn load_i32(self, from: *const i32) -> __m256i {
        // SAFETY: the caller's promise; unaligned.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store_i32(self, to: *mut i32, vector: __m256i) {
        // SAFETY: the caller's promise; unaligned.
        unsafe { _mm256_storeu_si256(to.cast(), vector) }
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> __m256i {
        // SAFETY: see above the impl.
        unsafe { _mm256_set1_epi32(value) }
    }

    #[inline(always)]
    fn add_products(self, a: [__m256i; 2], w: [__m256i; 2], sums: __m256i) -> __m256i {
        // SAFETY: see above the impl. The first instruction can saturate and the second can wrap, but not for
        // bytes in the range of `ROOM`.
        unsafe {
            let pairs = [_mm256_maddubs_epi16(a[0], w[0]), _mm256_maddubs_epi16(a[1], w[1])];
            let fours = _mm256_add_epi16(pairs[0], pairs[1]);
            _mm256_add_epi32(sums, _mm256_madd_epi16(fours, _mm256_set1_epi16(1)))
        }
    }

    #[inline(always)]
    fn widen_pairs(self, pairs: __m256i) -> [__m256; 2] {
        // SAFETY: see above the impl. A bf16 is the upper half of the f32.
        unsafe {
            let upper = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32.cast_signed()));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(upper)]
        }
    }

    #[inline(always)]
    fn transpose(self, row: impl Fn(usize) -> __m256i, mut column: impl FnMut(usize, __m256i)) {
        // SAFETY: see above the impl.
        unsafe {
            let mut rows = [_mm256_setzero_si256(); 8];
            for (index, values) in rows.iter_mut().enumerate() {
                *values = row(index);
            }
            // First words of two rows are interleaved, then of four rows; the two halves are still separate.
            let (mut pairs, mut fours) = (rows, rows);
            for at in (0..8).step_by(2) {
                pairs[at] = _mm256_unpacklo_epi32(rows[at], rows[at + 1]);
                pairs[at + 1] = _mm256_unpackhi_epi32(rows[at], rows[at + 1]);
            }
            for at in [0, 1, 4, 5] {
                let to = at / 4 * 4 + at % 4 * 2;
                fours[to] = _mm256_unpacklo_epi64(pairs[at], pairs[at + 2]);
                fours[to + 1] = _mm256_unpackhi_epi64(pairs[at], pairs[at + 2]);
            }
            for at in 0..4 {
                rows[at] = _mm256_permute2x128_si256::<0x20>(fours[at], fours[at + 4]);
                rows[at + 4] = _mm256_permute2x128_si256::<0x31>(fours[at], fours[at + 4]);
            }
            for (index, values) in rows.into_iter().enumerate() {
                column(index, values);
            }
        }
    }

    #[inline(always)]
    fn to_f32(self, vector: __m256i) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_cvtepi32_ps(vector) }
    }

    #[inline(always)]
    unsafe fn store_u8(self, to: *mut u8, vector: __m256) {
        // SAFETY: the caller's promise, and see above the impl.
        unsafe {
            let wide = _mm256_cvtps_epi32(vector);
            let halves = (_mm256_castsi256_si128(wide), _mm256_extracti128_si256::<1>(wide));
            let words = _mm_packus_epi32(halves.0, halves.1);
            _mm_storel_epi64(to.cast(), _mm_packus_epi16(words, words));
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, address: *const T) {
        // SAFETY: a prefetch is only a hint and allows any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}

#[inline(always)]
fn lanes(vector: __m256) -> [f32; 8] {
    // SAFETY: both types are eight f32, and every bit pattern is a valid f32.
    unsafe { std::mem::transmute(vector) }
}
