//! Weighted sums of bytes, in integers: every set of instructions gives the same.
//!
//! Plain loops, which the compiler turns into the vectors of each set.

use crate::{
    Level,
    simd::{Kernel, Simd},
};

/// Bits of a weight behind the point: of 32, 8 are the value's and 2 take the overshoot of negative lobes.
pub const PRECISION: u32 = 22;

/// Rows that [`weigh_columns`] treats side by side: the lanes of one vector.
pub const LANES: usize = 16;

/// Half of the last place kept, so that the shift rounds.
const HALF: i32 = 1 << (PRECISION - 1);

/// One result value for each lane, from every `step`-th column.
pub fn weigh_columns(
    level: Level,
    columns: (&[[u8; LANES]], usize),
    weights: &[i32],
    out: &mut [u8; LANES],
) {
    level.run(Columns { columns, weights, out });
}

/// One result row from adjacent source rows of `row` values.
///
/// * `rows`: the rows, and the values of each
pub fn weigh_rows(level: Level, rows: (&[u8], usize), weights: &[i32], out: &mut [u8]) {
    level.run(Rows { rows, weights, out });
}

struct Columns<'a> {
    columns: (&'a [[u8; LANES]], usize),
    weights: &'a [i32],
    out: &'a mut [u8; LANES],
}

impl Kernel for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let mut sums = [HALF; LANES];
        let (columns, step) = self.columns;
        for (column, &weight) in columns.iter().step_by(step).zip(self.weights) {
            for (sum, &value) in sums.iter_mut().zip(column) {
                *sum += i32::from(value) * weight;
            }
        }
        for (out, sum) in self.out.iter_mut().zip(sums) {
            *out = to_byte(sum);
        }
    }
}

struct Rows<'a> {
    rows: (&'a [u8], usize),
    weights: &'a [i32],
    out: &'a mut [u8],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        // So many sums stay in registers while the rows pass by.
        const WIDTH: usize = 64;
        let (rows, row) = self.rows;
        for (chunk, out) in self.out.chunks_mut(WIDTH).enumerate() {
            let mut sums = [HALF; WIDTH];
            for (line, &weight) in rows.chunks_exact(row).zip(self.weights) {
                let values = &line[chunk * WIDTH..];
                if let Some(values) = values.first_chunk::<WIDTH>() {
                    for (sum, &value) in sums.iter_mut().zip(values) {
                        *sum += i32::from(value) * weight;
                    }
                } else {
                    for (sum, &value) in sums.iter_mut().zip(values) {
                        *sum += i32::from(value) * weight;
                    }
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = to_byte(sum);
            }
        }
    }
}

#[inline(always)]
fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}
