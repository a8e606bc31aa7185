//! The size after resizing and cropping.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// The size after resizing and cropping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetSize {
    /// One size for every image; the aspect ratio is not kept.
    Fixed {
        /// Rows.
        height: u32,
        /// Columns.
        width: u32,
    },
    /// One size for every image: the image is resized and its middle is cut out. A smaller image is centred on
    /// black.
    Crop {
        /// The size before the crop.
        resize: Resize,
        /// Rows.
        height: u32,
        /// Columns.
        width: u32,
        /// How half a pixel is rounded if the crop is not exactly in the middle.
        offset: CropOffset,
    },
    /// As many whole patches as allowed, in about the image's own shape: SigLIP 2 NaFlex.
    Patches {
        /// Pixels of a patch's side.
        patch_size: u32,
        /// Maximum number of patches of one image.
        max_num_patches: u32,
    },
}

/// The size of an image before it is cropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resize {
    /// The shorter side gets this length, and the aspect ratio is kept.
    ShortestEdge(u32),
    /// The aspect ratio is not kept.
    Exact {
        /// Rows.
        height: u32,
        /// Columns.
        width: u32,
    },
}

impl Resize {
    /// `[height, width]` for an image of this height and width.
    fn of(self, height: u32, width: u32) -> [usize; 2] {
        match self {
            Self::Exact { height, width } => [height as usize, width as usize],
            Self::ShortestEdge(shorter) => {
                let (short, long) = (height.min(width), height.max(width));
                // Rounded down, as both references do.
                let longer =
                    (f64::from(shorter) * f64::from(long) / f64::from(short.max(1))) as usize;
                let shorter = shorter as usize;
                if width <= height { [longer, shorter] } else { [shorter, longer] }
            }
        }
    }
}

/// How half a pixel is rounded if the surplus of a crop is odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CropOffset {
    /// Down: transformers.
    Down,
    /// To the even number: torchvision, and with it open_clip.
    Even,
}

impl CropOffset {
    /// The first pixel of a crop, of a side that is `surplus` longer than it.
    fn of(self, surplus: usize) -> usize {
        match self {
            Self::Down => surplus / 2,
            Self::Even => (surplus / 2).next_multiple_of(if surplus % 2 == 1 { 2 } else { 1 }),
        }
    }
}

/// The steps for one image: it is resized, a window of it is kept, and the window is put on black.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// Rows and columns after the resize.
    pub(super) resized: [usize; 2],
    /// The rows and columns that are kept.
    pub(super) windows: [Range<usize>; 2],
    /// Black rows above and black columns left of the window.
    pub(super) padding: [usize; 2],
    /// Rows and columns of the result.
    pub(super) size: [u32; 2],
}

impl TargetSize {
    /// The plan for an image of this height and width.
    pub(super) fn plan(self, height: u32, width: u32) -> Plan {
        let size = self.of(height, width);
        let own = size.map(|side| side as usize);
        let Self::Crop { resize, offset, .. } = self else {
            return Plan { resized: own, windows: own.map(|side| 0..side), padding: [0; 2], size };
        };
        let resized = resize.of(height, width);
        let mut plan = Plan { resized, windows: [0..0, 0..0], padding: [0; 2], size };
        for (axis, (from, to)) in resized.into_iter().zip(own).enumerate() {
            let first = offset.of(from.saturating_sub(to));
            plan.windows[axis] = first..first + from.min(to);
            // The larger half of an odd number comes first.
            plan.padding[axis] = to.saturating_sub(from).div_ceil(2);
        }
        plan
    }

    /// `[height, width]` for an image of this height and width.
    #[must_use]
    pub fn of(self, height: u32, width: u32) -> [u32; 2] {
        match self {
            Self::Fixed { height, width } | Self::Crop { height, width, .. } => [height, width],
            Self::Patches { patch_size, max_num_patches } => {
                let scale = largest_scale([height, width], patch_size, max_num_patches);
                [height, width].map(|side| patches(side, scale, patch_size) * patch_size)
            }
        }
    }

    /// Whether the tower reads an image of `[height, width]` without a resize.
    #[must_use]
    pub fn accepts(self, [height, width]: [u32; 2]) -> bool {
        match self {
            Self::Fixed { .. } | Self::Crop { .. } => self.of(height, width) == [height, width],
            Self::Patches { patch_size, max_num_patches } => {
                let whole = [height, width].iter().all(|&side| side > 0 && side % patch_size == 0);
                let patches = u64::from(height / patch_size) * u64::from(width / patch_size);
                whole && patches <= u64::from(max_num_patches)
            }
        }
    }

    /// Maximum number of patches of one image, if the number varies.
    #[must_use]
    pub fn max_num_patches(self) -> Option<u32> {
        match self {
            Self::Fixed { .. } | Self::Crop { .. } => None,
            Self::Patches { max_num_patches, .. } => Some(max_num_patches),
        }
    }

    /// The maximum number of pixels of one image.
    #[must_use]
    pub fn max_pixels(self) -> u64 {
        match self {
            Self::Fixed { height, width } | Self::Crop { height, width, .. } => {
                u64::from(height) * u64::from(width)
            }
            Self::Patches { patch_size, max_num_patches } => {
                u64::from(patch_size).pow(2).saturating_mul(max_num_patches.into())
            }
        }
    }

