//! Vectors of f32 for each set of instructions, behind one trait: a kernel is written once.

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

/// Columns of a panel of packed weights: one AVX-512 register, two of AVX2.
pub(crate) const PANEL: usize = 16;

/// The operations of one set of instructions. A value of an implementing type is the proof that the processor
/// has them, so that only what takes pointers is unsafe.
pub(crate) trait Simd: Copy + Send + Sync {
    /// A vector of f32.
    type F: Copy;
    /// How many.
    const LANES: usize;
    /// A vector of as many i32, or of four bytes in the place of each.
    type I: Copy;
    /// Rows of the product's register tile: as many as leave registers for two vectors and a broadcast.
    const ROWS: usize;
    /// The same of the product of bytes, which needs four vectors of weights and two broadcasts: 2, 4 or 12.
    const BYTE_ROWS: usize;
    /// What sums of bytes' products have room for.
    const ROOM: Room;

    fn splat(self, value: f32) -> Self::F;
    /// # Safety
    /// `LANES` values are readable behind `from`.
    unsafe fn load(self, from: *const f32) -> Self::F;
    /// # Safety
    /// `LANES` values are writable behind `to`.
    unsafe fn store(self, to: *mut f32, vector: Self::F);
    /// # Safety
    /// `LANES` values are readable behind `from`.
    unsafe fn load_f16(self, from: *const f16) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, in one rounding where the set has it.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger; `b` where one of them is not a number.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; `b` where one of them is not a number.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `2^n`, where the lowest bits of `shifted` hold the integer `n`.
    fn power_of_two(self, shifted: Self::F) -> Self::F;
    /// The magnitude of `magnitude` with the sign of `sign`.
    fn copy_sign(self, magnitude: Self::F, sign: Self::F) -> Self::F;
    fn sum(self, vector: Self::F) -> f32;
    fn max_of(self, vector: Self::F) -> f32;
    /// # Safety
    /// `LANES` values are readable behind `from`.
    unsafe fn load_i32(self, from: *const i32) -> Self::I;
    /// # Safety
    /// `LANES` values are writable behind `to`.
    unsafe fn store_i32(self, to: *mut i32, vector: Self::I);
    fn splat_i32(self, value: i32) -> Self::I;
    /// Adds to each sum the products of two times four bytes: inputs without a sign, weights with one. Exact
    /// where they keep to `ROOM`.
    fn add_products(self, inputs: [Self::I; 2], weights: [Self::I; 2], sums: Self::I) -> Self::I;
    /// The lower and the upper halves of words, which are bf16.
    fn widen_pairs(self, pairs: Self::I) -> [Self::F; 2];
    /// Rounds to the nearest.
    fn to_f32(self, vector: Self::I) -> Self::F;
    /// Stores values of 0 to 255 as bytes, rounded to the nearest, of two equally near to the even one.
    ///
    /// # Safety
    /// `LANES` bytes are writable behind `to`.
    unsafe fn store_u8(self, to: *mut u8, vector: Self::F);
    /// Asks for the cache line behind an address, which need not be valid.
    fn prefetch<T>(self, address: *const T);

    /// Twice `LANES` values, rounded to the nearest bf16, of two equally near to the even one; two in each word.
    ///
    /// # Safety
    /// As many values are readable behind `from`.
    #[inline(always)]
    unsafe fn load_pairs(self, from: *const f32) -> Self::I {
        let mut pairs = [0i32; PANEL];
        for (index, pair) in pairs.iter_mut().enumerate().take(Self::LANES) {
            // SAFETY: the caller's promise.
            *pair = pair_of(unsafe { [*from.add(2 * index), *from.add(2 * index + 1)] });
        }
        // SAFETY: no vector has more lanes than a panel has columns.
        unsafe { self.load_i32(pairs.as_ptr()) }
    }

