//! Antialiased resizing, value for value as Pillow's `Image.resize` does it on 8-bit pictures.
//!
//! Weights are computed in f64 and rounded to 22 bits behind the point, and each of the two passes rounds and
//! clips to a byte. Clipping in between makes the order of the passes visible where edges are hard (up to 27
//! levels of 255 with the bicubic filter), so the order is Pillow's too.

use std::borrow::Cow;

use image::RgbImage;

use super::{ImageSpec, Pixels, Resample};
use crate::dispatch::dispatched;

/// Red, green and blue.
const CHANNELS: usize = 3;

/// Bits behind the point: of 32, 8 are the value's and 2 take the overshoot of negative lobes.
const PRECISION: u32 = 22;

/// Rows that the horizontal pass treats side by side: the lanes of one vector.
const LANES: usize = 16;

/// Resizes to the size that the checkpoint asks for; the aspect ratio is not kept.
pub(super) fn resize(picture: RgbImage, spec: &ImageSpec) -> Pixels {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let picture = Raster { width, height, data: picture.into_raw() };
    let across = Filter::new(spec.resample, width, spec.width as usize);
    let down = Filter::new(spec.resample, height, spec.height as usize);
    let resized = if vertical_first(&across, &down) {
        picture.vertical(&down).horizontal(&across)
    } else {
        picture.horizontal(&across).vertical(&down)
    };
    Pixels { height: spec.height, width: spec.width, data: resized.data.into() }
}

/// Pillow 13's choice, found by comparing its pixels with both orders on thousands of shapes: when far
/// more rows than columns go. Earlier versions and torchvision always begin with the columns.
fn vertical_first(across: &Filter, down: &Filter) -> bool {
    // How many values go; negative when enlarging.
    let gone = |filter: &Filter| filter.input as i64 - filter.output as i64;
    gone(down) > 0 && gone(down) > 2 * gone(across)
}

/// An RGB picture, rows from the top, channels innermost.
struct Raster {
    width: usize,
    height: usize,
    data: Vec<u8>,
}

impl Raster {
    fn horizontal(self, filter: &Filter) -> Self {
        if filter.is_identity() {
            return self;
        }
        let (row, out_row) = (self.width * CHANNELS, filter.output * CHANNELS);
        let mut data = vec![0u8; out_row * self.height];
        // Columns of a strip of rows become adjacent, so that one weight meets a whole vector.
        let mut columns = vec![[0u8; LANES]; row];
        // A strip alone needs each weight once; a table of them could outweigh a very wide picture.
        let table: Option<Vec<Taps>> = (self.height > LANES)
            .then(|| (0..filter.output).map(|index| filter.taps(index)).collect());
        for (strip, out) in self.data.chunks(row * LANES).zip(data.chunks_mut(out_row * LANES)) {
            for (lane, line) in strip.chunks_exact(row).enumerate() {
                for (column, &value) in columns.iter_mut().zip(line) {
                    column[lane] = value;
                }
            }
            for index in 0..filter.output {
                let taps = table.as_ref().map_or_else(
                    || Cow::Owned(filter.taps(index)),
                    |table| Cow::Borrowed(&table[index]),
                );
                for channel in 0..CHANNELS {
                    let first = taps.start * CHANNELS + channel;
                    let mut result = [0u8; LANES];
                    weigh_columns(&columns[first..], &taps.weights, &mut result);
                    let at = index * CHANNELS + channel;
                    for (line, value) in out.chunks_exact_mut(out_row).zip(result) {
                        line[at] = value;
                    }
                }
            }
        }
        Self { width: filter.output, height: self.height, data }
    }

    fn vertical(self, filter: &Filter) -> Self {
        if filter.is_identity() {
            return self;
        }
        let row = self.width * CHANNELS;
        let mut data = vec![0u8; row * filter.output];
        for (index, out) in data.chunks_exact_mut(row).enumerate() {
            let taps = filter.taps(index);
            weigh_rows(&self.data[taps.start * row..], row, &taps.weights, out);
        }
        Self { width: self.width, height: filter.output, data }
    }
}

/// The source values that one result value is made of, and their weights times `2^PRECISION`.
#[derive(Debug, Clone)]
struct Taps {
    start: usize,
    weights: Vec<i32>,
}

/// A one-dimensional resize from `input` to `output` values.
struct Filter {
    input: usize,
    output: usize,
    resample: Resample,
}

impl Filter {
    fn new(resample: Resample, input: usize, output: usize) -> Self {
        Self { input, output, resample }
    }

    /// A side that has its size already is left alone.
    fn is_identity(&self) -> bool {
        self.input == self.output
    }

    /// The weights of one result value: the kernel, widened by the scale when shrinking, sampled at
    /// the centres of the source values and made to sum to one.
    fn taps(&self, index: usize) -> Taps {
        let scale = self.input as f64 / self.output as f64;
        let widening = scale.max(1.0);
        let support = self.resample.support() * widening;
        let center = (index as f64 + 0.5) * scale;
        // Float to integer casts round towards zero and saturate, as needed at the left edge.
        let start = (center - support + 0.5) as usize;
        let end = ((center + support + 0.5) as usize).min(self.input);
        let inverse = 1.0 / widening;
        let weights: Vec<f64> = (start..end)
            .map(|at| self.resample.kernel((at as f64 - center + 0.5) * inverse))
            .collect();
        let sum: f64 = weights.iter().sum();
        let factor = if sum == 0.0 { 1.0 } else { sum };
        let weights = weights
            .into_iter()
            .map(|weight| (weight / factor * f64::from(1 << PRECISION)).round() as i32)
            .collect();
        Taps { start, weights }
    }
}

impl Resample {
    /// Source values on each side that have a weight, when not shrinking.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn kernel(self, x: f64) -> f64 {
        /// The slope at 1. OpenCV has -0.75 here, and its pictures differ visibly.
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            Self::Bicubic => 0.0,
        }
    }
}

/// Half of the last place kept, so that the shift rounds.
const HALF: i32 = 1 << (PRECISION - 1);

#[inline(always)]
fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

dispatched! {
    /// One result value for each lane, from the columns of one channel.
    fn weigh_columns(columns: &[[u8; LANES]], weights: &[i32], out: &mut [u8; LANES]) =
        weigh_columns_body
}

#[inline(always)]
fn weigh_columns_body(columns: &[[u8; LANES]], weights: &[i32], out: &mut [u8; LANES]) {
    let mut sums = [HALF; LANES];
    for (column, &weight) in columns.iter().step_by(CHANNELS).zip(weights) {
        for (sum, &value) in sums.iter_mut().zip(column) {
            *sum += i32::from(value) * weight;
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = to_byte(sum);
    }
}

dispatched! {
    /// One result row from adjacent source rows of `row` values.
    fn weigh_rows(rows: &[u8], row: usize, weights: &[i32], out: &mut [u8]) = weigh_rows_body
}

#[inline(always)]
fn weigh_rows_body(rows: &[u8], row: usize, weights: &[i32], out: &mut [u8]) {
    // So many sums stay in registers while the rows pass by.
    const WIDTH: usize = 64;
    for (chunk, out) in out.chunks_mut(WIDTH).enumerate() {
        let mut sums = [HALF; WIDTH];
        for (line, &weight) in rows.chunks_exact(row).zip(weights) {
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
