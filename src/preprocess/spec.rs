//! Reads `preprocessor_config.json`.

use serde_json::Value;

use super::{CropOffset, ImageSpec, Resample, Resize, TargetSize};
use crate::checkpoint::{
    content::ReadError,
    fields::{Document, Fields, count},
};

/// Why a preprocessor configuration is refused; names the key, its value and the accepted values.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SpecError(String);

impl From<ReadError> for SpecError {
    fn from(error: ReadError) -> Self {
        Self(error.to_string())
    }
}

/// The keys that are read.
struct Raw<'d>(Fields<'d>);

/// A family's values for keys that its file lacks.
struct Defaults {
    resample: Resample,
    mean: [f32; 3],
    std: [f32; 3],
}

const SIGLIP: Defaults = Defaults { resample: Resample::Bicubic, mean: [0.5; 3], std: [0.5; 3] };
const NAFLEX: Defaults = Defaults { resample: Resample::Bilinear, ..SIGLIP };
/// OpenAI's image statistics.
const CLIP: Defaults = Defaults {
    resample: Resample::Bicubic,
    mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
    std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
};

impl ImageSpec {
    /// Reads a `preprocessor_config.json`, or the `processor_config.json` that holds one. A key that is
    /// absent or null has SigLIP's default; unknown keys are ignored.
    ///
    /// * `side`: the model's own image size, for files without one
    ///
    /// # Errors
    /// Names the key whose value is not served.
    pub fn parse(json: &[u8], side: u32) -> Result<Self, SpecError> {
        let document = Document::parse(json)?;
        let raw = Raw::of(&document)?;
        let (height, width) = raw.size()?.unwrap_or((side, side));
        if height == 0 || width == 0 {
            return Err(fault(format!("`size` is {height} x {width}; it must be from 1")));
        }
        raw.resolve(TargetSize::Fixed { height, width }, &SIGLIP)
    }

    /// Reads the file of BLIP, whose images are resized like SigLIP's and normalised like CLIP's.
    ///
    /// * `side`: the model's own image size, for files without one
    ///
    /// # Errors
    /// As [`ImageSpec::parse`].
    pub fn parse_squashed(json: &[u8], side: u32) -> Result<Self, SpecError> {
        let document = Document::parse(json)?;
        let raw = Raw::of(&document)?;
        let [height, width] = raw.sides("size")?.unwrap_or([side; 2]);
        if raw.0.flag("do_center_crop")? == Some(true) {
            return Err(raw.0.unread("do_center_crop", "false").into());
        }
        raw.resolve(TargetSize::Fixed { height, width }, &CLIP)
    }

    /// Reads the file of CLIP, whose images keep their aspect ratio and are cropped, unless the file says
    /// otherwise.
    ///
    /// * `side`: the model's own image size, for files without one
    /// * `offset`: how the file's library rounds the place of the crop
    ///
    /// # Errors
    /// As [`ImageSpec::parse`].
    pub fn parse_cropped(json: &[u8], side: u32, offset: CropOffset) -> Result<Self, SpecError> {
        let document = Document::parse(json)?;
        let raw = Raw::of(&document)?;
        let resize = raw.resize()?.unwrap_or(Resize::ShortestEdge(side));
        let crop = match raw.0.flag("do_center_crop")? {
            Some(false) => None,
            _ => Some(raw.sides("crop_size")?.unwrap_or([side; 2])),
        };
        let size = match (resize, crop) {
            (Resize::Exact { height, width }, None) => TargetSize::Fixed { height, width },
            (Resize::Exact { height, width }, Some(crop)) if crop == [height, width] => {
                TargetSize::Fixed { height, width }
            }
            (resize, Some([height, width])) => TargetSize::Crop { resize, height, width, offset },
            (Resize::ShortestEdge(_), None) => {
                return Err(fault(
                    "`do_center_crop` is false; true is read beside a `size` that keeps the aspect ratio, \
                     because all images of a model have one size"
                        .to_owned(),
                ));
            }
        };
        raw.resolve(size, &CLIP)
    }

    /// Reads the file of SigLIP 2 NaFlex, which has a number of patches instead of a size.
    ///
    /// * `patch_size`: the model's own, for files without one
    ///
    /// # Errors
    /// As [`ImageSpec::parse`].
    pub fn parse_naflex(json: &[u8], patch_size: u32) -> Result<Self, SpecError> {
        // Far more than any model was trained for, and few enough that an image fits into memory.
        const MOST_PIXELS: u64 = 1 << 26;
        let document = Document::parse(json)?;
        let raw = Raw::of(&document)?;
        let max_num_patches = raw.small("max_num_patches")?.unwrap_or(256);
        let area = u64::from(patch_size).saturating_pow(2);
        let pixels = area.saturating_mul(max_num_patches.into());
        if !(1..=MOST_PIXELS).contains(&pixels) {
            return Err(fault(format!(
                "`max_num_patches` is {max_num_patches}; images have from 1 to {MOST_PIXELS} pixels, \
                 {area} in a patch"
            )));
        }
        match raw.small("patch_size")? {
            Some(own) if own != patch_size => {
                Err(fault(format!("`patch_size` is {own}, but config.json has {patch_size}")))
            }
            _ => raw.resolve(TargetSize::Patches { patch_size, max_num_patches }, &NAFLEX),
        }
    }
}