    /// The same of each lane's two values.
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
        // SAFETY: no vector has more lanes than a panel has columns.
        unsafe { self.load_i32(pairs.as_ptr()) }
    }

    /// Hands on the columns of a square, in order, given its rows.
    #[inline(always)]
    fn transpose(self, row: impl Fn(usize) -> Self::I, mut column: impl FnMut(usize, Self::I)) {
        let mut columns = [[0i32; PANEL]; PANEL];
        for at in 0..Self::LANES {
            let mut lanes = [0i32; PANEL];
            // SAFETY: no vector has more lanes than a panel has columns; nor below.
            unsafe { self.store_i32(lanes.as_mut_ptr(), row(at)) };
            for (column, lane) in columns.iter_mut().zip(lanes) {
                column[at] = lane;
            }
        }
        for (index, lanes) in columns.iter().enumerate().take(Self::LANES) {
            // SAFETY: as above.
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

    /// The first values of a slice, and zeros where it ends.
    #[inline(always)]
    fn load_slice(self, values: &[f32]) -> Self::F {
        if values.len() >= Self::LANES {
            // SAFETY: as many values are there.
            return unsafe { self.load(values.as_ptr()) };
        }
        let mut lanes = [0f32; PANEL];
        lanes[..values.len()].copy_from_slice(values);
        // SAFETY: no vector has more lanes than a panel has columns.
        unsafe { self.load(lanes.as_ptr()) }
    }

    /// As many values as the slice takes, `LANES` at most.
    #[inline(always)]
    fn store_slice(self, values: &mut [f32], vector: Self::F) {
        if values.len() >= Self::LANES {
            // SAFETY: as many values are there.
            return unsafe { self.store(values.as_mut_ptr(), vector) };
        }
        let mut lanes = [0f32; PANEL];
        // SAFETY: no vector has more lanes than a panel has columns.
        unsafe { self.store(lanes.as_mut_ptr(), vector) };
        values.copy_from_slice(&lanes[..values.len()]);
    }

    /// The same, where nothing is yet.
    #[inline(always)]
    fn fill_slice(self, values: &mut [MaybeUninit<f32>], vector: Self::F) {
        if values.len() >= Self::LANES {
            // SAFETY: there is room for as many values.
            return unsafe { self.store(values.as_mut_ptr().cast(), vector) };
        }
        let mut lanes = [0f32; PANEL];
        // SAFETY: no vector has more lanes than a panel has columns.
        unsafe { self.store(lanes.as_mut_ptr(), vector) };
        values.write_copy_of_slice(&lanes[..values.len()]);
    }
}

/// Two values as bf16, the first in the lower half.
pub(crate) fn pair_of(values: [f32; 2]) -> i32 {
    let [low, high] = values.map(|value| i32::from(bf16::from_f32(value).to_bits()));
    low | high << 16
}

/// What the sums of bytes' products have room for, which is what bytes may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(test), expect(dead_code, reason = "no architecture's sets have them all"))]
pub(crate) enum Room {
    /// Sums are of 32 bits from the first product on: any bytes.
    Any,
    /// The first two products are added in 16 bits. Inputs are of 0 to 127: 2 * 127 * 127 < 2^15.
    Seven,
    /// The first four products are added in 16 bits. Inputs are of 0 to 127, and no four weights that meet there
    /// have a sum beyond 258 on either side of zero: 127 * 258 = 32766.
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

    /// How far weights of one sign may add up that meet in a first sum.
    pub(crate) fn largest_sum(self) -> Option<u16> {
        match self {
            Self::Any | Self::Seven => None,
            Self::Sixteen => Some(258),
        }
    }
}

/// Work that is compiled once for each set. `run` must be `#[inline(always)]`, as must all that it calls with a
/// `Simd` in hand, or it is compiled for the oldest processor.
pub(crate) trait Kernel {
    type Output;

    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Calls an expression with a constant: the number of rows of a tile, or as many as a tile of the set has.
macro_rules! by_height {
    ($set:ident, $rows:expr, $height:ident => $call:expr) => {
        by_height!(@ $set, $rows, $height => $call, 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    };
    (@ $set:ident, $rows:expr, $height:ident => $call:expr, $($rows_:literal)*) => {
        match Ord::min($rows, $set::ROWS) {
            // The condition leaves out what the set never uses.
            $($rows_ if $rows_ <= $set::ROWS => {
                const $height: usize = $rows_;
                $call
            })*
            _ => {}
        }
    };
}

pub(crate) use by_height;

/// A result of which each task writes a part of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out(pub(crate) *mut f32);

// SAFETY: whoever shares one sees to it that the tasks' parts are disjoint, and reads none of them before all tasks
// have ended.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}
