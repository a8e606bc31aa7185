//! NEON, which every aarch64 has: eight lanes in two of its thirty-two registers.

use std::{
    arch::{aarch64::*, asm},
    array,
};

use half::f16;

use super::{Kernel, Room, Simd};

/// Proof that the processor has NEON and, with `DOT`, its products of bytes (SDOT), which give the same sums.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neon<const DOT: bool>(());

type Floats = [float32x4_t; 2];
type Integers = [int32x4_t; 2];

impl<const DOT: bool> Neon<DOT> {
    /// # Safety
    /// The processor has NEON and, with `DOT`, SDOT.
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }

    /// Runs a kernel compiled with the set's instructions.
    #[inline]
    pub(crate) fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "neon")]
        fn inner<K: Kernel, S: Simd>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        #[target_feature(enable = "neon,dotprod")]
        fn inner_dot<K: Kernel, S: Simd>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: `self` is the proof.
        unsafe { if DOT { inner_dot(self, kernel) } else { inner(self, kernel) } }
    }
}

#[inline(always)]
fn each<T: Copy>(a: [T; 2], b: [T; 2], f: impl Fn(T, T) -> T) -> [T; 2] {
    [f(a[0], b[0]), f(a[1], b[1])]
}

/// Adds the products of four bytes to each sum. The instruction has no stable function in Rust yet.
///
/// # Safety
/// The processor has the instruction, and the caller is compiled for it.
#[inline(always)]
unsafe fn add_fours(sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    let mut sums = sums;
    // SAFETY: the caller promises the instruction, and only the sums are written.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// The columns of a square.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn transposed(rows: [int32x4_t; 4]) -> [int32x4_t; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let pairs = [
            vtrn1q_s32(rows[0], rows[1]),
            vtrn2q_s32(rows[0], rows[1]),
            vtrn1q_s32(rows[2], rows[3]),
            vtrn2q_s32(rows[2], rows[3]),
        ]
        .map(|pairs| vreinterpretq_s64_s32(pairs));
        [
            vtrn1q_s64(pairs[0], pairs[2]),
            vtrn1q_s64(pairs[1], pairs[3]),
            vtrn2q_s64(pairs[0], pairs[2]),
            vtrn2q_s64(pairs[1], pairs[3]),
        ]
        .map(|column| vreinterpretq_s32_s64(column))
    }
}

// SAFETY of the blocks below: `self` is the proof that the processor has the instructions.
impl<const DOT: bool> Simd for Neon<DOT> {
    type F = Floats;
    type I = Integers;
    const LANES: usize = 8;
    // Twenty-four sums, four registers of weights, and registers for broadcasts.
    const ROWS: usize = 6;
    // Eight sums, eight registers of weights, and intermediate products. With `DOT` twice as many rows would
    // fit, but the compiler does not unroll a loop with so much assembly.
    const BYTE_ROWS: usize = 2;
    const ROOM: Room = Room::Seven;

