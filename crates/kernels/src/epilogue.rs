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
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
}

impl Activation {
    #[inline(always)]
    pub(crate) fn apply<S: Simd>(self, simd: S, x: S::F) -> S::F {
        match self {
            Self::None => x,
            Self::GeluTanh => math::gelu_tanh(simd, x),
            Self::GeluErf => math::gelu_erf(simd, x),
            Self::QuickGelu => math::quick_gelu(simd, x),
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

/// Where the two vectors of a register tile's rows are in the rows of a result.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    vectors: [Place; 2],
    /// Of a row of the result.
    columns: usize,
}

#[derive(Debug, Clone)]
struct Place {
    /// Those lanes that are columns of the result, which is narrower where a layer is cut or ends.
    lanes: Range<usize>,
    /// Where the first lane would be in a row.
    column: usize,
}

impl Places {
    /// * `columns`: of the layer, that are the result's
    /// * `panels`: of each vector; the same where it has two, or where the second has none
    #[inline(always)]
    pub(crate) fn new<S: Simd>(columns: &Range<usize>, panels: [usize; 2]) -> Self {
        let place = |origin: usize, lanes: usize| {
            let lane = |column: usize| column.saturating_sub(origin).min(lanes);
            let lanes = lane(columns.start)..lane(columns.end);
            Place { lanes, column: origin.wrapping_sub(columns.start) }
        };
        let first = place(panels[0] * PANEL, S::LANES);
        let second = match S::LANES < PANEL {
            true => place(panels[0] * PANEL + S::LANES, S::LANES),
            false if panels[1] == panels[0] => place(columns.end, 0),
            false => place(panels[1] * PANEL, S::LANES),
        };
        Self { vectors: [first, second], columns: columns.len() }
    }

    /// None at all.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn nowhere() -> Self {
        let place = || Place { lanes: 0..0, column: 0 };
        Self { vectors: [place(), place()], columns: 0 }
    }

    #[inline(always)]
    fn are_whole<S: Simd>(&self) -> bool {
        self.vectors.iter().all(|place| place.lanes.len() == S::LANES)
    }

    /// Where a row would begin.
    #[inline(always)]
    fn row(&self, values: *mut f32, row: usize) -> [*mut f32; 2] {
        let row = values.wrapping_add(row * self.columns);
        [row.wrapping_add(self.vectors[0].column), row.wrapping_add(self.vectors[1].column)]
    }

    /// # Safety
    /// The places are readable.
    #[inline(always)]
    unsafe fn read<S: Simd>(&self, simd: S, from: [*mut f32; 2]) -> [S::F; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            [
                read_lanes(simd, from[0], &self.vectors[0].lanes),
                read_lanes(simd, from[1], &self.vectors[1].lanes),
            ]
        }
    }

    /// # Safety
    /// The places are writable.
    #[inline(always)]
    unsafe fn write<S: Simd>(&self, simd: S, to: [*mut f32; 2], values: [S::F; 2]) {
        // SAFETY: the caller's promise.
        unsafe {
            write_lanes(simd, to[0], &self.vectors[0].lanes, values[0]);
            write_lanes(simd, to[1], &self.vectors[1].lanes, values[1]);
        }
    }

