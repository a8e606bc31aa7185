//! `preprocessor_config.json`.

use serde::Deserialize;

use super::{ImageSpec, Resample, TargetSize};

/// Why a preprocessor configuration is not served; names the key.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Not JSON, or a key of the wrong type.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A value that no picture can be prepared with.
    #[error("{0}")]
    Value(String),
}

#[derive(Deserialize)]
struct File {
    /// Where transformers 5 puts it, in `processor_config.json`.
    image_processor: Option<Raw>,
    #[serde(flatten)]
    flat: Raw,
}

#[derive(Default, Deserialize)]
struct Raw {
    size: Option<Size>,
    patch_size: Option<u32>,
    max_num_patches: Option<u32>,
    resample: Option<u8>,
    do_resize: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
    rescale_factor: Option<f64>,
    image_mean: Option<PerChannel>,
    image_std: Option<PerChannel>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Square(u32),
    Sides { height: u32, width: u32 },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PerChannel {
    Same(f32),
    Each([f32; 3]),
}

impl PerChannel {
    fn values(&self) -> [f32; 3] {
        match *self {
            Self::Same(value) => [value; 3],
            Self::Each(values) => values,
        }
    }
}

impl ImageSpec {
    /// Reads a `preprocessor_config.json`, or the `processor_config.json` that holds one. A key that is
    /// absent or null has SigLIP's default; unknown keys are ignored.
    ///
    /// * `side`: the model's own image size, for files without one
    ///
    /// # Errors
    /// Names the key whose value is not served.
    pub fn parse(json: &[u8], side: u32) -> Result<Self, SpecError> {
        let raw = Raw::read(json)?;
        let (height, width) = match raw.size {
            None => (side, side),
            Some(Size::Square(side)) => (side, side),
            Some(Size::Sides { height, width }) => (height, width),
        };
        if height == 0 || width == 0 {
            return Err(fault(format!("size is {height} x {width}")));
        }
        raw.resolve(TargetSize::Fixed { height, width }, Resample::Bicubic)
    }

    /// The same for SigLIP 2 NaFlex, whose files give a number of patches in place of a size.
    ///
    /// * `patch_size`: the model's own, for files without one
    ///
    /// # Errors
    /// As [`ImageSpec::parse`].
    pub fn parse_naflex(json: &[u8], patch_size: u32) -> Result<Self, SpecError> {
        // Far above what a model was trained for, and far below where a picture would not fit in memory.
        const MOST_PIXELS: u64 = 1 << 26;
        let raw = Raw::read(json)?;
        let max_num_patches = raw.max_num_patches.unwrap_or(256);
        let area = u64::from(patch_size).saturating_pow(2);
        let pixels = area.saturating_mul(max_num_patches.into());
        if !(1..=MOST_PIXELS).contains(&pixels) {
            return Err(fault(format!(
                "max_num_patches is {max_num_patches}; pictures have from 1 to {MOST_PIXELS} pixels, \
                 {area} in a patch"
            )));
        }
        if raw.patch_size.is_some_and(|own| own != patch_size) {
            return Err(fault(format!(
                "patch_size is {}, but config.json has {patch_size}",
                raw.patch_size.unwrap_or_default()
            )));
        }
        raw.resolve(TargetSize::Patches { patch_size, max_num_patches }, Resample::Bilinear)
    }
}

fn fault(message: String) -> SpecError {
    SpecError::Value(message)
}

impl Raw {
    fn read(json: &[u8]) -> Result<Self, SpecError> {
        let file: File = serde_json::from_slice(json)?;
        Ok(file.image_processor.unwrap_or(file.flat))
    }