    #[inline(always)]
    fn splat(self, value: f32) -> Floats {
        // SAFETY: see above the impl.
        unsafe { [vdupq_n_f32(value); 2] }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Floats {
        // SAFETY: the caller's promise; unaligned.
        unsafe { [vld1q_f32(from), vld1q_f32(from.add(4))] }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, vector: Floats) {
        // SAFETY: the caller's promise; unaligned.
        unsafe {
            vst1q_f32(to, vector[0]);
            vst1q_f32(to.add(4), vector[1]);
        }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> Floats {
        // SAFETY: the caller's promise; unaligned.
        unsafe {
            let narrow = vreinterpretq_f16_u16(vld1q_u16(from.cast()));
            [vcvt_f32_f16(vget_low_f16(narrow)), vcvt_high_f32_f16(narrow)]
        }
    }

    #[inline(always)]
    fn add(self, a: Floats, b: Floats) -> Floats {
        // SAFETY: see above the impl.
        unsafe { each(a, b, |a, b| vaddq_f32(a, b)) }
    }

    #[inline(always)]
    fn sub(self, a: Floats, b: Floats) -> Floats {
        // SAFETY: see above the impl.
        unsafe { each(a, b, |a, b| vsubq_f32(a, b)) }
    }

    #[inline(always)]
    fn mul(self, a: Floats, b: Floats) -> Floats {
        // SAFETY: see above the impl.
        unsafe { each(a, b, |a, b| vmulq_f32(a, b)) }
    }

    #[inline(always)]
    fn div(self, a: Floats, b: Floats) -> Floats {
        // SAFETY: see above the impl.
        unsafe { each(a, b, |a, b| vdivq_f32(a, b)) }
    }

    #[inline(always)]
    fn mul_add(self, a: Floats, b: Floats, c: Floats) -> Floats {
        // SAFETY: see above the impl.
        unsafe { [vfmaq_f32(c[0], a[0], b[0]), vfmaq_f32(c[1], a[1], b[1])] }
    }

    #[inline(always)]
    fn max(self, a: Floats, b: Floats) -> Floats {
        // SAFETY: see above the impl. NEON's own maximum returns NaN for either operand, so this compares and
        // selects.
        unsafe { each(a, b, |a, b| vbslq_f32(vcgtq_f32(a, b), a, b)) }
    }

    #[inline(always)]
    fn min(self, a: Floats, b: Floats) -> Floats {
        // SAFETY: see above the impl.
        unsafe { each(a, b, |a, b| vbslq_f32(vcltq_f32(a, b), a, b)) }
    }

    #[inline(always)]
    fn power_of_two(self, shifted: Floats) -> Floats {
        // SAFETY: see above the impl.
        shifted.map(|shifted| unsafe {
            let exponent = vshlq_n_s32::<23>(vreinterpretq_s32_f32(shifted));
            vreinterpretq_f32_s32(vaddq_s32(exponent, vdupq_n_s32(0x3f80_0000)))
        })
    }

    #[inline(always)]
    fn copy_sign(self, magnitude: Floats, sign: Floats) -> Floats {
        // SAFETY: see above the impl.
        unsafe {
            each(magnitude, sign, |magnitude, sign| {
                vbslq_f32(vdupq_n_u32(1 << 31), sign, magnitude)
            })
        }
    }

    #[inline(always)]
    fn sum(self, vector: Floats) -> f32 {
        // SAFETY: see above the impl.
        unsafe { vaddvq_f32(vaddq_f32(vector[0], vector[1])) }
    }

    #[inline(always)]
    fn max_of(self, vector: Floats) -> f32 {
        // SAFETY: see above the impl.
        unsafe { vmaxnmvq_f32(vmaxnmq_f32(vector[0], vector[1])) }
    }

    #[inline(always)]
    unsafe fn load_i32(self, from: *const i32) -> Integers {
        // SAFETY: the caller's promise; unaligned.
        unsafe { [vld1q_s32(from), vld1q_s32(from.add(4))] }
    }

    #[inline(always)]
    unsafe fn store_i32(self, to: *mut i32, vector: Integers) {
        // SAFETY: the caller's promise; unaligned.
        unsafe {
            vst1q_s32(to, vector[0]);
            vst1q_s32(to.add(4), vector[1]);
        }
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> Integers {
        // SAFETY: see above the impl.
        unsafe { [vdupq_n_s32(value); 2] }
    }

    #[inline(always)]
    fn add_products(
        self,
        inputs: [Integers; 2],
        weights: [Integers; 2],
        sums: Integers,
    ) -> Integers {
        // SAFETY: see above the impl.
        let sum = |half: usize| unsafe {
            let [a, b] = inputs.map(|inputs| vreinterpretq_s8_s32(inputs[half]));
            let [v, w] = weights.map(|weights| vreinterpretq_s8_s32(weights[half]));
            if DOT {
                return add_fours(add_fours(sums[half], a, v), b, w);
            }
            // Sums of two products have 16 bits, which is enough for the range of `ROOM`.
            let low = vmull_s8(vget_low_s8(a), vget_low_s8(v));
            let low = vmlal_s8(low, vget_low_s8(b), vget_low_s8(w));
            let high = vmlal_high_s8(vmull_high_s8(a, v), b, w);
            let sum = vpadalq_s16(sums[half], vuzp1q_s16(low, high));
            vpadalq_s16(sum, vuzp2q_s16(low, high))
        };
        [sum(0), sum(1)]
    }

    #[inline(always)]
    fn widen_pairs(self, pairs: Integers) -> [Floats; 2] {
        // SAFETY: see above the impl. A bf16 is the upper half of the f32.
        unsafe {
            let lower = pairs.map(|pairs| vreinterpretq_f32_s32(vshlq_n_s32::<16>(pairs)));
            let mask = vdupq_n_s32(0xffff_0000_u32.cast_signed());
            [lower, pairs.map(|pairs| vreinterpretq_f32_s32(vandq_s32(pairs, mask)))]
        }
    }

    #[inline(always)]
    fn transpose(self, row: impl Fn(usize) -> Integers, mut column: impl FnMut(usize, Integers)) {
        // SAFETY: see above the impl.
        unsafe {
            let rows: [Integers; 8] = array::from_fn(row);
            let halves = [rows.map(|row| row[0]), rows.map(|row| row[1])];
            // A column consists of two quarters, which are squares themselves.
            for (half, [a, b, c, d, e, f, g, h]) in halves.into_iter().enumerate() {
                let columns = transposed([a, b, c, d]).into_iter().zip(transposed([e, f, g, h]));
                for (index, (upper, lower)) in columns.enumerate() {
                    column(half * 4 + index, [upper, lower]);
                }
            }
        }
    }

    #[inline(always)]
    fn to_f32(self, vector: Integers) -> Floats {
        // SAFETY: see above the impl.
        unsafe { vector.map(|vector| vcvtq_f32_s32(vector)) }
    }

    #[inline(always)]
    unsafe fn store_u8(self, to: *mut u8, vector: Floats) {
        // SAFETY: the caller's promise, and see above the impl.
        unsafe {
            let [low, high] = vector.map(|vector| vqmovn_u32(vcvtnq_u32_f32(vector)));
            vst1_u8(to, vqmovn_u16(vcombine_u16(low, high)));
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, address: *const T) {
        // SAFETY: a prefetch is only a hint and allows any address.
        unsafe {
            asm!("prfm pldl1keep, [{}]", in(reg) address, options(readonly, nostack, preserves_flags));
        }
    }
}