/// The keys of an image processor. Transformers 5 writes them as a nested object of `processor_config.json`.
///
/// # Errors
/// Fails if that key is not an object.
pub(crate) fn processor_fields(document: &Document) -> Result<Fields<'_>, ReadError> {
    let fields = document.fields();
    Ok(fields.object("image_processor")?.unwrap_or(fields))
}

fn fault(message: String) -> SpecError {
    SpecError(message)
}

impl<'d> Raw<'d> {
    fn of(document: &'d Document) -> Result<Self, SpecError> {
        Ok(Self(processor_fields(document)?))
    }

    /// Height and width.
    fn size(&self) -> Result<Option<(u32, u32)>, SpecError> {
        let side = |value: &Value| u32::try_from(count(value)?).ok();
        let sides = |value: &Value| match value {
            Value::Object(sides) => Some((side(sides.get("height")?)?, side(sides.get("width")?)?)),
            value => side(value).map(|side| (side, side)),
        };
        let expected = "a whole number, or an object with the whole numbers `height` and `width` (images are \
                        resized to exactly that size, without a crop)";
        Ok(self.0.read("size", expected, sides)?)
    }

    /// The size before a crop.
    fn resize(&self) -> Result<Option<Resize>, SpecError> {
        let side = |value: &Value| u32::try_from(count(value)?).ok().filter(|&side| side > 0);
        let resize = |value: &Value| match value {
            Value::Object(sides) => match sides.get("shortest_edge").filter(|it| !it.is_null()) {
                Some(_) if sides.get("longest_edge").is_some_and(|it| !it.is_null()) => None,
                Some(shortest) => Some(Resize::ShortestEdge(side(shortest)?)),
                None => {
                    let (height, width) = (side(sides.get("height")?)?, side(sides.get("width")?)?);
                    Some(Resize::Exact { height, width })
                }
            },
            value => side(value).map(Resize::ShortestEdge),
        };
        let expected = "a whole number from 1 for the shorter side, or an object with `shortest_edge`, or with \
                        `height` and `width`,";
        Ok(self.0.read("size", expected, resize)?)
    }

    /// Height and width from 1, or one number for both.
    fn sides(&self, key: &str) -> Result<Option<[u32; 2]>, SpecError> {
        let side = |value: &Value| u32::try_from(count(value)?).ok().filter(|&side| side > 0);
        let sides = |value: &Value| match value {
            Value::Object(sides) => Some([side(sides.get("height")?)?, side(sides.get("width")?)?]),
            value => side(value).map(|side| [side; 2]),
        };
        let expected =
            "a whole number from 1, or an object with the whole numbers `height` and `width`,";
        Ok(self.0.read(key, expected, sides)?)
    }

    fn small(&self, key: &str) -> Result<Option<u32>, SpecError> {
        let small = |value: &Value| u32::try_from(count(value)?).ok();
        Ok(self.0.read(key, "a whole number", small)?)
    }

    /// A value for each of red, green and blue, or one for all of them.
    fn per_channel(&self, key: &str) -> Result<Option<[f32; 3]>, SpecError> {
        let number = |value: &Value| value.as_f64().map(|number| number as f32);
        let values = |value: &Value| match value {
            Value::Array(values) => match &values[..] {
                [red, green, blue] => Some([number(red)?, number(green)?, number(blue)?]),
                _ => None,
            },
            value => number(value).map(|value| [value; 3]),
        };
        Ok(self.0.read(key, "a number or a list of 3 numbers", values)?)
    }

