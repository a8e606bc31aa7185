//! From a checkpoint's files to towers, whatever family they are of.

use std::sync::Arc;

use super::{
    LanguageSide, LoadError, Loaded, ModelCard, Part, Reader, ReaderInfo, ReaderRow, Resident,
    TextTower, VisionTower, Writer,
    checkpoint::Checkpoint,
    family::{self, Architecture, Outline, Towers},
    open_clip, precision,
    probe::{Answers, Probe},
    replicated::replicated,
    runtime::Runtime,
    weights::{Scope, Weights},
};
use crate::{
    checkpoint::{
        MERGES, OPEN_CLIP_CONFIG, SENTENCEPIECE, SPECIAL_TOKENS, TOKENIZER, TOKENIZER_CONFIG,
        VOCABULARY, VOCABULARY_TEXT,
    },
    config,
    preprocess::{ImageSpec, Pixels},
    tokenize::{TextLayout, TextTokenizer, TokenizerFiles, TokenizerOptions, Tokens},
};

/// A checkpoint whose towers show their stages: [`Loaded`] before the batcher takes them.
pub struct ResidentModel {
    /// Embeds images.
    pub vision: Box<dyn Resident<Input = Pixels>>,
    /// Embeds texts; none for stand-alone vision checkpoints.
    pub text: Option<Box<dyn Resident<Input = Tokens>>>,
    /// Reads texts together with an image, where the model does.
    pub reader: Option<Box<dyn Resident<Input = ReaderRow>>>,
    /// Goes with `text`.
    pub tokenizer: Option<Arc<TextTokenizer>>,
    /// What it takes to write captions with the reader.
    pub writer: Option<Writer>,
    /// How images are prepared.
    pub image: ImageSpec,
    /// What the checkpoint says of itself.
    pub card: ModelCard,
    /// Bytes of the weights of the vision tower, and of the text tower and the reader together.
    tower_bytes: [u64; 2],
    /// Where the towers run: one, or as many as there are to be replicas.
    runtimes: Vec<Runtime>,
}

impl From<ResidentModel> for Loaded {
    fn from(model: ResidentModel) -> Self {
        let runtimes = &model.runtimes[..];
        Self {
            vision: replicated(model.vision, runtimes),
            text: model.text.map(|text| replicated(text, runtimes)),
            reader: model.reader.map(|reader| replicated(reader, runtimes)),
            tokenizer: model.tokenizer,
            writer: model.writer,
            image: model.image,
            card: model.card,
            tower_bytes: model.tower_bytes,
        }
    }
}

/// A checkpoint whose files were read as far as they describe it.
struct Opened {
    weights: Weights,
    model: Box<dyn Architecture>,
    image: ImageSpec,
    language: Option<LanguageSide>,
    tokenizer: Option<Arc<TextTokenizer>>,
    /// What `tokenizer` gives.
    layout: Option<TextLayout>,
    revision: String,
}

impl Opened {
    fn new(config: &config::Model) -> Result<Self, LoadError> {
        let mut checkpoint = Checkpoint::open(&config.source)?;
        // A commit identifies the files; without one, they do.
        let within = |error: LoadError| error.within(&config.source);
        let revision = config.revision.clone().map_or_else(|| checkpoint.revision(), Ok);
        let revision = revision.map_err(within)?;
        let mut weights = Weights::new(std::mem::take(&mut checkpoint.weights)).map_err(within)?;
        let mut cleaning = None;
        if checkpoint.is_open_clip {
            weights = weights.with_names_of_open_clip();
            let json = checkpoint.file(OPEN_CLIP_CONFIG).unwrap_or_default();
            let described = open_clip::Described::read(json, &weights).map_err(within)?;
            cleaning = Some(described.cleaning);
            checkpoint.describe(described);
        }
        let model = family::read(&checkpoint).map_err(within)?;
        let image = model.image_spec(&checkpoint).map_err(within)?;
        let language = model.language(&checkpoint).map_err(within)?;
        let layout = model.text_layout();
        let tokenizer = layout.map(|layout| {
            let normalization = config.text_normalization;
            tokenizer(&checkpoint, TokenizerOptions { layout, normalization, cleaning })
        });
        let tokenizer = tokenizer.transpose().map_err(within)?;
        Ok(Self { weights, model, image, language, tokenizer, layout, revision })
    }