    /// A tile and what was put in its place before.
    ///
    /// * `first`: the result's row of the first line
    ///
    /// # Safety
    /// The tile is in the result, initialised, and no other thread's.
    #[inline(always)]
    pub(crate) unsafe fn add<S: Simd, const HEIGHT: usize>(
        &self,
        simd: S,
        (out, first): (Out, usize),
        mut sums: [[S::F; 2]; HEIGHT],
    ) -> [[S::F; 2]; HEIGHT] {
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let before = unsafe { self.read(simd, self.row(out.0, first + row)) };
            *sums = [simd.add(sums[0], before[0]), simd.add(sums[1], before[1])];
        }
        sums
    }

    /// Writes a tile as it is.
    ///
    /// * `first`: the result's row of the first line
    ///
    /// # Safety
    /// The tile is in the result, and no other thread's.
    #[inline(always)]
    pub(crate) unsafe fn put<S: Simd, const HEIGHT: usize>(
        &self,
        simd: S,
        (out, first): (Out, usize),
        sums: [[S::F; 2]; HEIGHT],
    ) {
        for (row, sums) in sums.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { self.write(simd, self.row(out.0, first + row), sums) };
        }
    }

    /// Writes a tile after activation and residual.
    ///
    /// * `first`: the result's row of the first line
    ///
    /// # Safety
    /// The tile is in the result, and no other thread's.
    #[inline(always)]
    pub(crate) unsafe fn finish<S: Simd, const HEIGHT: usize>(
        &self,
        simd: S,
        epilogue: &Epilogue<'_>,
        (out, first): (Out, usize),
        sums: [[S::F; 2]; HEIGHT],
    ) {
        // SAFETY: the caller's promise; the residual has whole rows, as long as the result's.
        unsafe {
            match (epilogue.activation, epilogue.residual) {
                // The usual cases apart: the sums go from their registers to the result.
                (Activation::None, None) if self.are_whole::<S>() => {
                    for (row, sums) in sums.iter().enumerate() {
                        let to = self.row(out.0, first + row);
                        simd.store(to[0], sums[0]);
                        simd.store(to[1], sums[1]);
                    }
                }
                (Activation::None, Some(residual)) if self.are_whole::<S>() => {
                    let mut from = residual.row(first, self.columns);
                    for (row, sums) in sums.iter().enumerate() {
                        let (to, values) = (self.row(out.0, first + row), self.row(from, 0));
                        simd.store(to[0], simd.add(sums[0], simd.load(values[0])));
                        simd.store(to[1], simd.add(sums[1], simd.load(values[1])));
                        from = residual.behind(from, self.columns);
                    }
                }
                (activation, residual) => {
                    let mut from = residual.map(|values| values.row(first, self.columns));
                    for (row, sums) in sums.iter().enumerate() {
                        let mut values =
                            [activation.apply(simd, sums[0]), activation.apply(simd, sums[1])];
                        if let (Some(residual), Some(from)) = (residual, &mut from) {
                            let residuals = self.read(simd, self.row(*from, 0));
                            values = [
                                simd.add(values[0], residuals[0]),
                                simd.add(values[1], residuals[1]),
                            ];
                            *from = residual.behind(*from, self.columns);
                        }
                        self.write(simd, self.row(out.0, first + row), values);
                    }
                }
            }
        }
    }
}

impl Residual<'_> {
    /// Where the values of a row of the result begin. They are only read.
    #[inline(always)]
    fn row(&self, row: usize, columns: usize) -> *mut f32 {
        self.0.as_ptr().wrapping_add(row * columns % self.0.len()).cast_mut()
    }

    /// Where those of the row behind it do.
    #[inline(always)]
    fn behind(&self, row: *mut f32, columns: usize) -> *mut f32 {
        let next = row.wrapping_add(columns);
        match next.cast_const() == self.0.as_ptr_range().end {
            true => self.0.as_ptr().cast_mut(),
            false => next,
        }
    }
}

/// A vector, of which some lanes may not be there.
///
/// # Safety
/// The values `lanes` behind `from` are readable.
#[inline(always)]
unsafe fn read_lanes<S: Simd>(simd: S, from: *const f32, lanes: &Range<usize>) -> S::F {
    let mut copy = [0f32; PANEL];
    let mut from = from;
    if lanes.len() < S::LANES {
        for lane in lanes.clone() {
            // SAFETY: the caller's promise.
            copy[lane] = unsafe { from.wrapping_add(lane).read() };
        }
        from = copy.as_ptr();
    }
    // SAFETY: as many values either way.
    unsafe { simd.load(from) }
}

/// The opposite.
///
/// # Safety
/// The values `lanes` behind `to` are writable.
#[inline(always)]
unsafe fn write_lanes<S: Simd>(simd: S, to: *mut f32, lanes: &Range<usize>, vector: S::F) {
    if lanes.len() == S::LANES {
        // SAFETY: the caller's promise.
        return unsafe { simd.store(to, vector) };
    }
    let mut copy = [0f32; PANEL];
    // SAFETY: no vector has more lanes than a panel has columns; and the caller's promise.
    unsafe {
        simd.store(copy.as_mut_ptr(), vector);
        for lane in lanes.clone() {
            to.wrapping_add(lane).write(copy[lane]);
        }
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