    fn resolve(self, size: TargetSize, resample: Resample) -> Result<ImageSpec, SpecError> {
        if self.do_resize == Some(false) {
            return Err(fault("do_resize is false, but pictures come in any size".to_owned()));
        }
        let resample = match self.resample {
            None => resample,
            Some(2) => Resample::Bilinear,
            Some(3) => Resample::Bicubic,
            Some(other) => {
                return Err(fault(format!(
                    "resample {other} is not served; 2 (bilinear) and 3 (bicubic) are"
                )));
            }
        };
        let rescale = match self.do_rescale {
            Some(false) => 1.0,
            _ => self.rescale_factor.unwrap_or(1.0 / 255.0) as f32,
        };
        let (mean, std) = match self.do_normalize {
            Some(false) => ([0.0; 3], [1.0; 3]),
            _ => (
                self.image_mean.map_or([0.5; 3], |mean| mean.values()),
                self.image_std.map_or([0.5; 3], |std| std.values()),
            ),
        };
        let finite = mean.iter().chain(&std).chain([&rescale]).all(|value| value.is_finite());
        if !finite || std.contains(&0.0) {
            return Err(fault(format!(
                "rescale_factor {rescale}, image_mean {mean:?} and image_std {std:?} give no numbers"
            )));
        }
        Ok(ImageSpec { size, resample, rescale, mean, std })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: ImageSpec = ImageSpec {
        size: TargetSize::Fixed { height: 224, width: 224 },
        resample: Resample::Bicubic,
        rescale: 1.0 / 255.0,
        mean: [0.5; 3],
        std: [0.5; 3],
    };

    #[test]
    fn an_empty_file_means_the_defaults() {
        assert_eq!(ImageSpec::parse(b"{}", 224).expect("defaults"), DEFAULT);
    }

    #[test]
    fn both_forms_of_the_file_are_read() {
        let flat = br#"{"size": {"height": 384, "width": 384}, "resample": 2, "do_convert_rgb": null,
            "image_mean": [0.1, 0.2, 0.3], "image_std": 0.25, "rescale_factor": 0.00392156862745098}"#;
        let nested =
            [&b"{\"processor_class\": \"SiglipProcessor\", \"image_processor\": "[..], flat, b"}"]
                .concat();
        for json in [&flat[..], &nested] {
            let spec = ImageSpec::parse(json, 224).expect("both forms");
            assert_eq!(spec.size, TargetSize::Fixed { height: 384, width: 384 });
            assert_eq!(spec.resample, Resample::Bilinear);
            assert_eq!((spec.mean, spec.std), ([0.1, 0.2, 0.3], [0.25; 3]));
            assert_eq!(spec.rescale, DEFAULT.rescale);
        }
    }

    #[test]
    fn naflex_counts_patches_and_has_another_filter() {
        let spec = ImageSpec::parse_naflex(b"{}", 14).expect("defaults");
        let size = TargetSize::Patches { patch_size: 14, max_num_patches: 256 };
        assert_eq!(spec, ImageSpec { size, resample: Resample::Bilinear, ..DEFAULT });
        // As published: keys of the other kind are null, or absent.
        let json = br#"{"image_processor_type": "Siglip2ImageProcessor", "do_convert_rgb": null,
            "size": null, "max_num_patches": 512, "patch_size": 16, "resample": 3}"#;
        let spec = ImageSpec::parse_naflex(json, 16).expect("a published form");
        let size = TargetSize::Patches { patch_size: 16, max_num_patches: 512 };
        assert_eq!((spec.size, spec.resample), (size, Resample::Bicubic));
        for (json, key) in [
            (r#"{"max_num_patches": 0}"#, "max_num_patches"),
            (r#"{"max_num_patches": 300000}"#, "max_num_patches"),
            (r#"{"patch_size": 14}"#, "patch_size is 14, but config.json has 16"),
            (r#"{"resample": 0}"#, "resample"),
        ] {
            let error = ImageSpec::parse_naflex(json.as_bytes(), 16).expect_err(json).to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn what_is_not_served_is_named() {
        for (json, key) in [
            (r#"{"resample": 1}"#, "resample"),
            (r#"{"do_resize": false}"#, "do_resize"),
            (r#"{"image_std": [0.5, 0, 0.5]}"#, "image_std"),
            (r#"{"size": {"height": 0, "width": 4}}"#, "size"),
        ] {
            let error = ImageSpec::parse(json.as_bytes(), 224).expect_err(json).to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