    /// Changes the maximum number of patches to `count`; a fixed size is not changed.
    #[must_use]
    pub fn with_max_num_patches(self, count: u32) -> Self {
        match self {
            Self::Fixed { .. } | Self::Crop { .. } => self,
            Self::Patches { patch_size, .. } => {
                Self::Patches { patch_size, max_num_patches: count }
            }
        }
    }
}

/// The precision at which the search for the scale stops.
const PRECISION: f64 = 1e-5;

/// The largest factor for both sides, as found by bisection, with which an image has at most `max_num_patches`.
///
/// The steps are those of transformers' [`get_image_size_for_max_num_patches`], because the point where the
/// bisection stops can change the number of rows of patches. It never enlarges more than 100 times.
///
/// [`get_image_size_for_max_num_patches`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/siglip2/image_processing_siglip2.py
fn largest_scale(sides: [u32; 2], patch_size: u32, max_num_patches: u32) -> f64 {
    let (mut fits, mut exceeds) = (PRECISION / 10.0, 100.0);
    while exceeds - fits >= PRECISION {
        let scale = f64::midpoint(fits, exceeds);
        let [rows, columns] = sides.map(|side| u64::from(patches(side, scale, patch_size)));
        if rows * columns <= u64::from(max_num_patches) {
            fits = scale;
        } else {
            exceeds = scale;
        }
    }
    fits
}

/// Patches along a scaled side, rounded up to whole patches, at least one.
fn patches(side: u32, scale: f64, patch_size: u32) -> u32 {
    // Division after the product, as in the reference, so that both round alike.
    ((f64::from(side) * scale / f64::from(patch_size)).ceil() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grid(height: u32, width: u32, max_num_patches: u32) -> [u32; 2] {
        let target = TargetSize::Patches { patch_size: 16, max_num_patches };
        target.of(height, width).map(|side| side / 16)
    }

    #[test]
    fn shapes_are_kept_as_far_as_patches_allow() {
        // From transformers 5.23.
        for ((height, width, most), expected) in [
            ((224, 224, 256), [16, 16]),
            ((480, 640, 256), [14, 18]),
            ((1, 1, 256), [7, 7]),
            ((1, 4000, 256), [1, 256]),
            ((4000, 1, 256), [256, 1]),
            ((30, 30, 1), [1, 1]),
            ((1080, 1920, 1024), [24, 42]),
        ] {
            assert_eq!(grid(height, width, most), expected, "{height} x {width} in {most}");
        }
        let fixed = TargetSize::Fixed { height: 5, width: 6 };
        assert_eq!((fixed.of(1, 2), fixed.with_max_num_patches(9)), ([5, 6], fixed));
    }

    #[test]
    fn a_crop_is_in_the_middle_of_what_is_resized() {
        let crop = |offset, shorter, side| TargetSize::Crop {
            resize: Resize::ShortestEdge(shorter),
            height: side,
            width: side,
            offset,
        };
        let down = crop(CropOffset::Down, 224, 224).plan(480, 640);
        assert_eq!((down.resized, down.size), ([224, 298], [224, 224]));
        assert_eq!((down.windows, down.padding), ([0..224, 37..261], [0, 0]));
        // A surplus of 1, 2, 3, 5 and 7.
        for (width, first, even) in [(11, 0, 0), (12, 1, 1), (13, 1, 2), (15, 2, 2), (17, 3, 4)] {
            let window = |offset| crop(offset, 10, 10).plan(10, width).windows[1].clone();
            assert_eq!(window(CropOffset::Down), first..first + 10, "{width}");
            assert_eq!(window(CropOffset::Even), even..even + 10, "{width}");
        }
        let small = crop(CropOffset::Down, 5, 8).plan(5, 10);
        assert_eq!((small.resized, small.padding), ([5, 10], [2, 0]));
        assert_eq!(small.windows, [0..5, 1..9]);
        let exact = Resize::Exact { height: 9, width: 12 };
        let exact =
            TargetSize::Crop { resize: exact, height: 8, width: 8, offset: CropOffset::Down };
        assert_eq!(exact.plan(1, 1000).windows, [0..8, 2..10]);
        // Of a very long and thin image, only the window is resized.
        assert_eq!(crop(CropOffset::Down, 224, 224).plan(100_000, 1).windows[0].len(), 224);
    }

    #[test]
    fn prepared_pictures_have_whole_patches_and_not_too_many() {
        let fixed = TargetSize::Fixed { height: 32, width: 48 };
        assert!(fixed.accepts([32, 48]) && !fixed.accepts([48, 32]));
        let free = TargetSize::Patches { patch_size: 16, max_num_patches: 4 };
        assert!(free.accepts([32, 32]) && free.accepts([16, 64]));
        for size in [[0, 16], [16, 24], [48, 32], [u32::MAX - 15, u32::MAX - 15]] {
            assert!(!free.accepts(size), "{size:?}");
        }
    }

    proptest! {
        #[test]
        fn there_is_a_patch_and_never_one_too_many(
            height in 1..30_000_u32, width in 1..30_000_u32, most in 1..4096_u32,
        ) {
            let [rows, columns] = grid(height, width, most);
            prop_assert!(rows >= 1 && columns >= 1 && rows * columns <= most);
        }
    }
}
