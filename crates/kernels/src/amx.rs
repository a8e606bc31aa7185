//! Products in tiles, for Intel's processors with AMX.
//!
//! There are eight tile registers with 16 rows of 64 bytes. One instruction multiplies a tile of inputs with a
//! tile of weights and adds the 16 x 16 results to a third tile. A row of the input tile has 32 bf16 or 64
//! bytes of one row of a matrix. A row of the weight tile has two bf16 or four bytes for each of 16 outputs.
//!
//! A tile of weights is 16 lines of a panel, which is how weights are packed anyway. Inputs are put into the
//! order of tiles before a product. A step of the inner loop loads two tiles of inputs and two of weights for
//! four products, which are 32 x 32 sums. During a step, some rows of the previous 32 x 32 sums get their bias,
//! activation and residual, so that the vector units and the tile unit work at the same time.
//!
//! The trait [`Unit`] has the instructions. The hardware's are in assembly, because the compiler's names for
//! them are not stable. A twin in plain Rust lets everything around them be tested on any processor.

mod blocks;
mod hardware;
mod inputs;
mod product;
#[cfg(test)]
mod tests;
mod twin;

pub(crate) use self::{
    blocks::{Nothing, multiply},
    hardware::{Hardware, Refusal, granted},
    inputs::{ROWS_OF_TILE, pack_rows},
    product::{product, quantized_product},
    twin::Twin,
};
use crate::{
    packed::Line,
    simd::{Kernel, PANEL, Simd},
};

/// The contents of a tile register in memory. It is aligned, because a misaligned row would take two cache
/// lines.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Tile(pub(crate) [u8; 1024]);

impl Tile {
    pub(crate) const ZERO: Self = Self([0; 1024]);
}

/// Rows of a block of sums: those of two tiles.
pub(crate) const BLOCK: usize = 32;

/// Bytes of a row of [`Sums`].
pub(crate) const ROW_OF_SUMS: usize = 4 * BLOCK;

/// A block of 32 x 32 sums, f32 or i32, row by row: the contents of four tile registers.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(crate) struct Sums(pub(crate) [[i32; BLOCK]; BLOCK]);

impl Sums {
    pub(crate) const ZERO: Self = Self([[0; BLOCK]; BLOCK]);

    /// A vector of integer sums of one row, from a column on.
    #[inline(always)]
    pub(crate) fn words<S: Simd>(&self, simd: S, row: usize, column: usize) -> S::I {
        let words = &self.0[row][column..column + S::LANES];
        // SAFETY: the slice has `LANES` words.
        unsafe { simd.load_i32(words.as_ptr()) }
    }

    /// A vector of f32 sums of one row, from a column on.
    #[inline(always)]
    pub(crate) fn floats<S: Simd>(&self, simd: S, row: usize, column: usize) -> S::F {
        let words = &self.0[row][column..column + S::LANES];
        // SAFETY: the slice has `LANES` words, and every bit pattern is a valid f32.
        unsafe { simd.load(words.as_ptr().cast()) }
    }
}

/// Executes the instructions on tiles. Its registers are four tiles of sums (two tiles of rows by two of
/// columns), two of inputs and two of weights.
///
/// `HEIGHT` is 2, or 1 if a block has no second tile of rows. In that case the second tile of inputs is not
/// read.
pub(crate) trait Unit {
    /// Makes all sums zero.
    fn zero(&mut self);
    /// Adds the products of pairs of bf16.
    ///
    /// # Safety
    /// Each tile is readable.
    unsafe fn add_pairs<const HEIGHT: usize>(&mut self, x: [*const Tile; 2], w: [*const Tile; 2]);
    /// Adds the products of values that are sums of two bf16, without the product of the two smaller parts.
    /// Each operand has two adjacent tiles: first the larger parts, then the smaller ones.
    ///
    /// # Safety
    /// Each tile and the one after it are readable.
    unsafe fn add_split<const HEIGHT: usize>(&mut self, x: [*const Tile; 2], w: [*const Tile; 2]);
    /// Adds the products of groups of four bytes: unsigned inputs, signed weights.
    ///
    /// # Safety
    /// Each tile is readable.
    unsafe fn add_bytes<const HEIGHT: usize>(&mut self, x: [*const Tile; 2], w: [*const Tile; 2]);
    /// Writes the sums: 32 words of each of 32 rows, or of 16 rows.
    ///
    /// * `stride`: bytes from one row to the next
    ///
    /// # Safety
    /// The words are writable.
    unsafe fn store(&mut self, is_tall: bool, to: *mut i32, stride: usize);
    /// Prefetches a cache line into the second-level cache. Any address is allowed.
    fn prefetch(&self, address: *const u8);
}

