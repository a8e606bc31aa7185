//! Images that a client has resized and normalised itself.

use super::{ImageSpec, Pixels};

/// A value that is more than half a level outside 0..=255 was not normalised as the model requires.
const TOLERANCE: f32 = 0.5;

/// Recovers the pixels of an image that a client resized and normalised: `(level * rescale - mean) / std`.
///
/// The tower reads 8-bit levels, so each value is rounded to the nearest level. Values from 8-bit pixels, as
/// the image processors of transformers give them, are recovered exactly; others change by at most half a
/// level.
///
/// * `values`: `[3, height, width]`
/// * `size`: `[height, width]`
/// * returns none if a value is not finite, or lies outside of the levels
#[must_use]
pub fn from_normalized(
    values: &[f32],
    [height, width]: [u32; 2],
    spec: &ImageSpec,
) -> Option<Pixels> {
    let area = height as usize * width as usize;
    if values.len() != 3 * area {
        return None;
    }
    let mut data = vec![0_u8; 3 * area];
    for (channel, values) in values.chunks_exact(area.max(1)).enumerate() {
        let (mean, std) = (spec.mean[channel], spec.std[channel]);
        for (at, &value) in values.iter().enumerate() {
            let level = (value * std + mean) / spec.rescale;
            if !(-TOLERANCE..=255.0 + TOLERANCE).contains(&level) {
                return None;
            }
            // The cast saturates.
            data[at * 3 + channel] = level.round() as u8;
        }
    }
    Some(Pixels { height, width, data: data.into() })
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Resample, TargetSize},
        *,
    };

    fn spec() -> ImageSpec {
        ImageSpec {
            size: TargetSize::Fixed { height: 16, width: 16 },
            resample: Resample::Bicubic,
            rescale: 1.0 / 255.0,
            mean: [0.5, 0.48, 0.4],
            std: [0.5, 0.27, 0.3],
        }
    }

    #[test]
    fn every_level_is_met_exactly() {
        let spec = spec();
        let values: Vec<f32> = (0..3)
            .flat_map(|channel: usize| (0..256).map(move |level| (channel, level as f32)))
            .map(|(channel, level)| (level * spec.rescale - spec.mean[channel]) / spec.std[channel])
            .collect();
        let pixels = from_normalized(&values, [16, 16], &spec).expect("levels");
        for (at, pixel) in pixels.data.chunks_exact(3).enumerate() {
            assert_eq!(pixel, [at as u8; 3]);
        }
    }

    #[test]
    fn what_was_not_normalised_is_refused() {
        let spec = spec();
        for wrong in [f32::NAN, f32::INFINITY, 255.0, -3.0] {
            let mut values = vec![0.0; 3 * 256];
            values[300] = wrong;
            assert_eq!(from_normalized(&values, [16, 16], &spec), None, "{wrong}");
        }
        assert_eq!(from_normalized(&[0.0; 3], [16, 16], &spec), None);
    }
}