    /// The model in words. What is measured at load is left out.
    fn card(&self, config: &config::Model, outline: Outline, runtime: &Runtime) -> ModelCard {
        let description = self.model.description();
        ModelCard {
            family: description.family.to_owned(),
            revision: self.revision.clone(),
            embedding_dim: outline.embedding_dim,
            text_length: self.layout.filter(|_| outline.has_text).map(|layout| layout.text_length),
            patch_size: description.patch_size,
            leading_tokens: description.leading_tokens,
            last_state_is_normed: description.last_state_is_normed,
            vision_layers: description.vision_layers,
            vision_width: description.vision_width,
            queries: description.queries,
            scorer: outline.scorer,
            reader: outline.reader,
            matching_start: match outline.reader {
                Some(ReaderInfo::Matching { start })
                    if config.matching_token == config::MatchingToken::Enc =>
                {
                    start
                }
                _ => None,
            },
            language: self.language.clone(),
            parameters: 0,
            weight_bytes: 0,
            dtype: config.dtype,
            agreement: None,
            device: config.device,
            cpu_features: runtime.cpu_features(),
            matmul_precision: None,
            cuda_kernels: runtime.own.chosen(),
        }
    }

    /// Goes on with candle's operations if our kernels for the device give something else.
    fn check_kernels(
        &self,
        config: &config::Model,
        runtime: &Runtime,
        towers: &mut Towers,
    ) -> Result<(), LoadError> {
        if !runtime.own.is_in_use() {
            return Ok(());
        }
        let probe = Probe::new(&self.image, self.tokenizer.as_deref())?;
        runtime.own.check(towers, &probe, (config.dtype, config.matmul_precision))
    }

    /// The tokenizer of the text tower, or what writes captions with it.
    fn words(self, card: &ModelCard) -> (Option<Arc<TextTokenizer>>, Option<Writer>) {
        match (card.reader, self.tokenizer) {
            (
                Some(ReaderInfo::Captions { start, end, longest, memory_bytes, id_bytes }),
                Some(tokenizer),
            ) => (None, Some(Writer { tokenizer, start, end, longest, memory_bytes, id_bytes })),
            (_, tokenizer) => (tokenizer, None),
        }
    }
}

/// Loads a checkpoint as [`super::load`] does, with towers that show their stages.
///
/// # Errors
/// Names the file and the key or tensor at fault.
pub fn load_resident(config: &config::Model) -> Result<ResidentModel, LoadError> {
    // The files are unmapped when it goes, at the end of this function.
    let opened = Opened::new(config)?;
    let Opened { weights, model, image, .. } = &opened;
    let within = |error: LoadError| error.within(&config.source);
    let config = &config::Model { matmul_precision: precision::wanted(config), ..config.clone() };
    let mut runtime = Runtime::new(config)?;
    let mut runtimes = runtime.replicas(config.replicas).map_err(within)?;
    let check = Check::new(config, &runtime, image, opened.tokenizer.as_deref())?;
    let expected = match &check {
        Some(check) => Some(check.expected(config, &**model, weights).map_err(within)?),
        None => None,
    };
    let load = |runtime: &Runtime| -> Result<(Towers, Outline), LoadError> {
        let root = Scope::root(weights, runtime);
        let outline = model.outline(&root)?;
        Ok((model.load(image, &root, Part::All)?, outline))
    };
    let (mut towers, mut outline) = load(&runtime).map_err(within)?;
    weights.finish().map_err(within)?;
    opened.check_kernels(config, &runtime, &mut towers).map_err(within)?;
    let (mut agreement, mut distance) = (None, None);
    if let Some((check, expected)) = check.zip(expected) {
        let answers = check.answers(&mut towers).map_err(within)?;
        distance = runtime.is_split().then(|| answers.distance(&expected));
        if distance.is_some_and(|far| config.matmul_precision.is_none() && !precision::is_near(far))
        {
            // Their memory first: there is not always room for both.
            drop(towers);
            weights.forget();
            runtime = Runtime::new(&precision::highest(config))?;
            runtimes = runtime.replicas(config.replicas).map_err(within)?;
            (towers, outline) = load(&runtime).map_err(within)?;
        } else {
            agreement = Some(check.agreement(&answers, &expected).map_err(within)?);
        }
    }
    let card = ModelCard {
        parameters: weights.parameters(),
        weight_bytes: weights.resident_bytes(),
        agreement,
        matmul_precision: precision::chosen(config, &runtime, distance),
        ..opened.card(config, outline, &runtime)
    };
    let tower_bytes = [towers.vision_bytes, card.weight_bytes.saturating_sub(towers.vision_bytes)];
    let Towers { vision: Some(vision), text, reader, .. } = towers else {
        return Err(within(LoadError::new("there is no vision tower")));
    };
    let image = opened.image.clone();
    let (tokenizer, writer) = opened.words(&card);
    Ok(ResidentModel {
        vision,
        text,
        reader,
        tokenizer,
        writer,
        image,
        card,
        tower_bytes,
        runtimes,
    })
}

