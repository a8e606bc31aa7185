//! From a checkpoint's files to towers, whatever family they are of.

use std::sync::Arc;

use super::{
    LoadError, Loaded, ModelCard, ReaderInfo, ReaderRow, Resident, Writer,
    checkpoint::Checkpoint,
    family::{self, Architecture, Towers},
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
    tokenize::{TextTokenizer, TokenizerFiles, TokenizerOptions, Tokens},
};

/// A checkpoint whose towers show their stages: [`Loaded`] before the batcher takes them.
pub struct ResidentModel {
    /// Embeds images.
    pub vision: Box<dyn Resident<Input = Pixels>>,
    /// Embeds texts; none for stand-alone vision checkpoints.
    pub text: Option<Box<dyn Resident<Input = Tokens>>>,
    /// Reads texts in the light of an image, where the model does.
    pub reader: Option<Box<dyn Resident<Input = ReaderRow>>>,
    /// Goes with `text`.
    pub tokenizer: Option<Arc<TextTokenizer>>,
    /// What it takes to write captions with the reader.
    pub writer: Option<Writer>,
    /// How images are prepared.
    pub image: ImageSpec,
    /// What the checkpoint says of itself.
    pub card: ModelCard,
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
        }
    }
}

/// Loads a checkpoint as [`super::load`] does, with towers that show their stages.
///
/// # Errors
/// Names the file and the key or tensor at fault.
pub fn load_resident(config: &config::Model) -> Result<ResidentModel, LoadError> {
    let mut checkpoint = Checkpoint::open(&config.source)?;
    // A commit identifies the files; without one, they do.
    let revision = config.revision.clone().unwrap_or_else(|| checkpoint.revision());
    let within = |error: LoadError| error.within(&config.source);
    // The files are unmapped when `weights` goes, at the end of this function.
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
    let config = &config::Model { matmul_precision: precision::wanted(config), ..config.clone() };
    let mut runtime = Runtime::new(config)?;
    let mut runtimes = runtime.replicas(config.replicas).map_err(within)?;
    let check = Check::new(config, &runtime, &image, tokenizer.as_deref())?;
    let expected = match &check {
        Some(check) => Some(check.expected(config, &*model, &weights).map_err(within)?),
        None => None,
    };
    let mut towers = model.load(&image, &Scope::root(&weights, &runtime)).map_err(within)?;
    weights.finish().map_err(within)?;
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
            towers = model.load(&image, &Scope::root(&weights, &runtime)).map_err(within)?;
        } else {
            agreement = Some(check.agreement(&answers, &expected).map_err(within)?);
        }
    }
    let description = model.description();
    let card = ModelCard {
        family: description.family.to_owned(),
        revision,
        embedding_dim: towers.embedding_dim,
        text_length: layout.filter(|_| towers.text.is_some()).map(|layout| layout.text_length),
        patch_size: description.patch_size,
        leading_tokens: description.leading_tokens,
        last_state_is_normed: description.last_state_is_normed,
        vision_layers: description.vision_layers,
        vision_width: description.vision_width,
        queries: description.queries,
        scorer: towers.scorer,
        reader: towers.reader.as_ref().map(|(_, info)| *info),
        matching_start: match towers.reader {
            Some((_, ReaderInfo::Matching { start }))
                if config.matching_token == config::MatchingToken::Enc =>
            {
                start
            }
            _ => None,
        },
        language,
        parameters: weights.parameters(),
        weight_bytes: weights.resident_bytes(),
        dtype: config.dtype,
        agreement,
        device: config.device,
        cpu_features: runtime.cpu_features(),
        matmul_precision: precision::chosen(config, &runtime, distance),
    };
    let Towers { vision, text, reader, .. } = towers;
    let reader = reader.map(|(reader, _)| reader);
    let (tokenizer, writer) = match (card.reader, tokenizer) {
        (Some(ReaderInfo::Captions { start, end, longest, memory_bytes }), Some(tokenizer)) => {
            (None, Some(Writer { tokenizer, start, end, longest, memory_bytes }))
        }
        (_, tokenizer) => (tokenizer, None),
    };
    Ok(ResidentModel { vision, text, reader, tokenizer, writer, image, card, runtimes })
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
        let runtime =
            Runtime::new(&precision::highest(&config::Model { dtype, ..config.clone() }))?;
        let root = Scope::root(weights, &runtime);
        let answers = model.answers(self.image, &root, &self.probe)?;
        weights.forget();
        Ok(answers)
    }

    /// What the towers give.
    fn answers(&self, towers: &mut Towers) -> Result<Answers, LoadError> {
        let images = self.probe.images(&mut towers.vision)?;
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
