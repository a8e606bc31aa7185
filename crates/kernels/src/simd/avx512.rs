//! AVX-512: sixteen lanes, thirty-two registers.

use std::{arch::x86_64::*, mem::transmute};

use half::f16;

use super::{Kernel, Room, Simd};

/// Optional extensions beyond F, BW, DQ and VL.
pub(crate) const PLAIN: u8 = 0;
pub(crate) const VNNI: u8 = 1;
pub(crate) const BF16: u8 = 2;

/// Proof that the processor has AVX-512 F, BW, DQ and VL, AVX2, FMA and F16C, and the extensions that `WITH`
/// names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512<const WITH: u8>(());

impl<const WITH: u8> Avx512<WITH> {
    /// # Safety
    /// The processor has AVX-512 F, BW, DQ and VL, AVX2, FMA and F16C, and the extensions that `WITH`
    /// names.
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }

    /// Runs a kernel compiled with the set's instructions.
    #[inline]
    pub(crate) fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        fn plain<K: Kernel, S: Simd>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn vnni<K: Kernel, S: Simd>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
        fn bf16<K: Kernel, S: Simd>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: `self` is the proof.
        unsafe {
            match WITH {
                VNNI => vnni(self, kernel),
                BF16 => bf16(self, kernel),
                _ => plain(self, kernel),
            }
        }
    }
}

