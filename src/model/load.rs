//! From a checkpoint's files to towers.

use std::sync::Arc;

use super::{
    LoadError, Loaded, ModelCard, PairHead,
    checkpoint::Checkpoint,
    open_clip,
    probe::{Answers, Probe},
    replicated::replicated,
    runtime::Runtime,
    siglip::{
        self,
        config::{Resolution, SiglipConfig},
    },
    weights::{Scope, Weights},
};
use crate::{
    checkpoint::{
        OPEN_CLIP_CONFIG, PREPROCESSOR, PROCESSOR, SENTENCEPIECE, SPECIAL_TOKENS, TOKENIZER,
        TOKENIZER_CONFIG,
    },
    config,
    preprocess::{ImageSpec, TargetSize},
    tokenize::{TextTokenizer, TokenizerFiles, TokenizerOptions},
};

/// A checkpoint in concrete types: [`Loaded`] before its towers are boxed. Tests tap their stages.
pub struct Siglip {
    /// Embeds pictures.
    pub vision: siglip::Vision,
    /// Embeds texts; none for stand-alone vision checkpoints.
    pub text: Option<siglip::Text>,
    /// Goes with `text`.
    pub tokenizer: Option<Arc<TextTokenizer>>,
    /// How pictures are prepared.
    pub image: ImageSpec,
    /// What the checkpoint says of itself.
    pub card: ModelCard,
    /// Where the towers run: one, or as many as there are to be replicas.
    runtimes: Vec<Runtime>,
}

impl From<Siglip> for Loaded {
    fn from(model: Siglip) -> Self {
        let runtimes = &model.runtimes[..];
        Self {
            vision: replicated(model.vision, runtimes, siglip::Vision::on),
            text: model.text.map(|text| replicated(text, runtimes, siglip::Text::on)),
            tokenizer: model.tokenizer,
            image: model.image,
            card: model.card,
        }
    }
}

/// Loads a checkpoint as [`super::load`] does, in concrete types.
///
/// # Errors
/// Names the file and the key or tensor at fault.
pub fn load_siglip(config: &config::Model) -> Result<Siglip, LoadError> {
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
    let model =
        SiglipConfig::parse(checkpoint.config_name(), checkpoint.config()).map_err(within)?;
    let image = image_spec(&checkpoint, &model).map_err(within)?;
    let tokenizer = match &model.text {
        Some(text) => {
            let options = TokenizerOptions {
                text_length: text.max_position_embeddings,
                vocab_size: text.vocab_size,
                normalization: config.text_normalization,
                cleaning,
            };
            Some(tokenizer(&checkpoint, options).map_err(within)?)
        }
        None => None,
    };
    let runtime = Runtime::new(config)?;
    let runtimes = runtime.replicas(config.replicas).map_err(within)?;
    let check = Check::new(config, &image, tokenizer.as_deref())?;
    let expected = match &check {
        Some(check) => Some(check.expected(config, &model, &weights).map_err(within)?),
        None => None,
    };
    let root = Scope::root(&weights, &runtime);
    let mut towers = Towers::load(&model, &image, &root).map_err(within)?;
    weights.finish().map_err(within)?;
    let mut agreement = None;
    if let Some((check, expected)) = check.zip(expected) {
        agreement = Some(check.agreement(&mut towers, &expected).map_err(within)?);
    }
    let card = ModelCard {
        family: model.vision.family().to_owned(),
        revision,
        embedding_dim: model.vision.encoder.hidden_size,
        text_length: model.text.as_ref().map(|text| text.max_position_embeddings),
        patch_size: model.vision.patch_size,
        vision_layers: model.vision.encoder.num_hidden_layers,
        vision_width: model.vision.encoder.hidden_size,
        pair_head: towers.pair_head,
        parameters: weights.parameters(),
        weight_bytes: weights.resident_bytes(),
        dtype: config.dtype,
        agreement,
        device: config.device,
        cpu_features: runtime.cpu_features(),
    };
    Ok(Siglip { vision: towers.vision, text: towers.text, tokenizer, image, card, runtimes })
}

struct Towers {
    vision: siglip::Vision,
    text: Option<siglip::Text>,
    pair_head: Option<PairHead>,
}

impl Towers {
    fn load(model: &SiglipConfig, image: &ImageSpec, root: &Scope<'_>) -> Result<Self, LoadError> {
        let vision = siglip::Vision::load(&model.vision, image, &vision_scope(root))?;
        let Some(text) = text(model, root)? else {
            return Ok(Self { vision, text: None, pair_head: None });
        };
        let pair_head = PairHead {
            logit_scale: root.scalar("logit_scale")?,
            logit_bias: root.scalar("logit_bias")?,
        };
        Ok(Self { vision, text: Some(text), pair_head: Some(pair_head) })
    }
}

