//! The towers of a model, resident on a device.

mod blip;
mod blip2;
mod checkpoint;
mod clip;
mod cores;
mod demo;
mod device;
mod family;
mod kernels;
mod llava;
mod load;
mod nn;
mod open_clip;
mod pairs;
mod pass;
mod precision;
mod probe;
mod reader;
mod replicated;
mod runtime;
mod scorer;
mod siglip;
mod tap;
mod weights;

use std::sync::Arc;

#[cfg(feature = "cuda")]
#[doc(hidden)]
pub use device::{Compared, compare_kernels};
pub use load::{Described, PartLoaded, ResidentModel, describe, load_part, load_resident};
pub use nn::{Stage, Stages};
pub use pass::Pass;
pub use reader::{BeginRow, CaptionMemory, MatchRow, MemorySlot, ReaderRow, StepRow};
pub use scorer::Scorer;
pub use tap::Tap;

use crate::{
    config,
    embedding::Embedding,
    preprocess::{ImageSpec, Pinpoints, Pixels},
    tokenize::{TextTokenizer, Tokens},
};

/// One tower of a model, resident on a device. It is synchronous and knows no tokio. An implementor has one method
/// that runs it, [`Tower::begin`]; the others call it.
pub trait Tower: Send + 'static {
    /// The type of a row: [`Pixels`], [`Tokens`] or [`ReaderRow`].
    type Input: Send + 'static;

    /// For a tower that reads rows of several sizes: the row that the limit on rows is meant for, which is the
    /// largest that a request gets without asking for its size. Only its shape counts; it has no values.
    fn usual_row(&self) -> Option<Self::Input> {
        None
    }

    /// Begins a forward pass. A device that computes by itself goes on after this returns, and then another pass may
    /// be begun before this one is finished. On other devices the pass has run.
    ///
    /// The result has the output that each row asks for, in the order of the rows: an unnormalised embedding, or the
    /// states of all tokens, row-major. Apart from rounding, a row's output does not depend on the other rows. No
    /// layer above the highest one that is asked for runs.
    ///
    /// * `taps`: the output for each row
    ///
    /// # Errors
    /// Fails for all rows together, here or when the pass is finished. The caller halves the batch to find the row
    /// at fault. An output that the tower does not have is an error too.
    fn begin(&mut self, rows: &[Self::Input], taps: &[Tap]) -> Result<Pass, TowerError>;

    /// Runs a pass to its end.
    ///
    /// # Errors
    /// As [`Tower::begin`].
    fn tapped(&mut self, rows: &[Self::Input], taps: &[Tap]) -> Result<Vec<Embedding>, TowerError> {
        self.begin(rows, taps)?.finish()
    }

    /// The unnormalised embeddings of rows.
    ///
    /// # Errors
    /// As [`Tower::begin`].
    fn forward(&mut self, rows: &[Self::Input]) -> Result<Vec<Embedding>, TowerError> {
        self.tapped(rows, &vec![Tap::Pooled; rows.len()])
    }
}

/// Why a forward pass failed.
#[derive(Debug, thiserror::Error)]
pub enum TowerError {
    /// The device has no memory left for a batch of this size.
    #[error("out of device memory")]
    OutOfMemory,
    /// The device or a kernel failed.
    #[error("the forward pass failed")]
    Device(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A row of a shape that the tower does not take; a defect of the caller.
    #[error("a row has the wrong shape: {0}")]
    Shape(String),
}

/// A tower that embeds images.
pub type VisionTower = Box<dyn Tower<Input = Pixels>>;
/// A tower that embeds texts.
pub type TextTower = Box<dyn Tower<Input = Tokens>>;

/// A tower that a checkpoint was loaded into.
pub trait Resident: Tower<Input: Send + Sync> {
    /// Every stage of a pass, for tests.
    ///
    /// # Errors
    /// Fails like [`Tower::forward`], and for rows of different numbers of tokens, whose hidden states do not fit
    /// into one tensor.
    fn stages(&self, rows: &[Self::Input]) -> Result<Stages, TowerError>;

    /// The same weights, which both share, computed with on other threads of the same device.
    #[doc(hidden)]
    fn on(&self, runtime: &runtime::Runtime) -> Box<dyn Resident<Input = Self::Input>>;
}

impl<T: Tower + ?Sized> Tower for Box<T> {
    type Input = T::Input;

    fn usual_row(&self) -> Option<T::Input> {
        (**self).usual_row()
    }

    fn begin(&mut self, rows: &[T::Input], taps: &[Tap]) -> Result<Pass, TowerError> {
        (**self).begin(rows, taps)
    }
}

/// A tower that reads texts together with an image.
pub type Reader = Box<dyn Tower<Input = ReaderRow>>;

/// What it takes to write captions with a model's reader.
#[derive(Debug, Clone)]
pub struct Writer {
    /// Prompts to ids, and ids to captions.
    pub tokenizer: Arc<TextTokenizer>,
    /// Begins every caption.
    pub start: u32,
    /// Ends a caption.
    pub end: u32,
    /// The most ids of a caption.
    pub longest: usize,
    /// Bytes that the decoder remembers of a caption, at most.
    pub memory_bytes: usize,
    /// Bytes that the decoder remembers of one id.
    pub id_bytes: usize,
}

/// What a model's reader is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReaderInfo {
    /// It matches texts with images.
    Matching {
        /// The token that the head was trained to read in front of a text, where that is another than transformers
        /// puts there.
        start: Option<u32>,
    },
    /// It writes captions.
    Captions {
        /// Begins every caption.
        start: u32,
        /// Ends a caption.
        end: u32,
        /// The most ids of a caption.
        longest: usize,
        /// Bytes that the decoder remembers of a caption, at most.
        memory_bytes: usize,
        /// Bytes that the decoder remembers of one id.
        id_bytes: usize,
    },
}

