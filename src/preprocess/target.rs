//! To which size a picture is resized.

/// To which size a picture is resized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSize {
    /// One size for every picture; the aspect ratio is not kept.
    Fixed {
        /// Rows.
        height: u32,
        /// Columns.
        width: u32,
    },
    /// As many whole patches as are allowed, in about the picture's own shape: SigLIP 2 NaFlex.
    Patches {
        /// Pixels of a patch's side.
        patch_size: u32,
        /// Most patches of one picture.
        max_num_patches: u32,
    },
}

impl TargetSize {
    /// `[height, width]` for a picture of this height and width.
    #[must_use]
    pub fn of(self, height: u32, width: u32) -> [u32; 2] {
        match self {
            Self::Fixed { height, width } => [height, width],
            Self::Patches { patch_size, max_num_patches } => {
                let scale = largest_scale([height, width], patch_size, max_num_patches);
                [height, width].map(|side| patches(side, scale, patch_size) * patch_size)
            }
        }
    }

    /// Whether the tower reads a picture of `[height, width]` as it is.
    #[must_use]
    pub fn accepts(self, [height, width]: [u32; 2]) -> bool {
        match self {
            Self::Fixed { .. } => self.of(height, width) == [height, width],
            Self::Patches { patch_size, max_num_patches } => {
                let whole = [height, width].iter().all(|&side| side > 0 && side % patch_size == 0);
                let patches = u64::from(height / patch_size) * u64::from(width / patch_size);
                whole && patches <= u64::from(max_num_patches)
            }
        }
    }

    /// The most patches of one picture, where it is not always the same number.
    #[must_use]
    pub fn max_num_patches(self) -> Option<u32> {
        match self {
            Self::Fixed { .. } => None,
            Self::Patches { max_num_patches, .. } => Some(max_num_patches),
        }
    }

    /// The same with at most `count` patches; a fixed size stays.
    #[must_use]
    pub fn with_max_num_patches(self, count: u32) -> Self {
        match self {
            Self::Fixed { .. } => self,
            Self::Patches { patch_size, .. } => {
                Self::Patches { patch_size, max_num_patches: count }
            }
        }
    }
}

/// Where the search for the scale stops.
const PRECISION: f64 = 1e-5;

/// The largest factor found for both sides with which a picture has at most `max_num_patches`.
///
/// Step for step the bisection of transformers' [`get_image_size_for_max_num_patches`]: where it stops short
/// of the exact bound decides about a row of patches more or less. It never enlarges beyond 100 times.
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

/// Patches along a side that is scaled and rounded up to whole ones: one at least.
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
