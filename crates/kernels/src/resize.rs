//! Weighted sums of bytes, in integers, so that every instruction set gives the same bits.
//!
//! These are plain loops, which the compiler vectorises for each set.

use crate::{
    Level,
    simd::{Kernel, Simd},
};

/// Fractional bits of a weight. Of 32 bits, 8 are for the value and 2 for the overshoot of negative lobes.
pub const PRECISION: u32 = 22;

/// Rows that [`weigh_columns`] processes together: the lanes of one vector.
pub const LANES: usize = 16;

/// Half of the last kept bit, so that the shift rounds.
const HALF: i32 = 1 << (PRECISION - 1);

/// Computes one result value for each lane, from every `step`-th column.
pub fn weigh_columns(
    level: Level,
    columns: (&[[u8; LANES]], usize),
    weights: &[i32],
    out: &mut [u8; LANES],
) {
    level.run(Columns { columns, weights, out });
}

/// Computes one result row from adjacent source rows.
///
/// * `rows`: the source rows, and the number of values of each
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
        // This many sums stay in registers during the loop over the rows.
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
