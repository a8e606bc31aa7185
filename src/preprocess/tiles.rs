//! Cuts one image into several views: the whole image, and the tiles of an enlargement. LLaVA calls this
//! `anyres`.
//!
//! This mirrors transformers' [`LlavaOnevisionImageProcessorPil`], because every rounding can change a row of
//! pixels.
//!
//! [`LlavaOnevisionImageProcessorPil`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/llava_onevision/image_processing_pil_llava_onevision.py

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Pixels;
use crate::checkpoint::{
    content::ReadError,
    fields::{Fields, count},
};

/// The key of `config.json` and of `preprocessor_config.json`.
const KEY: &str = "image_grid_pinpoints";

/// The sizes to which images may be resized before they are cut into tiles. There is at least one, and each is
/// a whole number of tiles high and wide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinpoints {
    /// Pixels of a tile's side.
    side: u32,
    /// Heights and widths. The first of several equally good sizes is chosen.
    sizes: Arc<[[u32; 2]]>,
}

/// Why sizes are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PinpointsError(String);

impl Pinpoints {
    /// The maximum number of sizes of a list. LLaVA-OneVision has 36.
    pub const MAX_SIZES: usize = 128;
    /// The maximum number of tiles of an image. LLaVA-OneVision has 36.
    pub const MAX_TILES: u64 = 64;

    /// * `sizes`: heights and widths; the first of several equally good sizes is chosen
    /// * `side`: pixels of a tile's side
    ///
    /// # Errors
    /// Says which size is not a whole number of tiles or has too many, or that there are none or too many sizes.
    pub fn new(sizes: &[[u32; 2]], side: u32) -> Result<Self, PinpointsError> {
        let fault = |message| Err(PinpointsError(message));
        if !(1..=Self::MAX_SIZES).contains(&sizes.len()) {
            let (found, most) = (sizes.len(), Self::MAX_SIZES);
            return fault(format!("{found} sizes; from 1 to {most} are read"));
        }
        for &[height, width] in sizes {
            let whole =
                |pixels: u32| pixels.checked_div(side).filter(|tiles| tiles * side == pixels);
            let tiles = match (whole(height), whole(width)) {
                (Some(rows), Some(columns)) => u64::from(rows) * u64::from(columns),
                _ => 0,
            };
            if !(1..=Self::MAX_TILES).contains(&tiles) {
                let most = Self::MAX_TILES;
                return fault(format!(
                    "[{height}, {width}] is no size in whole tiles of {side} x {side} pixels, from 1 to {most}"
                ));
            }
        }
        Ok(Self { side, sizes: sizes.into() })
    }

    /// Reads the sizes from a file of a checkpoint.
    ///
    /// # Errors
    /// Names the key at fault.
    pub fn read(fields: &Fields<'_>, side: u32) -> Result<Option<Self>, ReadError> {
        let pixels = |value: &Value| u32::try_from(count(value)?).ok();
        let size = |value: &Value| match &value.as_array()?[..] {
            [height, width] => Some([pixels(height)?, pixels(width)?]),
            _ => None,
        };
        let sizes = |value: &Value| value.as_array()?.iter().map(size).collect::<Option<Vec<_>>>();
        let sizes = fields.read(KEY, "a list of heights and widths", sizes)?;
        let own = |error| ReadError::new(format!("`{}`: {error}", fields.path(KEY)));
        sizes.map(|sizes| Self::new(&sizes, side).map_err(own)).transpose()
    }

    /// Heights and widths, in the order of preference among equals.
    #[must_use]
    pub fn sizes(&self) -> &[[u32; 2]] {
        &self.sizes
    }

    /// The maximum number of views of an image, whatever its size.
    #[must_use]
    pub fn max_views(&self) -> usize {
        let tiles = |&[height, width]: &[u32; 2]| (height / self.side) * (width / self.side);
        1 + self.sizes.iter().map(tiles).max().unwrap_or_default() as usize
    }

    /// The tiling of an image with these rows and columns.
    #[must_use]
    pub fn tiling(&self, image_size: [u32; 2]) -> Tiling {
        let best = self.best(image_size);
        let grid = best.map(|pixels| pixels / self.side);
        Tiling { image_size, side: self.side, grid, inner_size: inner_size(image_size, best) }
    }