    fn resolve(&self, size: TargetSize, defaults: &Defaults) -> Result<ImageSpec, SpecError> {
        if self.0.flag("do_resize")? == Some(false) {
            return Err(fault(
                "`do_resize` is false; true is read, because images come in any size".to_owned(),
            ));
        }
        let resample = match self.0.count("resample")? {
            None => defaults.resample,
            Some(2) => Resample::Bilinear,
            Some(3) => Resample::Bicubic,
            Some(_) => {
                return Err(self.0.unread("resample", "2 (bilinear) or 3 (bicubic)").into());
            }
        };
        let factor = self.0.number("rescale_factor")?.unwrap_or(1.0 / 255.0) as f32;
        let rescale = if self.0.flag("do_rescale")? == Some(false) { 1.0 } else { factor };
        let (mean, std) = (self.per_channel("image_mean")?, self.per_channel("image_std")?);
        let (mean, std) = match self.0.flag("do_normalize")? {
            Some(false) => ([0.0; 3], [1.0; 3]),
            _ => (mean.unwrap_or(defaults.mean), std.unwrap_or(defaults.std)),
        };
        let finite = mean.iter().chain(&std).chain([&rescale]).all(|value| value.is_finite());
        if !finite || std.contains(&0.0) {
            return Err(fault(format!(
                "`rescale_factor` {rescale}, `image_mean` {mean:?} and `image_std` {std:?} give no numbers"
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
        // These are the published files: unused keys are null or absent.
        let json = br#"{"image_processor_type": "Siglip2ImageProcessor", "do_convert_rgb": null,
            "size": null, "max_num_patches": 512, "patch_size": 16, "resample": 3}"#;
        let spec = ImageSpec::parse_naflex(json, 16).expect("a published form");
        let size = TargetSize::Patches { patch_size: 16, max_num_patches: 512 };
        assert_eq!((spec.size, spec.resample), (size, Resample::Bicubic));
        for (json, key) in [
            (r#"{"max_num_patches": 0}"#, "max_num_patches"),
            (r#"{"max_num_patches": 300000}"#, "max_num_patches"),
            (r#"{"patch_size": 14}"#, "`patch_size` is 14, but config.json has 16"),
            (r#"{"resample": 0}"#, "resample"),
        ] {
            let error = ImageSpec::parse_naflex(json.as_bytes(), 16).expect_err(json).to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn clip_crops_what_keeps_its_shape() {
        let parse = |json: &str| ImageSpec::parse_cropped(json.as_bytes(), 224, CropOffset::Down);
        let crop = |shorter, side| TargetSize::Crop {
            resize: Resize::ShortestEdge(shorter),
            height: side,
            width: side,
            offset: CropOffset::Down,
        };
        let squash = TargetSize::Fixed { height: 224, width: 224 };
        for (json, size) in [
            ("{}", crop(224, 224)),
            (r#"{"size": 256, "crop_size": 224}"#, crop(256, 224)),
            (
                r#"{"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}"#,
                crop(336, 336),
            ),
            (r#"{"size": {"height": 224, "width": 224}, "do_center_crop": false}"#, squash),
            (r#"{"size": {"height": 224, "width": 224}, "crop_size": 224}"#, squash),
        ] {
            let spec = parse(json).expect(json);
            assert_eq!((spec.size, spec.mean, spec.std), (size, CLIP.mean, CLIP.std), "{json}");
        }
        for (json, key) in [
            (r#"{"do_center_crop": false}"#, "`do_center_crop` is false"),
            (r#"{"size": {"longest_edge": 224}}"#, "`size` is"),
            (r#"{"size": {"shortest_edge": 224, "longest_edge": 300}}"#, "`size` is"),
            (r#"{"size": 0}"#, "`size` is 0"),
            (r#"{"crop_size": {"height": 0, "width": 4}}"#, "`crop_size` is"),
        ] {
            let error = parse(json).expect_err(json).to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn what_is_not_served_is_named() {
        for (json, key) in [
            (r#"{"resample": 1}"#, "resample"),
            (r#"{"do_resize": false}"#, "do_resize"),
            (r#"{"image_std": [0.5, 0, 0.5]}"#, "image_std"),
            (r#"{"size": {"height": 0, "width": 4}}"#, "`size` is 0 x 4"),
            (
                r#"{"size": {"shortest_edge": 224}}"#,
                "`size` is {\"shortest_edge\":224}; a whole number, or",
            ),
            (r#"{"size": "224"}"#, "`size` is \"224\"; a whole number, or an object with"),
            (r#"{"resample": 1}"#, "`resample` is 1; 2 (bilinear) or 3 (bicubic) is read"),
            (r#"{"resample": "bicubic"}"#, "`resample` is \"bicubic\"; a whole number is read"),
            (
                r#"{"image_mean": [0.5]}"#,
                "`image_mean` is [0.5]; a number or a list of 3 numbers is read",
            ),
            (
                r#"{"image_processor": {"do_rescale": 1}}"#,
                "`image_processor.do_rescale` is 1; true or false",
            ),
            (r#"{"image_processor": 3}"#, "`image_processor` is 3; an object is read"),
            ("", "the file is empty"),
            ("{\"size\": 22", "the JSON is cut short"),
        ] {
            let error = ImageSpec::parse(json.as_bytes(), 224).expect_err(json).to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
