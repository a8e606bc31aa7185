//! The tile instructions in plain Rust, as Intel's manual defines them.
//!
//! For `tdpbf16ps` and each value of the result, the products of the first elements of all pairs are added in
//! order, with one rounding each, beginning with zero. The products of the second elements are added in the
//! same way. Then the two sums are added, and the result is added to the previous value. Numbers below 2^-126
//! are read and written as zero.

use super::{Tile, Unit};
use crate::{
    Level,
    simd::{Kernel, PANEL, Simd},
};

/// Rows of a tile, and words of a row.
type Words = [[u32; PANEL]; PANEL];

/// The tile registers.
pub(crate) struct Twin {
    registers: [Words; 8],
    /// The vectors for which the plain loops are compiled. They change no bit of the results.
    vectors: Level,
}

impl Twin {
    pub(crate) fn new() -> Self {
        Self { registers: [[[0; PANEL]; PANEL]; 8], vectors: Level::vectors() }
    }

    /// `tileloadd` with adjacent rows.
    ///
    /// # Safety
    /// The tile is readable.
    unsafe fn load(&mut self, register: usize, from: *const Tile) {
        // SAFETY: the caller promises a readable tile, and every bit pattern is a valid word.
        self.registers[register] = unsafe { from.cast::<Words>().read() };
    }

    /// A step with one instruction: the loads, and four products or two.
    ///
    /// # Safety
    /// Each tile of weights and the first `height` tiles of inputs are readable.
    #[inline(never)]
    unsafe fn step(
        &mut self,
        (height, of_bytes): (usize, bool),
        x: [*const Tile; 2],
        w: [*const Tile; 2],
    ) {
        for at in 0..2 {
            // SAFETY: the caller's promise.
            unsafe {
                if at < height {
                    self.load(4 + at, x[at]);
                }
                self.load(6 + at, w[at]);
            }
        }
        let (sums, operands) = self.registers.split_at_mut(4);
        let (x, w) = operands.split_at(2);
        for (at, sums) in sums[..2 * height].iter_mut().enumerate() {
            let (x, w) = (&x[at / 2], &w[at % 2]);
            match of_bytes {
                true => self.vectors.run(AddBytes { sums, x, w }),
                false => self.vectors.run(AddPairs { sums, x, w }),
            }
        }
    }
}

/// `tdpbf16ps`.
struct AddPairs<'a> {
    sums: &'a mut Words,
    x: &'a Words,
    w: &'a Words,
}

impl Kernel for AddPairs<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (sums, x) in self.sums.iter_mut().zip(self.x) {
            let mut parts = [[0f32; PANEL]; 2];
            for (&x, w) in x.iter().zip(self.w) {
                for (half, parts) in parts.iter_mut().enumerate() {
                    let x = f64::from(upper(x, half));
                    for (part, &w) in parts.iter_mut().zip(w) {
                        *part = rounded(x * f64::from(upper(w, half)) + f64::from(*part));
                    }
                }
            }
            for (lane, sum) in sums.iter_mut().enumerate() {
                let both = rounded(f64::from(parts[0][lane]) + f64::from(parts[1][lane]));
                let before = normal(f32::from_bits(*sum));
                *sum = rounded(f64::from(before) + f64::from(both)).to_bits();
            }
        }
    }
}

/// `tdpbusd`.
struct AddBytes<'a> {
    sums: &'a mut Words,
    x: &'a Words,
    w: &'a Words,
}

impl Kernel for AddBytes<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (sums, x) in self.sums.iter_mut().zip(self.x) {
            for (&x, w) in x.iter().zip(self.w) {
                for (sum, &w) in sums.iter_mut().zip(w) {
                    for byte in 0..4 {
                        let (x, w) = ((x >> (8 * byte)) as u8, (w >> (8 * byte)) as i8);
                        *sum = sum.wrapping_add((i32::from(x) * i32::from(w)).cast_unsigned());
                    }
                }
            }
        }
    }
}

/// One of the two bf16 of a word as f32; the lower one is the first.
#[inline(always)]
fn upper(pair: u32, half: usize) -> f32 {
    normal(f32::from_bits(if half == 0 { pair << 16 } else { pair & 0xffff_0000 }))
}

/// Replaces a denormal number by zero of the same sign.
#[inline(always)]
fn normal(value: f32) -> f32 {
    if value.abs() < f32::MIN_POSITIVE { 0f32.copysign(value) } else { value }
}

/// Rounds an f64 to f32 as if there were one rounding. The sum of an f32 and a product of two bf16 (16 bits)
/// was rounded to f64 before, which changes nothing, because f64 has more than twice the bits of f32.
#[inline(always)]
fn rounded(value: f64) -> f32 {
    /// Numbers below this would round to less than 2^-126 if the exponent had no limit.
    const TINY: f64 = f32::MIN_POSITIVE as f64 * (1.0 - 1.0 / (1 << 25) as f64);
    if value.abs() < TINY { 0f32.copysign(value as f32) } else { value as f32 }
}

impl Unit for Twin {
    fn zero(&mut self) {
        self.registers[..4].fill([[0; PANEL]; PANEL]);
    }

    #[inline(always)]
    unsafe fn add_pairs<const HEIGHT: usize>(&mut self, x: [*const Tile; 2], w: [*const Tile; 2]) {
        // SAFETY: the caller's promise.
        unsafe { self.step((HEIGHT, false), x, w) }
    }

    #[inline(always)]
    unsafe fn add_split<const HEIGHT: usize>(&mut self, x: [*const Tile; 2], w: [*const Tile; 2]) {
        let behind = |tiles: [*const Tile; 2]| tiles.map(|tile| tile.wrapping_add(1));
        for (x, w) in [(behind(x), w), (x, w), (x, behind(w))] {
            // SAFETY: the caller's promise.
            unsafe { self.step((HEIGHT, false), x, w) };
        }
    }

    #[inline(always)]
    unsafe fn add_bytes<const HEIGHT: usize>(&mut self, x: [*const Tile; 2], w: [*const Tile; 2]) {
        // SAFETY: the caller's promise.
        unsafe { self.step((HEIGHT, true), x, w) }
    }

    #[inline(never)]
    unsafe fn store(&mut self, is_tall: bool, to: *mut i32, stride: usize) {
        let tiles = if is_tall { 4 } else { 2 };
        for (at, tile) in self.registers[..tiles].iter().enumerate() {
            for (row, words) in tile.iter().enumerate() {
                let to = to.wrapping_byte_add((at / 2 * PANEL + row) * stride);
                // SAFETY: the caller's promise.
                unsafe { to.add(at % 2 * PANEL).cast::<[u32; PANEL]>().write_unaligned(*words) };
            }
        }
    }

    fn prefetch(&self, _: *const u8) {}
}
