//! The families of models: what a family must say, and the one place that knows them all.

use super::{
    LanguageSide, LoadError, Part, Queries, ReaderInfo, ReaderRow, Resident, Scorer, blip, blip2,
    checkpoint::Checkpoint,
    clip, llava,
    probe::{Answers, Probe},
    siglip,
    weights::{Extent, Scope},
};
use crate::{
    checkpoint::{
        content::ReadError,
        fields::{Document, Fields},
    },
    preprocess::{ImageSpec, Pixels},
    tokenize::{TextLayout, Tokens},
};

/// A model that its configuration files describe, before any weight is read. A family implements it once.
pub(super) trait Architecture {
    /// What is known of the model without its weights.
    fn description(&self) -> Description;

    /// How images are prepared.
    ///
    /// # Errors
    /// Names the file and the key at fault.
    fn image_spec(&self, files: &Checkpoint) -> Result<ImageSpec, LoadError>;

    /// Which ids the text tower reads; none without a text tower.
    fn text_layout(&self) -> Option<TextLayout>;

    /// What is known without the towers, but for single values of their files.
    ///
    /// # Errors
    /// Names the tensor at fault.
    fn outline(&self, root: &Scope<'_>) -> Result<Outline, LoadError>;

    /// How large the towers are, as far as the files tell.
    ///
    /// # Errors
    /// Names the tensor at fault.
    fn extent(&self, root: &Scope<'_>) -> Result<Extent, LoadError> {
        Ok(root.extent())
    }

    /// The towers, or those that are asked for.
    ///
    /// # Errors
    /// Names the tensor at fault.
    fn load(&self, image: &ImageSpec, root: &Scope<'_>, part: Part) -> Result<Towers, LoadError>;

    /// What [`Architecture::load`] and a pass for each row of a probe give, with one layer in memory at a time.
    ///
    /// # Errors
    /// As [`Architecture::load`].
    fn answers(
        &self,
        image: &ImageSpec,
        root: &Scope<'_>,
        probe: &Probe,
    ) -> Result<Answers, LoadError>;

    /// What the language model in the same files reads of the vision tower; none without one.
    ///
    /// # Errors
    /// Names the file and the key at fault.
    fn language(&self, files: &Checkpoint) -> Result<Option<LanguageSide>, LoadError> {
        let _ = files;
        Ok(None)
    }
}

/// What is known of a model without its weights.
#[derive(Debug, Clone, Copy)]
pub(super) struct Description {
    /// As `model_type` of `config.json` says.
    pub(super) family: &'static str,
    /// Pixels of a patch's side.
    pub(super) patch_size: usize,
    /// Tokens of the vision tower before those of the patches.
    pub(super) leading_tokens: usize,
    /// Whether a layer norm stands between the last hidden state and what `last_hidden_state` is.
    pub(super) last_state_is_normed: bool,
    /// Layers of the vision tower.
    pub(super) vision_layers: usize,
    /// Values of one token of the vision tower.
    pub(super) vision_width: usize,
    /// What reads the vision tower for the model, where that is more than one vector.
    pub(super) queries: Option<Queries>,
}

/// What is known of a model's towers without loading them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outline {
    /// Whether there is a text tower.
    pub(super) has_text: bool,
    /// What the reader is for, where the family has one.
    pub(super) reader: Option<ReaderInfo>,
    /// Goes with the text tower.
    pub(super) scorer: Option<Scorer>,
    /// Values of an embedding.
    pub(super) embedding_dim: usize,
}

/// The towers of a model, on their device, or some of them.
#[derive(Default)]
pub(super) struct Towers {
    pub(super) vision: Option<Box<dyn Resident<Input = Pixels>>>,
    pub(super) text: Option<Box<dyn Resident<Input = Tokens>>>,
    /// Reads texts together with an image, where the family does. It is loaded with `text`.
    pub(super) reader: Option<Box<dyn Resident<Input = ReaderRow>>>,
    /// Bytes of the vision tower's weights. What both towers share is among them.
    pub(super) vision_bytes: u64,
}

/// The model types that are served, for errors.
const MODEL_TYPES: &str = "`siglip`, `siglip2`, `siglip_vision_model`, `siglip2_vision_model`, `clip`, \
                           `clip_vision_model`, `blip`, `blip-2`, `llava_onevision`, `llava_next` or `llava`";

/// Model types that look like served ones and are not. Their vectors would be wrong.
const RELATIVES: [(&str, &str); 15] = [
    ("chinese_clip", "its text tower is a BERT"),
    ("altclip", "its text tower is an XLM-RoBERTa"),
    ("metaclip_2", "it has another tokenizer and another rule for the end of a text"),
    ("clip_text_model", "it has no vision tower, and every model here has one"),
    ("siglip_text_model", "it has no vision tower, and every model here has one"),
    ("clipseg", "it segments images"),
    ("mobileclip", "its vision tower is another network"),
    ("align", "its towers are other networks"),
    ("flava", "its towers are other networks"),
    ("llava_llama", LLAVAS_OWN),
    ("llava_mistral", LLAVAS_OWN),
    ("llava_qwen", LLAVAS_OWN),
    ("llava_next_video", "it reads videos"),
    ("video_llava", "it reads videos"),
    ("vipllava", "it reads several layers through a projector of its own"),
];

const LLAVAS_OWN: &str = "these are the files of LLaVA's own code; those that were converted for transformers are served";

/// The architecture that a checkpoint's files describe.
///
/// # Errors
/// Names the file, and the key at fault.
pub(super) fn read(files: &Checkpoint) -> Result<Box<dyn Architecture>, LoadError> {
    let at_fault = |fault: String| LoadError::new(format!("{}: {fault}", files.config_name()));
    let read = |error: ReadError| at_fault(error.to_string());
    let document = Document::parse(files.config()).map_err(read)?;
    let root = document.fields();
    match root.text("model_type").map_err(read)?.unwrap_or_default() {
        "siglip" | "siglip2" | "siglip_vision_model" | "siglip2_vision_model" => {
            siglip::read(files, &root)
        }
        "clip" | "clip_vision_model" => clip::read(files, &root),
        "blip" => blip::read(files, &root),
        "blip-2" => blip2::read(files, &root),
        "llava_onevision" | "llava_next" | "llava" => llava::read(files, &root),
        other => {
            let unread = root.unread("model_type", MODEL_TYPES).to_string();
            Err(at_fault(match RELATIVES.iter().find(|(name, _)| *name == other) {
                Some((_, why)) => format!("{unread}: {why}"),
                None => unread,
            }))
        }
    }
}

/// The vision tower of a model that has another text side, and the pixels of an image's side.
///
/// * `config`: the object that describes the tower
/// * `model_type`: the tower's, where that object does not say
///
/// # Errors
/// Names the file and the key at fault.
pub(super) fn vision_tower(
    files: &Checkpoint,
    config: &Fields<'_>,
    model_type: &str,
) -> Result<(Box<dyn Architecture>, u32), LoadError> {
    let at_fault = |fault: ReadError| LoadError::new(format!("{}: {fault}", files.config_name()));
    match config.text("model_type").map_err(at_fault)?.unwrap_or(model_type) {
        "siglip_vision_model" => siglip::tower(files, config),
        "clip_vision_model" => clip::tower(files, config),
        _ => Err(at_fault(
            config.unread("model_type", "`siglip_vision_model` or `clip_vision_model`"),
        )),
    }
}