// SAFETY of the blocks below: `self` is the proof that the processor has the instructions.
impl<const WITH: u8> Simd for Avx512<WITH> {
    type F = __m512;
    type I = __m512i;
    const LANES: usize = 16;
    // Twenty-four sums, two vectors of weights, and registers for broadcasts.
    const ROWS: usize = 12;
    // Twenty-four sums, four vectors of weights, and two broadcasts.
    const BYTE_ROWS: usize = 12;
    const ROOM: Room = if WITH == VNNI { Room::Any } else { Room::Sixteen };

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: the caller's promise; unaligned.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, vector: __m512) {
        // SAFETY: the caller's promise; unaligned.
        unsafe { _mm512_storeu_ps(to, vector) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> __m512 {
        // SAFETY: the caller's promise; unaligned.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the impl. The instruction returns its second operand if one operand is NaN.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: as for `max`.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn power_of_two(self, shifted: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe {
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
            _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(0x3f80_0000)))
        }
    }

    #[inline(always)]
    fn copy_sign(self, magnitude: __m512, sign: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe {
            let mask = _mm512_set1_ps(-0.0);
            _mm512_or_ps(_mm512_andnot_ps(mask, magnitude), _mm512_and_ps(mask, sign))
        }
    }

    #[inline(always)]
    fn sum(self, vector: __m512) -> f32 {
        // SAFETY: see above the impl.
        unsafe { _mm512_reduce_add_ps(vector) }
    }

    #[inline(always)]
    fn max_of(self, vector: __m512) -> f32 {
        // SAFETY: see above the impl.
        unsafe { _mm512_reduce_max_ps(vector) }
    }

    #[inline(always)]
    unsafe fn load_i32(self, from: *const i32) -> __m512i {
        // SAFETY: the caller's promise; unaligned.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store_i32(self, to: *mut i32, vector: __m512i) {
        // SAFETY: the caller's promise; unaligned.
        unsafe { _mm512_storeu_si512(to.cast(), vector) }
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> __m512i {
        // SAFETY: see above the impl.
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    fn add_products(self, a: [__m512i; 2], w: [__m512i; 2], sums: __m512i) -> __m512i {
        // SAFETY: see above the impl. With VNNI sums have 32 bits. Otherwise the first instruction can saturate
        // and the second can wrap, but not for bytes in the range of `ROOM`.
        unsafe {
            if WITH == VNNI {
                return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sums, a[0], w[0]), a[1], w[1]);
            }
            let pairs = [_mm512_maddubs_epi16(a[0], w[0]), _mm512_maddubs_epi16(a[1], w[1])];
            let fours = _mm512_add_epi16(pairs[0], pairs[1]);
            _mm512_add_epi32(sums, _mm512_madd_epi16(fours, _mm512_set1_epi16(1)))
        }
    }

    #[inline(always)]
    fn widen_pairs(self, pairs: __m512i) -> [__m512; 2] {
        // SAFETY: see above the impl. A bf16 is the upper half of the f32.
        unsafe {
            let upper = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
            [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(upper)]
        }
    }

    #[inline(always)]
    fn add_pairs(self, inputs: __m512i, weights: __m512i, sums: __m512) -> __m512 {
        if WITH == BF16 {
            // SAFETY: see above the impl; both types are sixteen pairs of bf16.
            return unsafe {
                _mm512_dpbf16_ps(
                    sums,
                    transmute::<__m512i, __m512bh>(inputs),
                    transmute::<__m512i, __m512bh>(weights),
                )
            };
        }
        let (a, w) = (self.widen_pairs(inputs), self.widen_pairs(weights));
        self.mul_add(a[1], w[1], self.mul_add(a[0], w[0], sums))
    }

    #[inline(always)]
    unsafe fn load_pairs(self, from: *const f32) -> __m512i {
        if WITH == BF16 {
            // SAFETY: the caller promises readable values, and see above the impl; both types are thirty-two
            // bf16.
            return unsafe {
                transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(
                    self.load(from.add(16)),
                    self.load(from),
                ))
            };
        }
        let mut pairs = [0i32; 16];
        for (index, pair) in pairs.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *pair = super::pair_of(unsafe { [*from.add(2 * index), *from.add(2 * index + 1)] });
        }
        // SAFETY: the array has sixteen values.
        unsafe { self.load_i32(pairs.as_ptr()) }
    }

    #[inline(always)]
    fn join_pairs(self, [first, second]: [__m512; 2]) -> __m512i {
        if WITH == BF16 {
            // SAFETY: see above the impl. The two bf16 of a word are combined: the second one is shifted to the
            // upper 16 bits.
            return unsafe {
                let low = _mm512_cvtepu16_epi32(transmute::<__m256bh, __m256i>(
                    _mm512_cvtneps_pbh(first),
                ));
                let high = _mm512_cvtepu16_epi32(transmute::<__m256bh, __m256i>(
                    _mm512_cvtneps_pbh(second),
                ));
                _mm512_or_si512(low, _mm512_slli_epi32::<16>(high))
            };
        }
        let lanes = [lanes(first), lanes(second)];
        let mut pairs = [0i32; 16];
        for (lane, pair) in pairs.iter_mut().enumerate() {
            *pair = super::pair_of([lanes[0][lane], lanes[1][lane]]);
        }
        // SAFETY: the array has sixteen values.
        unsafe { self.load_i32(pairs.as_ptr()) }
    }

    #[inline(always)]
    fn transpose(self, row: impl Fn(usize) -> __m512i, mut column: impl FnMut(usize, __m512i)) {
        // SAFETY: see above the impl.
        unsafe {
            let mut rows = [_mm512_setzero_si512(); 16];
            for (index, values) in rows.iter_mut().enumerate() {
                *values = row(index);
            }
            // First words of two rows are interleaved, then of four rows; the four quarters are still separate.
            let (mut pairs, mut fours) = (rows, rows);
            for at in (0..16).step_by(2) {
                pairs[at] = _mm512_unpacklo_epi32(rows[at], rows[at + 1]);
                pairs[at + 1] = _mm512_unpackhi_epi32(rows[at], rows[at + 1]);
            }
            for at in (0..16).step_by(4) {
                for half in 0..2 {
                    let (a, b) = (pairs[at + half], pairs[at + half + 2]);
                    fours[at + 2 * half] = _mm512_unpacklo_epi64(a, b);
                    fours[at + 2 * half + 1] = _mm512_unpackhi_epi64(a, b);
                }
            }
            for at in 0..4 {
                // Combines the first and third quarters of each half of the rows, and the second and fourth.
                let (a, b) = (fours[at], fours[at + 4]);
                let (c, d) = (fours[at + 8], fours[at + 12]);
                let even = [
                    _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b),
                    _mm512_shuffle_i32x4::<0b10_00_10_00>(c, d),
                ];
                let odd = [
                    _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b),
                    _mm512_shuffle_i32x4::<0b11_01_11_01>(c, d),
                ];
                rows[at] = _mm512_shuffle_i32x4::<0b10_00_10_00>(even[0], even[1]);
                rows[at + 4] = _mm512_shuffle_i32x4::<0b10_00_10_00>(odd[0], odd[1]);
                rows[at + 8] = _mm512_shuffle_i32x4::<0b11_01_11_01>(even[0], even[1]);
                rows[at + 12] = _mm512_shuffle_i32x4::<0b11_01_11_01>(odd[0], odd[1]);
            }
            for (index, values) in rows.into_iter().enumerate() {
                column(index, values);
            }
        }
    }

    #[inline(always)]
    fn to_f32(self, vector: __m512i) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_cvtepi32_ps(vector) }
    }

    #[inline(always)]
    unsafe fn store_u8(self, to: *mut u8, vector: __m512) {
        // SAFETY: the caller's promise, and see above the impl.
        unsafe {
            let bytes = _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(vector));
            _mm_storeu_si128(to.cast(), bytes);
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, address: *const T) {
        // SAFETY: a prefetch is only a hint and allows any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}

#[inline(always)]
fn lanes(vector: __m512) -> [f32; 16] {
    // SAFETY: both types are sixteen f32, and every bit pattern is a valid f32.
    unsafe { transmute(vector) }
}
