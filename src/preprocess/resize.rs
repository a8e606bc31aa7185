//! Antialiased resizing, value for value as Pillow's `Image.resize` does it on 8-bit pictures.
//!
//! Weights are computed in f64 and rounded to 22 bits behind the point, and each of the two passes rounds and
//! clips to a byte. Clipping in between makes the order of the passes visible where edges are hard (up to 27
//! levels of 255 with the bicubic filter), so the order is Pillow's too.

use std::{borrow::Cow, sync::LazyLock};

use image::RgbImage;
use siglip_kernels::{
    Level,
    resize::{LANES, PRECISION, weigh_columns, weigh_rows},
};

use super::{Pixels, Resample, filter::Filter};

/// Red, green and blue.
const CHANNELS: usize = 3;

/// The widest vectors of this processor. Integers: the choice changes no bit.
static LEVEL: LazyLock<Level> = LazyLock::new(Level::detect);

/// Resizes to `[height, width]`; the aspect ratio is the caller's to keep.
///
/// * `extent`: the rows and columns that count, in full where that is all of them
pub(super) fn resize(
    picture: RgbImage,
    extent: [f64; 2],
    to: [u32; 2],
    resample: Resample,
) -> Pixels {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let picture = Raster { width, height, data: picture.into_raw() };
    let across = Filter::new(resample, width, to[1] as usize).over(extent[1]);
    let down = Filter::new(resample, height, to[0] as usize).over(extent[0]);
    let resized = if vertical_first(&across, &down) {
        picture.vertical(&down).horizontal(&across)
    } else {
        picture.horizontal(&across).vertical(&down)
    };
    Pixels { height: to[0], width: to[1], data: resized.data.into() }
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
            .then(|| (0..filter.output).map(|index| Taps::new(filter, index)).collect());
        for (strip, out) in self.data.chunks(row * LANES).zip(data.chunks_mut(out_row * LANES)) {
            for (lane, line) in strip.chunks_exact(row).enumerate() {
                for (column, &value) in columns.iter_mut().zip(line) {
                    column[lane] = value;
                }
            }
            for index in 0..filter.output {
                let taps = table.as_ref().map_or_else(
                    || Cow::Owned(Taps::new(filter, index)),
                    |table| Cow::Borrowed(&table[index]),
                );
                for channel in 0..CHANNELS {
                    let first = taps.start * CHANNELS + channel;
                    let mut result = [0u8; LANES];
                    weigh_columns(
                        *LEVEL,
                        (&columns[first..], CHANNELS),
                        &taps.weights,
                        &mut result,
                    );
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
            let taps = Taps::new(filter, index);
            weigh_rows(*LEVEL, (&self.data[taps.start * row..], row), &taps.weights, out);
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

impl Taps {
    fn new(filter: &Filter, index: usize) -> Self {
        let (start, weights) = filter.weights(index);
        let fixed = |weight: f64| (weight * f64::from(1 << PRECISION)).round() as i32;
        Self { start, weights: weights.into_iter().map(fixed).collect() }
    }
}
