//! Finishes a product's sums (activation and residual) and writes them to the result.

use std::ops::Range;

use crate::{
    math,
    simd::{Out, PANEL, Simd},
};

/// The activation of each sum.
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

/// Rows that are added to the result. They have the length of the result's rows, and repeat from the first one
/// if there are fewer.
#[derive(Debug, Clone, Copy)]
pub struct Residual<'a>(pub &'a [f32]);

/// Operations on a product before it is written. The bias belongs to the weights and is added before.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// Applied to the sum first.
    pub activation: Activation,
    /// Added after the activation.
    pub residual: Option<Residual<'a>>,
}

/// The places of a register tile's two vectors in a row of the result.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    vectors: [Place; 2],
    /// Columns of the result.
    columns: usize,
}

#[derive(Debug, Clone)]
struct Place {
    /// The lanes that are columns of the result; fewer at the end of a layer or of a part of one.
    lanes: Range<usize>,
    /// The column of the first lane, as if all lanes were in the result.
    column: usize,
}

impl Places {
    /// * `columns`: the columns of the layer that the result has
    /// * `panels`: the panel of each vector; both are equal if a panel has two vectors, or if there is no
    ///   second panel
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

    /// Places without any lane.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn nowhere() -> Self {
        let place = || Place { lanes: 0..0, column: 0 };
        Self { vectors: [place(), place()], columns: 0 }
    }

    #[inline(always)]
    fn are_whole<S: Simd>(&self) -> bool {
        self.vectors.iter().all(|place| place.lanes.len() == S::LANES)
    }

    /// The addresses of both vectors in a row.
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

    /// Adds a tile to the values that are in its place.
    ///
    /// * `first`: the row of the result for the tile's first row
    ///
    /// # Safety
    /// The tile is inside the result and initialised, and no other thread accesses it.
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

    /// Writes a tile unchanged.
    ///
    /// * `first`: the row of the result for the tile's first row
    ///
    /// # Safety
    /// The tile is inside the result, and no other thread accesses it.
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
    /// * `first`: the row of the result for the tile's first row
    ///
    /// # Safety
    /// The tile is inside the result, and no other thread accesses it.
    #[inline(always)]
    pub(crate) unsafe fn finish<S: Simd, const HEIGHT: usize>(
        &self,
        simd: S,
        epilogue: &Epilogue<'_>,
        (out, first): (Out, usize),
        sums: [[S::F; 2]; HEIGHT],
    ) {
        // SAFETY: the caller promises the tile, and the residual has whole rows of the result's length.
        unsafe {
            match (epilogue.activation, epilogue.residual) {
                // The common cases are separate, so that the sums go directly from registers to the result.
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
    /// The address of the residual for a row of the result. The values are only read.
    #[inline(always)]
    fn row(&self, row: usize, columns: usize) -> *mut f32 {
        self.0.as_ptr().wrapping_add(row * columns % self.0.len()).cast_mut()
    }

    /// The address of the residual for the next row.
    #[inline(always)]
    fn behind(&self, row: *mut f32, columns: usize) -> *mut f32 {
        let next = row.wrapping_add(columns);
        match next.cast_const() == self.0.as_ptr_range().end {
            true => self.0.as_ptr().cast_mut(),
            false => next,
        }
    }
}

/// Reads the lanes `lanes` of a vector.
///
/// # Safety
/// The values at `lanes`, counted from `from`, are readable.
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
    // SAFETY: the array has `LANES` values, and so has `from` if all lanes are read.
    unsafe { simd.load(from) }
}

/// Writes only the lanes `lanes`; other values are not changed.
///
/// # Safety
/// The values at `lanes`, counted from `to`, are writable.
#[inline(always)]
unsafe fn write_lanes<S: Simd>(simd: S, to: *mut f32, lanes: &Range<usize>, vector: S::F) {
    if lanes.len() == S::LANES {
        // SAFETY: the caller's promise.
        return unsafe { simd.store(to, vector) };
    }
    let mut copy = [0f32; PANEL];
    // SAFETY: a vector has at most as many lanes as a panel has columns, and the caller promises the values.
    unsafe {
        simd.store(copy.as_mut_ptr(), vector);
        for lane in lanes.clone() {
            to.wrapping_add(lane).write(copy[lane]);
        }
    }
}

/// Reads those of 16 adjacent values that are in `lanes`.
///
/// # Safety
/// The values at `lanes`, counted from `from`, are readable.
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
        // SAFETY: the array has 16 values, and so has `from` if all lanes are read.
        *vector = unsafe { simd.load(from.add(index * S::LANES)) };
    }
    vectors
}

/// Writes only the lanes `lanes`; other values are not changed.
///
/// # Safety
/// The values at `lanes`, counted from `to`, are writable.
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
        // SAFETY: the array has 16 values, and so has `to` if all lanes are written.
        unsafe { simd.store(all.add(index * S::LANES), *vector) };
    }
    if lanes.len() < PANEL {
        for lane in lanes.clone() {
            // SAFETY: the caller's promise.
            unsafe { to.wrapping_add(lane).write(copy[lane]) };
        }
    }
}
