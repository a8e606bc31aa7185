//! The vision tower out of the files of a LLaVA model in transformers' format: LLaVA-OneVision's, LLaVA-NeXT's and
//! LLaVA-1.5's. The tower was trained further with the language model, so its weights differ from those of the tower that
//! is published alone. Language model and
//! projector are not read.

mod processor;

use serde_json::Value;

use self::processor::Processor;
use super::{
    LanguageSide, LoadError, Part,
    checkpoint::Checkpoint,
    family::{self, Architecture, Description, Outline, Towers},
    probe::{Answers, Probe},
    weights::{Extent, Scope},
};
use crate::{
    checkpoint::{content::ReadError, fields::Fields},
    preprocess::{ImageSpec, Pinpoints},
    tokenize::TextLayout,
};

/// The places of a vision tower in files of different ages.
const PLACES: [&str; 2] = ["vision_tower", "model.vision_tower"];
/// A tensor that every tower has, below its place.
const KERNELS: [&str; 2] =
    ["vision_model.embeddings.patch_embedding.weight", "embeddings.patch_embedding.weight"];

/// A LLaVA model, as far as it sees.
struct Llava {
    model_type: &'static str,
    tower: Box<dyn Architecture>,
    /// Pixels of an image's side.
    side: u32,
    /// The image processor of files that do not name theirs.
    processor: Processor,
    language: LanguageSide,
}

/// What the kinds of LLaVA do not share.
struct Kind {
    model_type: &'static str,
    /// The tower where the configuration does not name one.
    tower: &'static str,
    processor: Processor,
    feature_layer: i64,
    select_strategy: &'static str,
}

const KINDS: [Kind; 3] = [
    Kind {
        model_type: "llava_onevision",
        tower: SIGLIP,
        processor: Processor::Onevision,
        feature_layer: -1,
        select_strategy: "full",
    },
    Kind {
        model_type: "llava_next",
        tower: CLIP,
        processor: Processor::Next,
        feature_layer: -2,
        select_strategy: "default",
    },
    Kind {
        model_type: "llava",
        tower: CLIP,
        processor: Processor::Clip,
        feature_layer: -2,
        select_strategy: "default",
    },
];

const SIGLIP: &str = "siglip_vision_model";
const CLIP: &str = "clip_vision_model";

/// The model that a `config.json` of the family describes.
///
/// # Errors
/// Names the file and the key at fault.
pub(super) fn read(
    files: &Checkpoint,
    config: &Fields<'_>,
) -> Result<Box<dyn Architecture>, LoadError> {
    let file = files.config_name();
    let at_fault = |fault: ReadError| LoadError::new(format!("{file}: {fault}"));
    let model_type = config.text("model_type").map_err(at_fault)?;
    let kind = KINDS.iter().find(|kind| Some(kind.model_type) == model_type);
    let known =
        || at_fault(config.unread("model_type", "`llava_onevision`, `llava_next` or `llava`"));
    let kind = kind.ok_or_else(known)?;
    let vision = config.object("vision_config").map_err(at_fault)?;
    let vision = vision.ok_or_else(|| at_fault(config.unread("vision_config", "an object")))?;
    let (tower, side) = family::vision_tower(files, &vision, kind.tower)?;
    let language = language(config, kind, side).map_err(at_fault)?;
    let layers = i64::try_from(tower.description().vision_layers).unwrap_or(i64::MAX);
    if let Some(layer) =
        language.feature_layers.iter().find(|layer| !(-layers - 1..=layers).contains(*layer))
    {
        return Err(LoadError::new(format!(
            "{file}: `vision_feature_layer` is {layer}, but the tower has hidden states 0 to {layers}"
        )));
    }
    Ok(Box::new(Llava {
        model_type: kind.model_type,
        tower,
        side,
        processor: kind.processor,
        language,
    }))
}

/// What the language model reads, by the configuration alone.
fn language(config: &Fields<'_>, kind: &Kind, side: u32) -> Result<LanguageSide, ReadError> {
    let layers = |value: &Value| match value {
        Value::Array(layers) => layers.iter().map(Value::as_i64).collect(),
        layer => Some(vec![layer.as_i64()?]),
    };
    let expected = "a whole number, or a list of them,";
    let layers = config.read("vision_feature_layer", expected, layers)?;
    let select_strategy = match config.text("vision_feature_select_strategy")? {
        None => kind.select_strategy,
        Some("default") => "default",
        Some("full") => "full",
        Some(_) => {
            return Err(config.unread("vision_feature_select_strategy", "`default` or `full`"));
        }
    };
    Ok(LanguageSide {
        feature_layers: layers.unwrap_or_else(|| vec![kind.feature_layer]),
        select_strategy,
        pinpoints: Pinpoints::read(config, side)?,
    })
}

impl Llava {
    /// The tower's place.
    ///
    /// # Errors
    /// Says which names were looked for, or that there are two towers.
    fn scope<'w>(root: &Scope<'w>) -> Result<Scope<'w>, LoadError> {
        let has_tower = |place: &Scope<'_>| KERNELS.iter().any(|kernel| place.contains(kernel));
        let places = PLACES.iter().map(|place| root.at(place));
        let found: Vec<_> = places.filter(has_tower).collect();
        match &found[..] {
            [place] => Ok(place.clone()),
            [] => Err(LoadError::new(format!(
                "tensor `{}.{}` is missing, also below `{}` and without `vision_model`",
                PLACES[0], KERNELS[0], PLACES[1]
            ))),
            _ => Err(LoadError::new(format!(
                "there are two vision towers, below `{}` and below `{}`",
                PLACES[0], PLACES[1]
            ))),
        }
    }
}

impl Architecture for Llava {
    fn description(&self) -> Description {
        Description { family: self.model_type, ..self.tower.description() }
    }

    fn image_spec(&self, files: &Checkpoint) -> Result<ImageSpec, LoadError> {
        self.processor.image_spec(files, self.side)
    }

    fn text_layout(&self) -> Option<TextLayout> {
        None
    }

    fn outline(&self, root: &Scope<'_>) -> Result<Outline, LoadError> {
        self.tower.outline(&Self::scope(root)?)
    }

    fn extent(&self, root: &Scope<'_>) -> Result<Extent, LoadError> {
        Ok(Self::scope(root)?.extent())
    }

    fn load(&self, image: &ImageSpec, root: &Scope<'_>, part: Part) -> Result<Towers, LoadError> {
        let place = Self::scope(root)?;
        place.skip_outside();
        self.tower.load(image, &place, part)
    }

    fn answers(
        &self,
        image: &ImageSpec,
        root: &Scope<'_>,
        probe: &Probe,
    ) -> Result<Answers, LoadError> {
        self.tower.answers(image, &Self::scope(root)?, probe)
    }

    fn language(&self, files: &Checkpoint) -> Result<Option<LanguageSide>, LoadError> {
        // Images are cut by the image processor's file; the configuration repeats it.
        let own = Processor::pinpoints(files, self.side)?;
        let pinpoints = own.or_else(|| self.language.pinpoints.clone());
        Ok(Some(LanguageSide { pinpoints, ..self.language.clone() }))
    }
}
