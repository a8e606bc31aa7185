//! Products in tiles, which Intel's processors with AMX have.
//!
//! There are eight tile registers of 16 rows of 64 bytes. One instruction takes a tile of inputs, in a row of which are
//! 32 bf16 or 64 bytes of one row of a matrix, and a tile of weights, in a row of which are the two bf16 or four bytes
//! of each of 16 outputs, and adds the product of 16 x 16 values to a third tile.
//!
//! Tiles of weights are what packed weights consist of anyway: 16 lines of a panel. Inputs are put in the order of tiles
//! before a product. A step of the inner loop loads two tiles of inputs and two of weights for four products of 32 x 32
//! sums. While a step is under way some rows of the 32 x 32 before it get their bias, activation and residual, so that
//! the vector units work beside the tile unit.
//!
//! What the instructions do is behind [`Unit`]: the hardware's, in assembly, because the compiler's own names for them
//! are not stable; and a twin of each in plain Rust, with which everything around them is tested on any processor.

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

/// The contents of a tile register, in memory. Misaligned, each row would take two lines of the caches.
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

/// A block of 32 x 32 sums, f32 or i32, row by row: what four tile registers hold.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(crate) struct Sums(pub(crate) [[i32; BLOCK]; BLOCK]);

impl Sums {
    pub(crate) const ZERO: Self = Self([[0; BLOCK]; BLOCK]);

    /// The sums of a row and a vector of a panel, the first or the second.
    #[inline(always)]
    pub(crate) fn words<S: Simd>(&self, simd: S, row: usize, column: usize) -> S::I {
        let words = &self.0[row][column..column + S::LANES];
        // SAFETY: as many words are there.
        unsafe { simd.load_i32(words.as_ptr()) }
    }

    /// The same of f32.
    #[inline(always)]
    pub(crate) fn floats<S: Simd>(&self, simd: S, row: usize, column: usize) -> S::F {
        let words = &self.0[row][column..column + S::LANES];
        // SAFETY: as many words are there, and every pattern of bits is an f32.
        unsafe { simd.load(words.as_ptr().cast()) }
    }
}

/// What does the instructions on tiles. Its registers are four of sums, for two tiles of rows by two of columns, two of
/// inputs and two of weights.
///
/// `HEIGHT` is 2, or 1 where a block has no second tile of rows. Then the second tile of inputs is not read.
pub(crate) trait Unit {
    /// Makes all sums zero.
    fn zero(&mut self);
    /// Adds the products of pairs of bf16.
    ///
    /// # Safety
    /// Each tile is readable.
    unsafe fn add_pairs<const HEIGHT: usize>(&mut self, x: [*const Tile; 2], w: [*const Tile; 2]);
    /// Adds the products of values that are sums of two bf16, all but that of the two smaller ones. Each has two tiles:
    /// of the larger parts, and behind it of the smaller.
    ///
    /// # Safety
    /// Each tile and the one behind it are readable.
    unsafe fn add_split<const HEIGHT: usize>(&mut self, x: [*const Tile; 2], w: [*const Tile; 2]);
    /// Adds the products of fours of bytes: inputs without a sign, weights with one.
    ///
    /// # Safety
    /// Each tile is readable.
    unsafe fn add_bytes<const HEIGHT: usize>(&mut self, x: [*const Tile; 2], w: [*const Tile; 2]);
    /// Writes the sums: 32 words of each of 32 rows, or of 16.
    ///
    /// * `stride`: bytes from one row to the next
    ///
    /// # Safety
    /// The words are writable.
    unsafe fn store(&mut self, is_tall: bool, to: *mut i32, stride: usize);
    /// Asks for a line that is wanted later, in the second cache. Any address will do.
    fn prefetch(&self, address: *const u8);
}

/// What is multiplied.
pub(crate) trait Kind: Send + Sync + 'static {
    /// Tiles of one operand in a step.
    const TILES: usize;

    /// Adds the products of a step.
    ///
    /// # Safety
    /// Each pointer is at as many readable tiles.
    unsafe fn add<U: Unit, const HEIGHT: usize>(
        unit: &mut U,
        x: [*const Tile; 2],
        w: [*const Tile; 2],
    );
}

/// Pairs of bf16: 32 inputs a step.
pub(crate) struct Pairs;
/// Sums of two bf16: 32 inputs a step.
pub(crate) struct Split;
/// Bytes: 64 inputs a step.
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

/// Lines of a panel as tiles.
///
/// # Panics
/// If they are no whole number of tiles.
pub(crate) fn tiles_of<T>(lines: &[Line<T>]) -> &[Tile] {
    const { assert!(size_of::<Line<T>>() == 64) };
    assert!(lines.len().is_multiple_of(PANEL), "{} lines", lines.len());
    // SAFETY: 16 lines of 64 bytes each, which begin at a multiple of 64 and have no padding, and live as long.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() / PANEL) }
}

/// Work on tiles, which is compiled once for each set of instructions beside them. As for [`Kernel`], all is inlined.
pub(crate) trait TileKernel {
    fn run<S: Simd, U: Unit>(self, simd: S, unit: &mut U);
}

/// Work with the hardware's tiles, whose registers are in use from its beginning to its end only: a thread that has
/// nothing to do leaves none behind for the system to save.
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
        // SAFETY: whoever made this promised it.
        let mut unit = unsafe { Hardware::configure() };
        self.0.run(simd, &mut unit);
    }
}

/// The same in plain Rust.
pub(crate) struct OnTwin<K>(pub(crate) K);

impl<K: TileKernel> Kernel for OnTwin<K> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.0.run(simd, &mut Twin::new());
    }
}
