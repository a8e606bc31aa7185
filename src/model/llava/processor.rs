//! The image processors that LLaVA's files name. Their classes have other statistics and sizes than the published
//! files, so that nothing is served without the file.

use crate::{
    checkpoint::{
        PREPROCESSOR, PROCESSOR,
        content::ReadError,
        fields::{Document, Fields},
    },
    model::{LoadError, checkpoint::Checkpoint},
    preprocess::{CropOffset, ImageSpec, Pinpoints, Resize, TargetSize, processor_fields},
};

/// A class of transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Processor {
    /// `LlavaOnevisionImageProcessor`: squashes.
    Onevision,
    /// `LlavaNextImageProcessor`: crops, and cuts tiles of the size of the crop.
    Next,
    /// `LlavaImageProcessor`: crops what may have been padded to a square.
    Llava,
    /// `CLIPImageProcessor`: crops.
    Clip,
    /// `SiglipImageProcessor`: squashes.
    Siglip,
}

const NAMES: [(&str, Processor); 6] = [
    ("LlavaOnevisionImageProcessor", Processor::Onevision),
    ("LlavaNextImageProcessor", Processor::Next),
    ("LlavaImageProcessor", Processor::Llava),
    ("CLIPImageProcessor", Processor::Clip),
    ("CLIPFeatureExtractor", Processor::Clip),
    ("SiglipImageProcessor", Processor::Siglip),
];

impl Processor {
    /// How images are prepared.
    ///
    /// * `self`: the processor of files that do not name theirs
    /// * `side`: pixels of an image's side
    ///
    /// # Errors
    /// Names the file and the key at fault.
    pub(super) fn image_spec(self, files: &Checkpoint, side: u32) -> Result<ImageSpec, LoadError> {
        let (file, json) = file(files)?;
        let at_fault = |fault: String| LoadError::new(format!("{file}: {fault}"));
        let unread = |fault: ReadError| at_fault(fault.to_string());
        let document = Document::parse(json).map_err(unread)?;
        let fields = processor_fields(&document).map_err(unread)?;
        let processor = self.named(&fields).map_err(unread)?;
        let spec = match processor {
            Self::Onevision => ImageSpec::parse_squashed(json, side),
            Self::Siglip => ImageSpec::parse(json, side),
            Self::Next | Self::Llava | Self::Clip => {
                ImageSpec::parse_cropped(json, side, CropOffset::Down)
            }
        };
        let spec = spec.map_err(|fault| at_fault(fault.to_string()))?;
        let [height, width] = spec.size.of(side, side);
        if [height, width] != [side; 2] {
            return Err(at_fault(format!(
                "images become {height} x {width}, but config.json has a vision_config.image_size of {side}"
            )));
        }
        let is_whole = match spec.size {
            TargetSize::Crop { resize, .. } => resize == Resize::ShortestEdge(side),
            TargetSize::Fixed { .. } | TargetSize::Patches { .. } => true,
        };
        match processor {
            // Each tile would be enlarged and cropped once more.
            Self::Next if !is_whole => Err(unread(fields.unread("size", "the size of the crop"))),
            Self::Onevision if fields.value("crop_size").is_some() => {
                Err(unread(fields.unread("crop_size", "null")))
            }
            Self::Llava if fields.flag("do_pad").map_err(unread)? == Some(true) => {
                Err(unread(fields.unread("do_pad", "false")))
            }
            _ => Ok(spec),
        }
    }

    /// The sizes of which the best one is cut into tiles, where the file has them.
    ///
    /// # Errors
    /// Names the file and the key at fault.
    pub(super) fn pinpoints(files: &Checkpoint, side: u32) -> Result<Option<Pinpoints>, LoadError> {
        let (file, json) = file(files)?;
        let at_fault = |fault: ReadError| LoadError::new(format!("{file}: {fault}"));
        let document = Document::parse(json).map_err(at_fault)?;
        let fields = processor_fields(&document).map_err(at_fault)?;
        Pinpoints::read(&fields, side).map_err(at_fault)
    }

    /// The processor that a file names, or else this one.
    fn named(self, fields: &Fields<'_>) -> Result<Self, ReadError> {
        for key in ["image_processor_type", "feature_extractor_type"] {
            let Some(name) = fields.text(key)? else { continue };
            // The same arithmetic on another library.
            let class = name.strip_suffix("Fast").or(name.strip_suffix("Pil")).unwrap_or(name);
            let found = NAMES.iter().find(|(known, _)| *known == class);
            let known = NAMES.map(|(name, _)| format!("`{name}`")).join(", ");
            return found.map(|&(_, own)| own).ok_or_else(|| fields.unread(key, &known));
        }
        Ok(self)
    }
}

/// The file of the image processor, and its name.
fn file(files: &Checkpoint) -> Result<(&'static str, &[u8]), LoadError> {
    let missing = || {
        LoadError::new(format!(
            "{PREPROCESSOR} is missing: it says how images are normalised, which LLaVA's models do differently"
        ))
    };
    let (file, json) = files.preprocessor();
    files.file(file).ok_or_else(missing)?;
    // The older form of this file holds no image processor.
    let document = Document::parse(json);
    let holds_one =
        document.is_ok_and(|document| document.fields().value("image_processor").is_some());
    if file == PROCESSOR && !holds_one { Err(missing()) } else { Ok((file, json)) }
}