/// A checkpoint that was not loaded: everything but the towers.
pub struct Described {
    /// Goes with the text tower.
    pub tokenizer: Option<Arc<TextTokenizer>>,
    /// What it takes to write captions with the reader.
    pub writer: Option<Writer>,
    /// How images are prepared.
    pub image: ImageSpec,
    /// What the checkpoint says of itself. Parameters and bytes are estimates by its files, and nothing was measured.
    pub card: ModelCard,
    /// Whether rows of texts are read: by a text tower or by a reader.
    pub reads_texts: bool,
}

/// Reads a checkpoint's files as far as they describe it. No tower is loaded, and no check of the weights is made.
///
/// # Errors
/// Names the file and the key or tensor at fault.
pub fn describe(config: &config::Model) -> Result<Described, LoadError> {
    let opened = Opened::new(config)?;
    let within = |error: LoadError| error.within(&config.source);
    let runtime = Runtime::new(config)?;
    let root = Scope::root(&opened.weights, &runtime);
    let outline = opened.model.outline(&root).map_err(within)?;
    let extent = opened.model.extent(&root).map_err(within)?;
    let card = ModelCard {
        parameters: extent.values,
        weight_bytes: extent.bytes,
        ..opened.card(config, outline, &runtime)
    };
    let image = opened.image.clone();
    let reads_texts = outline.has_text || outline.reader.is_some();
    let (tokenizer, writer) = opened.words(&card);
    Ok(Described { tokenizer, writer, image, card, reads_texts })
}

/// Towers that were loaded by themselves.
pub struct PartLoaded {
    /// Embeds images.
    pub vision: Option<VisionTower>,
    /// Embeds texts.
    pub text: Option<TextTower>,
    /// Reads texts together with an image.
    pub reader: Option<Reader>,
    /// Identifies the files that they were read from.
    pub revision: String,
    /// Bytes of their weights: of the vision tower, and of the two others together.
    pub tower_bytes: [u64; 2],
}

/// Loads some of the towers of a checkpoint that was loaded before. How near they are to f32 is known by then, so it is
/// not measured again.
///
/// # Errors
/// As [`load_resident`].
pub fn load_part(config: &config::Model, part: Part) -> Result<PartLoaded, LoadError> {
    let unchecked = Some(config::Agreement::UNCHECKED);
    let config = &config::Model { min_agreement: unchecked, ..config.clone() };
    let opened = Opened::new(config)?;
    let within = |error: LoadError| error.within(&config.source);
    let config = &config::Model { matmul_precision: precision::wanted(config), ..config.clone() };
    let runtime = Runtime::new(config)?;
    let runtimes = runtime.replicas(config.replicas).map_err(within)?;
    let root = Scope::root(&opened.weights, &runtime);
    let mut towers = opened.model.load(&opened.image, &root, part).map_err(within)?;
    opened.check_kernels(config, &runtime, &mut towers).map_err(within)?;
    let tower_bytes =
        [towers.vision_bytes, opened.weights.resident_bytes().saturating_sub(towers.vision_bytes)];
    Ok(PartLoaded {
        vision: towers.vision.map(|vision| replicated(vision, &runtimes)),
        text: towers.text.map(|text| replicated(text, &runtimes)),
        reader: towers.reader.map(|reader| replicated(reader, &runtimes)),
        revision: opened.revision,
        tower_bytes,
    })
}

