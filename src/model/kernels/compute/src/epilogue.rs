//! What is done to a product's sums, and where they are written.

use std::ops::Range;

use crate::{
    math,
    simd::{Out, PANEL, Simd},
};

/// What is done to each sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// GELU with the tanh approximation.
    GeluTanh,
    /// The exact GELU.
    GeluErf,
}

impl Activation {
    #[inline(always)]
    pub(crate) fn apply<S: Simd>(self, simd: S, x: S::F) -> S::F {
        match self {
            Self::None => x,
            Self::GeluTanh => math::gelu_tanh(simd, x),
            Self::GeluErf => math::gelu_erf(simd, x),
        }
    }
}

/// What is added to the result: rows of as many values as the result's, repeated from the first when they end.
#[derive(Debug, Clone, Copy)]
pub struct Residual<'a>(pub &'a [f32]);

/// What is done to a product before it is written, beside the bias that the weights bring along.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// First.
    pub activation: Activation,
    /// Then.
    pub residual: Option<Residual<'a>>,
}

/// Where a panel's lanes are in the rows of a result.
pub(crate) struct Place {
    /// Those that are columns of the result, which is narrower where a layer is cut or ends.
    lanes: Range<usize>,
    /// Where the first lane would be in a row.
    column: usize,
    /// Of a row.
    columns: usize,
}

impl Place {
    #[inline(always)]
    pub(crate) fn new(columns: &Range<usize>, panel: usize) -> Self {
        let origin = panel * PANEL;
        Self {
            lanes: columns.start.saturating_sub(origin)..(columns.end - origin).min(PANEL),
            column: origin.wrapping_sub(columns.start),
            columns: columns.len(),
        }
    }

    #[inline(always)]
    fn at(&self, row: usize) -> usize {
        (row * self.columns).wrapping_add(self.column)
    }

    /// # Safety
    /// The place is in the result, and initialised.
    #[inline(always)]
    pub(crate) unsafe fn read<S: Simd>(&self, simd: S, out: Out, row: usize) -> [S::F; 2] {
        // SAFETY: the caller's promise.
        unsafe { read_line(simd, out.0.wrapping_add(self.at(row)), &self.lanes) }
    }

    /// Writes a tile.
    ///
    /// * `first`: the result's row of the first line
    ///
    /// # Safety
    /// The tile is in the result, and no other thread's.
    #[inline(always)]
    pub(crate) unsafe fn write<S: Simd, const HEIGHT: usize>(
        &self,
        simd: S,
        (out, first): (Out, usize),
        sums: [[S::F; 2]; HEIGHT],
    ) {
        for (row, line) in sums.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                write_line(simd, out.0.wrapping_add(self.at(first + row)), &self.lanes, line);
            }
        }
    }

    /// Writes a tile after bias, activation and residual.
    ///
    /// * `first`: the result's row of the first line
    ///
    /// # Safety
    /// The tile is in the result, and no other thread's.
    #[inline(always)]
    pub(crate) unsafe fn finish<S: Simd, const HEIGHT: usize>(
        &self,
        simd: S,
        (epilogue, bias): (&Epilogue<'_>, &[f32; PANEL]),
        (out, first): (Out, usize),
        mut sums: [[S::F; 2]; HEIGHT],
    ) {
        // SAFETY: a line has 16 values.
        let bias = unsafe { read_line(simd, bias.as_ptr(), &(0..PANEL)) };
        for sums in &mut sums {
            for (sum, bias) in sums.iter_mut().zip(bias).take(PANEL / S::LANES) {
                *sum = simd.add(*sum, bias);
            }
        }
        // Each case apart: without an activation the sums never leave the registers on their way.
        if epilogue.activation != Activation::None {
            for sums in &mut sums {
                for sum in sums.iter_mut().take(PANEL / S::LANES) {
                    *sum = epilogue.activation.apply(simd, *sum);
                }
            }
        }
        if let Some(Residual(values)) = epilogue.residual {
            let mut at = first * self.columns % values.len();
            for sums in &mut sums {
                let from = values.as_ptr().wrapping_add(at.wrapping_add(self.column));
                // SAFETY: the residual has whole rows, as long as the result's.
                let residual = unsafe { read_line(simd, from, &self.lanes) };
                for (sum, residual) in sums.iter_mut().zip(residual).take(PANEL / S::LANES) {
                    *sum = simd.add(*sum, residual);
                }
                at += self.columns;
                if at == values.len() {
                    at = 0;
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.write(simd, (out, first), sums) };
    }
}

/// 16 adjacent values, of which some may not be there.
///
/// # Safety
/// The values `lanes` behind `from` are readable.
#[inline(always)]
pub(crate) unsafe fn read_line<S: Simd>(
    simd: S,
    from: *const f32,
    lanes: &Range<usize>,
) -> [S::F; 2] {
    let mut copy = [0f32; PANEL];
    let mut from = from;
    if lanes.len() < PANEL {
        for lane in lanes.clone() {
            // SAFETY: the caller's promise.
            copy[lane] = unsafe { from.wrapping_add(lane).read() };
        }
        from = copy.as_ptr();
    }
    let mut vectors = [simd.splat(0.0); 2];
    for (index, vector) in vectors.iter_mut().enumerate().take(PANEL / S::LANES) {
        // SAFETY: 16 values either way.
        *vector = unsafe { simd.load(from.add(index * S::LANES)) };
    }
    vectors
}

/// The opposite.
///
/// # Safety
/// The values `lanes` behind `to` are writable.
#[inline(always)]
pub(crate) unsafe fn write_line<S: Simd>(
    simd: S,
    to: *mut f32,
    lanes: &Range<usize>,
    vectors: &[S::F; 2],
) {
    let mut copy = [0f32; PANEL];
    let all = if lanes.len() < PANEL { copy.as_mut_ptr() } else { to };
    for (index, vector) in vectors.iter().enumerate().take(PANEL / S::LANES) {
        // SAFETY: 16 values either way.
        unsafe { simd.store(all.add(index * S::LANES), *vector) };
    }
    if lanes.len() < PANEL {
        for lane in lanes.clone() {
            // SAFETY: the caller's promise.
            unsafe { to.wrapping_add(lane).write(copy[lane]) };
        }
    }
}