/// What the language model beside a vision tower reads of it, as their files say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanguageSide {
    /// The hidden states; those of several layers are joined token by token. Negative numbers count from the end.
    pub feature_layers: Vec<i64>,
    /// As `vision_feature_select_strategy` says: `full`, or `default`, which leaves the first token out.
    pub select_strategy: &'static str,
    /// The sizes of which the best one is cut into tiles.
    pub pinpoints: Option<Pinpoints>,
}

/// Queries that read an image for a model: each gives a vector of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queries {
    /// How many there are.
    pub count: usize,
    /// Values of one of their states.
    pub width: usize,
    /// Whether their vectors are the words of a language model, in place of embeddings.
    pub are_for_language: bool,
}

/// What a loaded checkpoint says of itself.
#[derive(Debug, Clone)]
pub struct ModelCard {
    /// `siglip`, `siglip2`, `clip`, ...
    pub family: String,
    /// Identifies the weights: the hub commit, else a hash over the files.
    pub revision: String,
    /// Values of an embedding.
    pub embedding_dim: usize,
    /// Ids of a text, padding included; none for a checkpoint without a text tower.
    pub text_length: Option<usize>,
    /// Pixels of a patch's side.
    pub patch_size: usize,
    /// Tokens of the vision tower before those of the patches: 1 where it has a class token.
    pub leading_tokens: usize,
    /// Whether the last layer norm stands between the last hidden state and the tower's `last_hidden_state`.
    pub last_state_is_normed: bool,
    /// Layers of the vision tower.
    pub vision_layers: usize,
    /// Values of one token of the vision tower.
    pub vision_width: usize,
    /// How pairs are scored; none without a text tower.
    pub scorer: Option<Scorer>,
    /// What its reader is for; none without one.
    pub reader: Option<ReaderInfo>,
    /// What reads images for the model, where that gives more than one vector; `embedding_dim` is that of each.
    pub queries: Option<Queries>,
    /// The token that replaces the first one of a text before a matching head reads it; none where none does.
    pub matching_start: Option<u32>,
    /// What a language model reads of the vision tower; none without one.
    pub language: Option<LanguageSide>,
    /// Parameters of both towers.
    pub parameters: u64,
    /// Bytes of the resident weights.
    pub weight_bytes: u64,
    /// The element type that the towers run in.
    pub dtype: config::DType,
    /// The least cosine between its embeddings and those in f32, measured at load; none in f32 itself, or where it
    /// was not measured.
    pub agreement: Option<f32>,
    /// Where they run.
    pub device: config::Device,
    /// The processor's instructions that they use; none on other devices.
    pub cpu_features: Option<Instructions>,
    /// How they multiply f32; none in other types and on other devices.
    pub matmul_precision: Option<Precision>,
    /// Whose kernels they use on a CUDA device; none elsewhere.
    pub cuda_kernels: Option<Kernels>,
}

/// Whose kernels are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernels {
    /// As the configuration calls them.
    pub value: config::CudaKernels,
    /// A sentence on why these.
    pub why: String,
}

/// How f32 is multiplied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Precision {
    /// As the configuration calls it.
    pub value: config::MatmulPrecision,
    /// A sentence on why it was chosen.
    pub why: String,
}

/// A set of a processor's instructions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instructions {
    /// As the configuration calls it.
    pub name: String,
    /// A sentence on why it was chosen.
    pub why: String,
}

/// Which towers of a model are to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Every tower.
    All,
    /// The vision tower.
    Vision,
    /// The text tower and the reader, as far as the model has them.
    Text,
}

impl Part {
    fn has_vision(self) -> bool {
        self != Self::Text
    }

    fn has_text(self) -> bool {
        self != Self::Vision
    }
}

/// A loaded checkpoint, ready to be handed to a worker.
pub struct Loaded {
    /// Embeds images.
    pub vision: VisionTower,
    /// Embeds texts; none for stand-alone vision checkpoints.
    pub text: Option<TextTower>,
    /// Reads texts together with an image, where the model does.
    pub reader: Option<Reader>,
    /// Goes with `text`.
    pub tokenizer: Option<Arc<TextTokenizer>>,
    /// What it takes to write captions with the reader.
    pub writer: Option<Writer>,
    /// How images are prepared.
    pub image: ImageSpec,
    /// What the checkpoint says of itself.
    pub card: ModelCard,
    /// Bytes of the weights of the vision tower, and of the text tower and the reader together.
    pub tower_bytes: [u64; 2],
}

/// Why a checkpoint could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct LoadError {
    /// Names the file, and the key or tensor at fault.
    pub message: String,
}

impl LoadError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }

    /// Puts the checkpoint's name in front.
    fn within(self, source: &str) -> Self {
        Self { message: format!("{source}: {}", self.message) }
    }
}

/// A pass that belongs to loading failed.
impl From<TowerError> for LoadError {
    fn from(error: TowerError) -> Self {
        Self::new(error.to_string())
    }
}

/// Loads a checkpoint as the configuration names it: the embedded demo or a folder in HF layout. A model
/// from the hub is in a folder by now, and `revision` is its commit.
///
/// # Errors
/// Names the file and the key or tensor at fault.
pub fn load(config: &config::Model) -> Result<Loaded, LoadError> {
    load_resident(config).map(Loaded::from)
}