    /// The size that keeps the most pixels of an image, and the smallest of several such sizes.
    fn best(&self, [height, width]: [u32; 2]) -> [u32; 2] {
        let (rows, columns) = (f64::from(height), f64::from(width));
        let pixels = i64::from(height) * i64::from(width);
        let (mut best, mut most, mut least) = (None, 0, i64::MAX);
        for &size in &*self.sizes {
            let scale = (f64::from(size[1]) / columns).min(f64::from(size[0]) / rows);
            // Rounding down removes a pixel if the product is slightly below a whole number.
            let kept = ((columns * scale) as i64 * (rows * scale) as i64).min(pixels);
            let wasted = i64::from(size[0]) * i64::from(size[1]) - kept;
            if kept > most || kept == most && wasted < least {
                (best, most, least) = (Some(size), kept, wasted);
            }
        }
        best.unwrap_or([self.side; 2])
    }
}

/// The largest size with the image's shape that fits. One side fits exactly, and the other one is rounded up.
fn inner_size([height, width]: [u32; 2], [rows, columns]: [u32; 2]) -> [u32; 2] {
    let down = f64::from(rows) / f64::from(height);
    let across = f64::from(columns) / f64::from(width);
    if across < down {
        [((f64::from(height) * across).ceil() as u32).min(rows), columns]
    } else {
        [rows, ((f64::from(width) * down).ceil() as u32).min(columns)]
    }
}

/// How one image is cut into views.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tiling {
    /// Rows and columns of the image, upright.
    pub image_size: [u32; 2],
    /// Pixels of a view's side.
    pub side: u32,
    /// Tiles: rows and columns.
    pub grid: [u32; 2],
    /// Rows and columns of the resized image, which is centred in the tiles with black around it.
    pub inner_size: [u32; 2],
}

impl Tiling {
    /// Views: the whole image, and the tiles.
    #[must_use]
    pub fn views(&self) -> usize {
        1 + self.grid[0] as usize * self.grid[1] as usize
    }

    /// Black rows and columns: top, left, bottom, right. An odd row or column is at the bottom or on the right.
    #[must_use]
    pub fn padding(&self) -> [u32; 4] {
        let spare =
            |axis: usize| (self.grid[axis] * self.side).saturating_sub(self.inner_size[axis]);
        let [top, left] = [spare(0) / 2, spare(1) / 2];
        [top, left, spare(0) - top, spare(1) - left]
    }

    /// Rows and columns of all views, stacked one below the other.
    #[must_use]
    pub fn stacked_size(&self) -> [u32; 2] {
        [self.side * (1 + self.grid[0] * self.grid[1]), self.side]
    }

    /// Pixels of all views.
    #[must_use]
    pub fn pixels(&self) -> u64 {
        self.stacked_size().into_iter().map(u64::from).product()
    }

    /// Bytes that making the views takes in addition to decoding: the resized image, the views, and a copy of
    /// them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        9 * self.pixels()
    }

    /// Splits the stacked views: the whole image first, then the tiles row by row.
    #[must_use]
    pub fn split(&self, stacked: &Pixels) -> Vec<Pixels> {
        let side = self.side;
        let view = |data: &[u8]| Pixels { height: side, width: side, data: data.into() };
        let bytes = side as usize * side as usize * 3;
        stacked.data.chunks_exact(bytes.max(1)).map(view).collect()
    }

    /// Stacks the views, one below the other.
    ///
    /// * `whole`: the image resized to a view
    /// * `inner`: the image resized to the inner size
    pub(super) fn stack(&self, whole: &Pixels, inner: &Pixels) -> Pixels {
        let [height, width] = self.stacked_size();
        let (row, side) = (self.side as usize * 3, self.side as usize);
        let mut data = vec![0; height as usize * row];
        let (first, tiles) = data.split_at_mut((side * row).min(whole.data.len()));
        first.copy_from_slice(&whole.data[..first.len()]);
        let [top, left, ..] = self.padding().map(|pixels| pixels as usize);
        let columns = self.grid[1] as usize;
        for (line, pixels) in inner.data.chunks_exact(inner.width as usize * 3).enumerate() {
            let (tile_row, in_tile) = ((top + line) / side, (top + line) % side);
            // From the first column of the resized image on, tile by tile.
            let (mut column, mut rest) = (left, pixels);
            while !rest.is_empty() {
                let (tile, from) = (tile_row * columns + column / side, column % side);
                let (piece, behind) = rest.split_at(rest.len().min((side - from) * 3));
                let at = (tile * side + in_tile) * row + from * 3;
                tiles[at..at + piece.len()].copy_from_slice(piece);
                (column, rest) = (column + piece.len() / 3, behind);
            }
        }
        Pixels { height, width, data: data.into() }
    }
}

#[cfg(test)]
mod tests;
