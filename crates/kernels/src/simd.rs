//! Vectors of f32 for each instruction set, behind one trait, so that a kernel is written once.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
mod portable;

use std::mem::MaybeUninit;

use half::{bf16, f16};

pub(crate) use self::portable::Portable;

/// Columns of a panel of packed weights: one register of AVX-512, or two of AVX2.
pub(crate) const PANEL: usize = 16;

/// The operations of one instruction set. A value of an implementing type proves that the processor has the
/// set, so only functions that take pointers are unsafe.
pub(crate) trait Simd: Copy + Send + Sync {
    /// A vector of f32.
    type F: Copy;
    /// The number of f32 in a vector.
    const LANES: usize;
    /// A vector of `LANES` i32, or of four bytes for each of them.
    type I: Copy;
    /// Rows of the product's register tile. They leave registers for two vectors and a broadcast.
    const ROWS: usize;
    /// Rows of the register tile of the product of bytes, which needs four vectors of weights and two
    /// broadcasts: 2, 4 or 12.
    const BYTE_ROWS: usize;
    /// The range of bytes whose sums of products do not overflow.
    const ROOM: Room;

    fn splat(self, value: f32) -> Self::F;
    /// # Safety
    /// `LANES` values are readable from `from` on.
    unsafe fn load(self, from: *const f32) -> Self::F;
    /// # Safety
    /// `LANES` values are writable from `to` on.
    unsafe fn store(self, to: *mut f32, vector: Self::F);
    /// # Safety
    /// `LANES` values are readable from `from` on.
    unsafe fn load_f16(self, from: *const f16) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, with one rounding if the set has that instruction.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger value; `b` if one of them is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller value; `b` if one of them is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `2^n`, with the integer `n` in the lowest bits of `shifted`.
    fn power_of_two(self, shifted: Self::F) -> Self::F;
    /// The magnitude of `magnitude` with the sign of `sign`.
    fn copy_sign(self, magnitude: Self::F, sign: Self::F) -> Self::F;
    fn sum(self, vector: Self::F) -> f32;
    fn max_of(self, vector: Self::F) -> f32;
    /// # Safety
    /// `LANES` values are readable from `from` on.
    unsafe fn load_i32(self, from: *const i32) -> Self::I;
    /// # Safety
    /// `LANES` values are writable from `to` on.
    unsafe fn store_i32(self, to: *mut i32, vector: Self::I);
    fn splat_i32(self, value: i32) -> Self::I;
    /// Adds the products of twice four bytes to each sum: unsigned inputs, signed weights. The result is exact
    /// for bytes in the range of `ROOM`.
    fn add_products(self, inputs: [Self::I; 2], weights: [Self::I; 2], sums: Self::I) -> Self::I;
    /// The lower and the upper halves of words, which are bf16.
    fn widen_pairs(self, pairs: Self::I) -> [Self::F; 2];
    /// Converts integers to the nearest f32.
    fn to_f32(self, vector: Self::I) -> Self::F;
    /// Stores values of 0 to 255 as bytes, rounded to the nearest; ties go to the even one.
    ///
    /// # Safety
    /// `LANES` bytes are writable from `to` on.
    unsafe fn store_u8(self, to: *mut u8, vector: Self::F);
    /// Prefetches the cache line of an address, which need not be valid.
    fn prefetch<T>(self, address: *const T);

    /// Loads twice `LANES` values, rounded to the nearest bf16 (ties go to the even one), two in each word.
    ///
    /// # Safety
    /// Twice `LANES` values are readable from `from` on.
    #[inline(always)]
    unsafe fn load_pairs(self, from: *const f32) -> Self::I {
        let mut pairs = [0i32; PANEL];
        for (index, pair) in pairs.iter_mut().enumerate().take(Self::LANES) {
            // SAFETY: the caller's promise.
            *pair = pair_of(unsafe { [*from.add(2 * index), *from.add(2 * index + 1)] });
        }
        // SAFETY: the array has `PANEL` values, and a vector has at most as many lanes.
        unsafe { self.load_i32(pairs.as_ptr()) }
    }

    /// Makes words of each lane's two values, rounded to bf16.
    #[inline(always)]
    fn join_pairs(self, values: [Self::F; 2]) -> Self::I {
        let mut lanes = [[0f32; PANEL]; 2];
        for (lanes, values) in lanes.iter_mut().zip(values) {
            self.store_slice(lanes, values);
        }
        let mut pairs = [0i32; PANEL];
        for (lane, pair) in pairs.iter_mut().enumerate() {
            *pair = pair_of([lanes[0][lane], lanes[1][lane]]);
        }
        // SAFETY: the array has `PANEL` values, and a vector has at most as many lanes.
        unsafe { self.load_i32(pairs.as_ptr()) }
    }

    /// Calls `column` with the columns of a square, in order, given its rows.
    #[inline(always)]
    fn transpose(self, row: impl Fn(usize) -> Self::I, mut column: impl FnMut(usize, Self::I)) {
        let mut columns = [[0i32; PANEL]; PANEL];
        for at in 0..Self::LANES {
            let mut lanes = [0i32; PANEL];
            // SAFETY: the array has `PANEL` values, and a vector has at most as many lanes.
            unsafe { self.store_i32(lanes.as_mut_ptr(), row(at)) };
            for (column, lane) in columns.iter_mut().zip(lanes) {
                column[at] = lane;
            }
        }
        for (index, lanes) in columns.iter().enumerate().take(Self::LANES) {
            // SAFETY: the array has `PANEL` values, and a vector has at most as many lanes.
            column(index, unsafe { self.load_i32(lanes.as_ptr()) });
        }
    }

