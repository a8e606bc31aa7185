//! Converts luma and chroma to RGB, one row at a time.

/// How samples map to colours (ITU-T H.273).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Meaning {
    /// `matrix_coefficients`.
    pub(super) matrix: u16,
    /// Whether samples use their full range instead of the video range.
    pub(super) full_range: bool,
}

impl Meaning {
    /// Whether this file knows the matrix.
    pub(super) fn is_known(self) -> bool {
        matches!(self.matrix, 0 | 1 | 2 | 4..=9)
    }

    /// The share of red and of blue in luma.
    fn weights(self) -> (f32, f32) {
        match self.matrix {
            1 => (0.2126, 0.0722),
            4 => (0.30, 0.11),
            7 => (0.212, 0.087),
            9 => (0.2627, 0.0593),
            // 5, 6, and what is not specified: BT.601.
            _ => (0.299, 0.114),
        }
    }
}

/// How chroma with fewer samples than luma is upsampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Widening {
    /// Each sample stands for all its pixels, as libheif has it.
    #[cfg_attr(not(feature = "heic"), expect(dead_code, reason = "HEVC's alone"))]
    Nearest,
    /// Three quarters of the nearer sample and a quarter of the next, each way, as libavif has it.
    Linear,
}

/// A decoded image's samples.
pub(super) trait Samples {
    /// The colours that the stream declares.
    fn meaning(&self) -> Meaning;
    /// How chroma is widened.
    fn widening(&self) -> Widening;
    /// Columns and rows of luma.
    fn size(&self) -> (usize, usize);
    /// Bits of a sample.
    fn bits(&self) -> u32;
    /// The columns and rows of luma that one sample of chroma covers; none for grey images.
    fn chroma(&self) -> Option<(usize, usize)>;
    /// Reads a row of a plane (luma, blue, red) from its start.
    fn row(&self, plane: usize, y: usize, into: &mut [f32]);
}

/// Writes an image's colours or alpha as bytes, row by row.
pub(super) struct Painter<'s> {
    samples: &'s dyn Samples,
    meaning: Meaning,
    /// Columns on the left that are not written.
    skipped: usize,
    luma: Vec<f32>,
    chroma: [Vec<f32>; 2],
    near: Vec<f32>,
    far: Vec<f32>,
}

/// Scales samples to numbers from 0 to 1, or around 0 for chroma.
struct Scale {
    floor: f32,
    luma: f32,
    middle: f32,
    chroma: f32,
}

impl<'s> Painter<'s> {
    pub(super) fn new(samples: &'s dyn Samples, meaning: Meaning) -> Self {
        let (width, _) = samples.size();
        let narrow = samples.chroma().map_or(0, |(x, _)| width.div_ceil(x));
        let row = || vec![0.0; width];
        let chroma = [row(), row()];
        let (near, far) = (vec![0.0; narrow], vec![0.0; narrow]);
        Self { samples, meaning, skipped: 0, luma: row(), chroma, near, far }
    }

    /// Skips columns on the left.
    pub(super) fn skip(&mut self, columns: usize) {
        self.skipped = columns;
    }

    fn scale(&self) -> Scale {
        let bits = self.samples.bits();
        let largest = ((1_u32 << bits) - 1) as f32;
        let unit = (1_u32 << (bits - 8)) as f32;
        let middle = 128.0 * unit;
        match self.meaning.full_range {
            true => Scale { floor: 0.0, luma: largest, middle, chroma: largest },
            false => Scale { floor: 16.0 * unit, luma: 219.0 * unit, middle, chroma: 224.0 * unit },
        }
    }

    /// Writes a row of RGB and does not change a fourth channel.
    ///
    /// * `channels`: bytes of a pixel
    pub(super) fn paint(&mut self, y: usize, channels: usize, into: &mut [u8]) {
        let scale = self.scale();
        self.samples.row(0, y, &mut self.luma);
        let Some(step) = self.samples.chroma() else {
            let pixels = into.chunks_exact_mut(channels).zip(&self.luma[self.skipped..]);
            for (pixel, luma) in pixels {
                pixel[..3].fill(byte((luma - scale.floor) / scale.luma));
            }
            return;
        };
        for plane in 0..2 {
            self.widen(plane, y, step);
        }
        let (red, blue) = self.meaning.weights();
        let green = 1.0 - red - blue;
        let pixels = into.chunks_exact_mut(channels).zip(&self.luma[self.skipped..]);
        let chroma = self.chroma[0][self.skipped..].iter().zip(&self.chroma[1][self.skipped..]);
        for ((pixel, luma), (first, second)) in pixels.zip(chroma) {
            let y = (luma - scale.floor) / scale.luma;
            let (cb, cr) =
                ((first - scale.middle) / scale.chroma, (second - scale.middle) / scale.chroma);
            let rgb = match self.meaning.matrix {
                // The planes are green, blue and red.
                0 => [(second - scale.floor) / scale.luma, y, (first - scale.floor) / scale.luma],
                // The planes are luma, green and orange.
                8 => [y - cb + cr, y + cb, y - cb - cr],
                _ => {
                    let r = y + 2.0 * (1.0 - red) * cr;
                    let b = y + 2.0 * (1.0 - blue) * cb;
                    [r, (y - red * r - blue * b) / green, b]
                }
            };
            for (channel, value) in pixel.iter_mut().zip(rgb) {
                *channel = byte(value);
            }
        }
    }

    /// Writes a row of luma into the fourth channel.
    pub(super) fn paint_alpha(&mut self, y: usize, into: &mut [u8]) {
        let scale = self.scale();
        self.samples.row(0, y, &mut self.luma);
        let pixels = into.as_chunks_mut::<4>().0.iter_mut();
        for (pixel, luma) in pixels.zip(&self.luma[self.skipped..]) {
            pixel[3] = byte((luma - scale.floor) / scale.luma);
        }
    }

    /// Upsamples the chroma of a row to the width of luma.
    fn widen(&mut self, plane: usize, y: usize, (step_x, step_y): (usize, usize)) {
        let (width, height) = self.samples.size();
        let linear = self.samples.widening() == Widening::Linear;
        let rows = height.div_ceil(step_y);
        let row = (y / step_y).min(rows - 1);
        self.samples.row(plane + 1, row, &mut self.near);
        if linear && step_y == 2 {
            let next =
                if y.is_multiple_of(2) { row.saturating_sub(1) } else { (row + 1).min(rows - 1) };
            self.samples.row(plane + 1, next, &mut self.far);
            for (near, far) in self.near.iter_mut().zip(&self.far) {
                *near = *near * 0.75 + *far * 0.25;
            }
        }
        let last = self.near.len() - 1;
        for (x, chroma) in self.chroma[plane].iter_mut().enumerate() {
            let at = (x / step_x).min(last);
            *chroma = self.near[at];
            // The last pixel of an odd row is not interpolated, as in libyuv.
            if linear && step_x == 2 && x + 1 < width {
                let next = if x % 2 == 0 { at.saturating_sub(1) } else { (at + 1).min(last) };
                *chroma = *chroma * 0.75 + self.near[next] * 0.25;
            }
        }
    }
}

/// Converts a number from 0 to 1 to the nearest byte; other numbers are clamped.
fn byte(value: f32) -> u8 {
    // The cast saturates.
    (value * 255.0 + 0.5) as u8
}