/// The comparison of a narrow type with f32.
struct Check<'i> {
    probe: Probe,
    image: &'i ImageSpec,
    dtype: config::DType,
    least: f32,
}

impl<'i> Check<'i> {
    /// None in f32 itself, and where nothing is asked.
    fn new(
        config: &config::Model,
        runtime: &Runtime,
        image: &'i ImageSpec,
        tokenizer: Option<&TextTokenizer>,
    ) -> Result<Option<Self>, LoadError> {
        let dtype = config.dtype;
        let least = config.min_agreement.unwrap_or(config::Agreement::usual(dtype));
        let unchecked = config.min_agreement == Some(config::Agreement::UNCHECKED);
        if (dtype == config::DType::F32 && !runtime.is_split()) || unchecked {
            return Ok(None);
        }
        let probe = Probe::new(image, tokenizer)?;
        Ok(Some(Self { probe, image, dtype, least: least.cosine() }))
    }

    /// What f32 gives. Of its layers one is in memory at a time, and none when the towers are loaded.
    fn expected(
        &self,
        config: &config::Model,
        model: &dyn Architecture,
        weights: &Weights,
    ) -> Result<Answers, LoadError> {
        let dtype = config::DType::F32;
        // What is compared with must not share a fault.
        let cuda_kernels = config::CudaKernels::Candle;
        let config = config::Model { dtype, cuda_kernels, ..config.clone() };
        let runtime = Runtime::new(&precision::highest(&config))?;
        let root = Scope::root(weights, &runtime);
        let answers = model.answers(self.image, &root, &self.probe)?;
        weights.forget();
        Ok(answers)
    }

    /// What the towers give.
    fn answers(&self, towers: &mut Towers) -> Result<Answers, LoadError> {
        let images = match &mut towers.vision {
            Some(vision) => self.probe.images(vision)?,
            None => Vec::new(),
        };
        let texts = match &mut towers.text {
            Some(text) => self.probe.texts(text)?,
            None => Vec::new(),
        };
        Ok(Answers::new(images, texts))
    }

    /// # Errors
    /// Fails if it is something else than f32 gives.
    fn agreement(&self, answers: &Answers, expected: &Answers) -> Result<f32, LoadError> {
        let (cosine, dtype) = (answers.agreement(expected), self.dtype);
        if cosine >= self.least {
            tracing::info!(%dtype, cosine, "the least cosine with embeddings in f32");
            return Ok(cosine);
        }
        Err(LoadError::new(format!(
            "the least cosine between embeddings in {dtype} and in f32 is {cosine}, below the {} of \
             --min-agreement: load it in another dtype, or ask for less",
            self.least
        )))
    }
}

fn tokenizer(
    checkpoint: &Checkpoint,
    options: TokenizerOptions,
) -> Result<Arc<TextTokenizer>, LoadError> {
    let files = TokenizerFiles {
        tokenizer: checkpoint.file(TOKENIZER),
        sentencepiece: checkpoint.file(SENTENCEPIECE),
        vocab: checkpoint.file(VOCABULARY),
        merges: checkpoint.file(MERGES),
        words: checkpoint.file(VOCABULARY_TEXT),
        config: checkpoint.file(TOKENIZER_CONFIG),
        special_tokens_map: checkpoint.file(SPECIAL_TOKENS),
    };
    TextTokenizer::from_files(&files, options)
        .map(Arc::new)
        .map_err(|error| LoadError::new(error.to_string()))
}