/// The kind of operands.
pub(crate) trait Kind: Send + Sync + 'static {
    /// Tiles of one operand in a step.
    const TILES: usize;

    /// Adds the products of a step.
    ///
    /// # Safety
    /// `TILES` tiles are readable at each pointer.
    unsafe fn add<U: Unit, const HEIGHT: usize>(
        unit: &mut U,
        x: [*const Tile; 2],
        w: [*const Tile; 2],
    );
}

/// Pairs of bf16: 32 inputs per step.
pub(crate) struct Pairs;
/// Sums of two bf16: 32 inputs per step.
pub(crate) struct Split;
/// Bytes: 64 inputs per step.
pub(crate) struct FourBytes;

impl Kind for Pairs {
    const TILES: usize = 1;

    #[inline(always)]
    unsafe fn add<U: Unit, const HEIGHT: usize>(
        unit: &mut U,
        x: [*const Tile; 2],
        w: [*const Tile; 2],
    ) {
        // SAFETY: the caller's promise.
        unsafe { unit.add_pairs::<HEIGHT>(x, w) }
    }
}

impl Kind for Split {
    const TILES: usize = 2;

    #[inline(always)]
    unsafe fn add<U: Unit, const HEIGHT: usize>(
        unit: &mut U,
        x: [*const Tile; 2],
        w: [*const Tile; 2],
    ) {
        // SAFETY: the caller's promise.
        unsafe { unit.add_split::<HEIGHT>(x, w) }
    }
}

impl Kind for FourBytes {
    const TILES: usize = 1;

    #[inline(always)]
    unsafe fn add<U: Unit, const HEIGHT: usize>(
        unit: &mut U,
        x: [*const Tile; 2],
        w: [*const Tile; 2],
    ) {
        // SAFETY: the caller's promise.
        unsafe { unit.add_bytes::<HEIGHT>(x, w) }
    }
}

/// Views lines of a panel as tiles.
///
/// # Panics
/// If the lines are not a whole number of tiles.
pub(crate) fn tiles_of<T>(lines: &[Line<T>]) -> &[Tile] {
    const { assert!(size_of::<Line<T>>() == 64) };
    assert!(lines.len().is_multiple_of(PANEL), "{} lines", lines.len());
    // SAFETY: a tile is 16 lines of 64 bytes. The lines are aligned to 64 bytes, have no padding, and live as
    // long as the result.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() / PANEL) }
}

/// Work on tiles, which is compiled once for each instruction set of the vectors. As for [`Kernel`], everything
/// must be inlined.
pub(crate) trait TileKernel {
    fn run<S: Simd, U: Unit>(self, simd: S, unit: &mut U);
}

/// Work with the hardware's tiles. The tile registers are in use only from its beginning to its end, so that
/// the system need not save them for an idle thread.
pub(crate) struct OnHardware<K>(K);

impl<K> OnHardware<K> {
    /// # Safety
    /// The processor has AMX for bf16 and bytes, and the system lets this process use it.
    pub(crate) unsafe fn new(kernel: K) -> Self {
        Self(kernel)
    }
}

impl<K: TileKernel> Kernel for OnHardware<K> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // SAFETY: the caller of `new` promised that the processor has AMX and that this process may use it.
        let mut unit = unsafe { Hardware::configure() };
        self.0.run(simd, &mut unit);
    }
}

/// Work with the twin in plain Rust.
pub(crate) struct OnTwin<K>(pub(crate) K);

impl<K: TileKernel> Kernel for OnTwin<K> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.0.run(simd, &mut Twin::new());
    }
}
