//! Antialiased resizing that gives the same values as Pillow's `Image.resize` on 8-bit images.
//!
//! Weights are computed in f64 and rounded to 22 fractional bits, and each of the two passes rounds and clips
//! to a byte. Because of the clipping, the order of the passes matters at hard edges (up to 27 levels of 255
//! with the bicubic filter), so the order is Pillow's too.

use std::{borrow::Cow, ops::Range, sync::LazyLock};

use image::RgbImage;
use siglip_kernels::{
    Level,
    resize::{LANES, PRECISION, weigh_columns, weigh_rows},
};

use super::{Pixels, Resample, filter::Filter, target::Plan};

/// Red, green and blue.
const CHANNELS: usize = 3;

/// The widest vectors of this processor. The arithmetic is in integers, so the choice changes no bit.
static LEVEL: LazyLock<Level> = LazyLock::new(Level::vectors);

/// Resizes and crops as the plan says. Rows and columns that are cropped away are not computed.
///
/// * `extent`: the valid rows and columns of the image
pub(super) fn resize(
    image: Cow<'_, RgbImage>,
    extent: [f64; 2],
    plan: &Plan,
    resample: Resample,
) -> Pixels {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let data = match image {
        Cow::Owned(image) => Cow::Owned(image.into_raw()),
        Cow::Borrowed(image) => Cow::Borrowed(&image.as_raw()[..]),
    };
    let image = Raster { top: 0, width, height, data };
    let [down, across] = [(height, 0), (width, 1)].map(|(side, axis)| {
        let filter = Filter::new(resample, side, plan.resized[axis]).over(extent[axis]);
        filter.within(plan.windows[axis].clone())
    });
    let image = image.rows(down.needed());
    let resized = if vertical_first(&across, &down) {
        image.vertical(&down).horizontal(&across)
    } else {
        image.horizontal(&across).vertical(&down)
    };
    resized.padded(plan)
}

/// Whether rows are resized first: if far more rows than columns are removed. This is Pillow 13's rule, found
/// by comparing its pixels with both orders on thousands of shapes. Earlier versions and torchvision always
/// begin with the columns.
fn vertical_first(across: &Filter, down: &Filter) -> bool {
    // The number of values that are removed; negative when enlarging.
    let gone = |filter: &Filter| filter.input as i64 - filter.output as i64;
    gone(down) > 0 && gone(down) > 2 * gone(across)
}

/// Some or all rows of an RGB image, from the top, channels innermost.
struct Raster<'i> {
    /// Rows of the image above the first row here.
    top: usize,
    width: usize,
    height: usize,
    data: Cow<'i, [u8]>,
}

impl Raster<'_> {
    /// Selects some rows of a whole image.
    fn rows(mut self, rows: Range<usize>) -> Self {
        if rows.len() < self.height {
            let row = self.width * CHANNELS;
            match &mut self.data {
                Cow::Owned(data) => {
                    data.truncate(rows.end * row);
                    data.drain(..rows.start * row);
                }
                Cow::Borrowed(data) => *data = &data[rows.start * row..rows.end * row],
            }
            (self.top, self.height) = (rows.start, rows.len());
        }
        self
    }

    /// The image in its final size, with black around it if it is smaller.
    fn padded(self, plan: &Plan) -> Pixels {
        let [height, width] = plan.size;
        let pixels = |data: &[u8]| Pixels { height, width, data: data.into() };
        let [rows, columns] = [height as usize, width as usize];
        if [self.height, self.width] == [rows, columns] {
            return pixels(&self.data);
        }
        let mut data = vec![0; rows * columns * CHANNELS];
        let lines = self.data.chunks_exact(self.width * CHANNELS);
        for (line, out) in
            lines.zip(data.chunks_exact_mut(columns * CHANNELS).skip(plan.padding[0]))
        {
            out[plan.padding[1] * CHANNELS..][..line.len()].copy_from_slice(line);
        }
        pixels(&data)
    }

    fn horizontal(self, filter: &Filter) -> Self {
        if filter.is_identity() {
            return self;
        }
        let (row, out_row) = (self.width * CHANNELS, filter.computed() * CHANNELS);
        let mut data = vec![0u8; out_row * self.height];
        // The values of a column in a strip of rows become adjacent, so that one weight multiplies a whole
        // vector.
        let mut columns = vec![[0u8; LANES]; row];
        // A single strip needs each weight once. A table of weights could take more memory than a very wide
        // image.
        let table: Option<Vec<Taps>> = (self.height > LANES)
            .then(|| (0..filter.computed()).map(|index| Taps::new(filter, index)).collect());
        for (strip, out) in self.data.chunks(row * LANES).zip(data.chunks_mut(out_row * LANES)) {
            for (lane, line) in strip.chunks_exact(row).enumerate() {
                for (column, &value) in columns.iter_mut().zip(line) {
                    column[lane] = value;
                }
            }
            for index in 0..filter.computed() {
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
        Self { width: filter.computed(), data: data.into(), ..self }
    }

    fn vertical(self, filter: &Filter) -> Self {
        if filter.is_identity() {
            return self;
        }
        let row = self.width * CHANNELS;
        let mut data = vec![0u8; row * filter.computed()];
        for (index, out) in data.chunks_exact_mut(row).enumerate() {
            let taps = Taps::new(filter, index);
            let first = (taps.start - self.top) * row;
            weigh_rows(*LEVEL, (&self.data[first..], row), &taps.weights, out);
        }
        Self { top: 0, width: self.width, height: filter.computed(), data: data.into() }
    }
}

/// The source values of one output value, and their weights times `2^PRECISION`.
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