    /// Adds the products of pairs of bf16, lane by lane.
    #[inline(always)]
    fn add_pairs(self, inputs: Self::I, weights: Self::I, sums: Self::F) -> Self::F {
        let (a, w) = (self.widen_pairs(inputs), self.widen_pairs(weights));
        self.mul_add(a[1], w[1], self.mul_add(a[0], w[0], sums))
    }

    #[inline(always)]
    fn abs(self, vector: Self::F) -> Self::F {
        self.copy_sign(vector, self.splat(0.0))
    }

    /// Loads the first values of a slice, and zeros after its end.
    #[inline(always)]
    fn load_slice(self, values: &[f32]) -> Self::F {
        if values.len() >= Self::LANES {
            // SAFETY: the slice has `LANES` values.
            return unsafe { self.load(values.as_ptr()) };
        }
        let mut lanes = [0f32; PANEL];
        lanes[..values.len()].copy_from_slice(values);
        // SAFETY: the array has `PANEL` values, and a vector has at most as many lanes.
        unsafe { self.load(lanes.as_ptr()) }
    }

    /// Stores as many values as the slice has, at most `LANES`.
    #[inline(always)]
    fn store_slice(self, values: &mut [f32], vector: Self::F) {
        if values.len() >= Self::LANES {
            // SAFETY: the slice has `LANES` values.
            return unsafe { self.store(values.as_mut_ptr(), vector) };
        }
        let mut lanes = [0f32; PANEL];
        // SAFETY: the array has `PANEL` values, and a vector has at most as many lanes.
        unsafe { self.store(lanes.as_mut_ptr(), vector) };
        values.copy_from_slice(&lanes[..values.len()]);
    }

    /// `store_slice` into uninitialised memory.
    #[inline(always)]
    fn fill_slice(self, values: &mut [MaybeUninit<f32>], vector: Self::F) {
        if values.len() >= Self::LANES {
            // SAFETY: the slice has `LANES` places.
            return unsafe { self.store(values.as_mut_ptr().cast(), vector) };
        }
        let mut lanes = [0f32; PANEL];
        // SAFETY: the array has `PANEL` values, and a vector has at most as many lanes.
        unsafe { self.store(lanes.as_mut_ptr(), vector) };
        values.write_copy_of_slice(&lanes[..values.len()]);
    }
}

/// Makes a word of two values as bf16, the first in the lower half.
pub(crate) fn pair_of(values: [f32; 2]) -> i32 {
    let [low, high] = values.map(|value| i32::from(bf16::from_f32(value).to_bits()));
    low | high << 16
}

/// The range of bytes whose sums of products do not overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(test), expect(dead_code, reason = "no architecture's sets have them all"))]
pub(crate) enum Room {
    /// Sums have 32 bits from the first product on, so any bytes fit.
    Any,
    /// The first two products are added in 16 bits. Inputs are 0 to 127: 2 * 127 * 127 < 2^15.
    Seven,
    /// The first four products are added in 16 bits. Inputs are 0 to 127, and no four weights that are added
    /// there have a sum above 258 on either side of zero: 127 * 258 = 32766.
    Sixteen,
}

impl Room {
    /// The largest input.
    pub(crate) fn largest_input(self) -> u8 {
        match self {
            Self::Any => 255,
            Self::Seven | Self::Sixteen => 127,
        }
    }

    /// The maximum sum of weights of one sign that are added in 16 bits.
    pub(crate) fn largest_sum(self) -> Option<u16> {
        match self {
            Self::Any | Self::Seven => None,
            Self::Sixteen => Some(258),
        }
    }
}

/// Work that is compiled once for each set. `run` and all functions that it calls with a `Simd` must be
/// `#[inline(always)]`, or they are compiled for the oldest processor.
pub(crate) trait Kernel {
    type Output;

    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Calls an expression with a constant: the number of rows, at most as many as a tile of the set has.
macro_rules! by_height {
    ($set:ident, $rows:expr, $height:ident => $call:expr) => {
        by_height!(@ $set, $rows, $height => $call, 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    };
    (@ $set:ident, $rows:expr, $height:ident => $call:expr, $($rows_:literal)*) => {
        match Ord::min($rows, $set::ROWS) {
            // The condition removes heights that the set never uses.
            $($rows_ if $rows_ <= $set::ROWS => {
                const $height: usize = $rows_;
                $call
            })*
            _ => {}
        }
    };
}

pub(crate) use by_height;

/// A result of which each task writes its own part.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out(pub(crate) *mut f32);

// SAFETY: the function that shares a value makes the tasks' parts disjoint, and reads none of them before all
// tasks have ended.
unsafe impl Send for Out {}
// SAFETY: the array has `PANEL` values, and a vector has at most as many lanes.
unsafe impl Sync for Out {}