/// A stand-alone tower may be stored with the full model's prefix or without one.
fn vision_scope<'w>(root: &Scope<'w>) -> Scope<'w> {
    match root.contains("embeddings.patch_embedding.weight") {
        true => root.clone(),
        false => root.at("vision_model"),
    }
}

fn text(model: &SiglipConfig, root: &Scope<'_>) -> Result<Option<siglip::Text>, LoadError> {
    let Some(config) = &model.text else { return Ok(None) };
    if config.projection_size != model.vision.encoder.hidden_size {
        return Err(LoadError::new(format!(
            "config.json: text_config.projection_size {} is not vision_config.hidden_size {}",
            config.projection_size, model.vision.encoder.hidden_size
        )));
    }
    siglip::Text::load(config, &root.at("text_model")).map(Some)
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
        image: &'i ImageSpec,
        tokenizer: Option<&TextTokenizer>,
    ) -> Result<Option<Self>, LoadError> {
        let dtype = config.dtype;
        let least = config.min_agreement.unwrap_or(config::Agreement::usual(dtype));
        if dtype == config::DType::F32 || least == config::Agreement::UNCHECKED {
            return Ok(None);
        }
        let probe = Probe::new(image, tokenizer)?;
        Ok(Some(Self { probe, image, dtype, least: least.cosine() }))
    }

    /// What f32 gives. Of its layers one is in memory at a time, and none when the towers are loaded.
    fn expected(
        &self,
        config: &config::Model,
        model: &SiglipConfig,
        weights: &Weights,
    ) -> Result<Answers, LoadError> {
        let runtime = Runtime::new(&config::Model { dtype: config::DType::F32, ..config.clone() })?;
        let root = Scope::root(weights, &runtime);
        let scope = vision_scope(&root);
        let images = siglip::Vision::once(&model.vision, self.image, &scope, &self.probe.pixels)?;
        let texts = match &model.text {
            Some(text) => siglip::Text::once(text, &root.at("text_model"), &self.probe.tokens)?,
            None => Vec::new(),
        };
        weights.forget();
        Ok(Answers::new(images, texts))
    }

    /// # Errors
    /// Fails if the towers give something else than f32 does.
    fn agreement(&self, towers: &mut Towers, expected: &Answers) -> Result<f32, LoadError> {
        let images = self.probe.images(&mut towers.vision)?;
        let texts = match &mut towers.text {
            Some(text) => self.probe.texts(text)?,
            None => Vec::new(),
        };
        let (cosine, dtype) = (Answers::new(images, texts).agreement(expected), self.dtype);
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

/// From `preprocessor_config.json`, else from the image processor inside `processor_config.json`, else
/// the family's defaults.
fn image_spec(checkpoint: &Checkpoint, model: &SiglipConfig) -> Result<ImageSpec, LoadError> {
    let (file, json) = [PREPROCESSOR, PROCESSOR]
        .into_iter()
        .find_map(|file| Some((file, checkpoint.file(file)?)))
        .unwrap_or((PREPROCESSOR, b"{}"));
    let at_fault = |message: String| LoadError::new(format!("{file}: {message}"));
    let pixels = |count: usize, key: &str| {
        let too_large =
            |_| LoadError::new(format!("config.json: vision_config.{key} is too large"));
        u32::try_from(count).map_err(too_large)
    };
    let spec = match model.vision.resolution {
        Resolution::Fixed { image_size } => {
            ImageSpec::parse(json, pixels(image_size, "image_size")?)
        }
        Resolution::Naflex => {
            ImageSpec::parse_naflex(json, pixels(model.vision.patch_size, "patch_size")?)
        }
    };
    let spec = spec.map_err(|error| at_fault(error.to_string()))?;
    if let (Resolution::Fixed { image_size: side }, TargetSize::Fixed { height, width }) =
        (model.vision.resolution, spec.size)
        && (height as usize, width as usize) != (side, side)
    {
        return Err(at_fault(format!(
            "size is {height} x {width}, but config.json has an image_size of {side}"
        )));
    }
    Ok(spec)
}

fn tokenizer(
    checkpoint: &Checkpoint,
    options: TokenizerOptions,
) -> Result<Arc<TextTokenizer>, LoadError> {
    let files = TokenizerFiles {
        tokenizer: checkpoint.file(TOKENIZER),
        sentencepiece: checkpoint.file(SENTENCEPIECE),
        config: checkpoint.file(TOKENIZER_CONFIG),
        special_tokens_map: checkpoint.file(SPECIAL_TOKENS),
    };
    TextTokenizer::from_files(&files, options)
        .map(Arc::new)
        .map_err(|error| LoadError::new(error.to_string()))
}
