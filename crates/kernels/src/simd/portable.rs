//! Plain Rust: the reference for every other set, and the set of other architectures.

use half::f16;

use super::{Room, Simd};

const LANES: usize = 8;

/// Uses no instructions beyond the architecture's baseline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn each(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut result = a;
    for (a, b) in result.iter_mut().zip(b) {
        *a = f(*a, b);
    }
    result
}

impl Simd for Portable {
    type F = [f32; LANES];
    type I = [i32; LANES];
    const LANES: usize = LANES;
    // A row takes four registers of the oldest x86, which has 16.
    const ROWS: usize = if cfg!(target_arch = "aarch64") { 6 } else { 2 };
    const BYTE_ROWS: usize = 2;
    const ROOM: Room = Room::Any;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        // SAFETY: the caller's promise; unaligned.
        unsafe { from.cast::<[f32; LANES]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, vector: Self::F) {
        // SAFETY: the caller's promise; unaligned.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(vector) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> Self::F {
        // SAFETY: the caller's promise; unaligned.
        unsafe { from.cast::<[f16; LANES]>().read_unaligned() }.map(f16::to_f32)
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        let mut result = c;
        for ((c, a), b) in result.iter_mut().zip(a).zip(b) {
            // On other targets a fused multiply-add is a call into the C library.
            *c = if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
                a.mul_add(b, *c)
            } else {
                a * b + *c
            };
        }
        result
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn power_of_two(self, shifted: Self::F) -> Self::F {
        shifted.map(|value| f32::from_bits((value.to_bits() << 23).wrapping_add(0x3f80_0000)))
    }

    #[inline(always)]
    fn copy_sign(self, magnitude: Self::F, sign: Self::F) -> Self::F {
        each(magnitude, sign, f32::copysign)
    }

    #[inline(always)]
    fn sum(self, vector: Self::F) -> f32 {
        vector.iter().sum()
    }

    #[inline(always)]
    fn max_of(self, vector: Self::F) -> f32 {
        vector.into_iter().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn load_i32(self, from: *const i32) -> Self::I {
        // SAFETY: the caller's promise; unaligned.
        unsafe { from.cast::<Self::I>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_i32(self, to: *mut i32, vector: Self::I) {
        // SAFETY: the caller's promise; unaligned.
        unsafe { to.cast::<Self::I>().write_unaligned(vector) }
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> Self::I {
        [value; LANES]
    }

    #[inline(always)]
    fn add_products(self, a: [Self::I; 2], w: [Self::I; 2], sums: Self::I) -> Self::I {
        let mut result = sums;
        for (a, w) in a.into_iter().zip(w) {
            for ((sum, a), w) in result.iter_mut().zip(a).zip(w) {
                for (a, w) in a.to_ne_bytes().into_iter().zip(w.to_ne_bytes()) {
                    *sum += i32::from(a) * i32::from(w as i8);
                }
            }
        }
        result
    }

    #[inline(always)]
    fn widen_pairs(self, pairs: Self::I) -> [Self::F; 2] {
        let upper =
            |shift: u32| pairs.map(|pair| f32::from_bits((pair << shift) as u32 & 0xffff_0000));
        [upper(16), upper(0)]
    }

    #[inline(always)]
    fn to_f32(self, vector: Self::I) -> Self::F {
        vector.map(|value| value as f32)
    }

    #[inline(always)]
    unsafe fn store_u8(self, to: *mut u8, vector: Self::F) {
        // Adding 1.5 * 2^23 rounds to an integer, and leaves it in the low bits.
        let bytes = vector.map(|value| (value + 12_582_912.0).to_bits() as u8);
        // SAFETY: the caller's promise; unaligned.
        unsafe { to.cast::<[u8; LANES]>().write_unaligned(bytes) }
    }

    #[inline(always)]
    fn prefetch<T>(self, _: *const T) {}
}
