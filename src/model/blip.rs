//! BLIP: retrieval checkpoints, which embed and match, and captioning checkpoints.

pub(super) mod config;
mod decoder;
pub(super) mod text;
pub(super) mod vision;

use self::{
    config::{BlipConfig, Purpose},
    decoder::Decoder,
    text::Text,
};
use super::{
    LoadError, Part, ReaderInfo, Scorer,
    checkpoint::Checkpoint,
    family::{Architecture, Description, Outline, Towers},
    nn::EncoderTower,
    probe::{Answers, Probe},
    weights::Scope,
};
use crate::{
    checkpoint::fields::Fields,
    preprocess::{ImageSpec, TargetSize},
    tokenize::{Scheme, TextLayout},
};

/// The model that a `config.json` of the family describes.
///
/// # Errors
/// Names the file and the key at fault.
pub(super) fn read(
    files: &Checkpoint,
    config: &Fields<'_>,
) -> Result<Box<dyn Architecture>, LoadError> {
    let config = BlipConfig::read(files.config_name(), config)?;
    Ok(Box::new(config))
}

impl BlipConfig {
    /// Keys and values of every layer, for every state of an image and every id of a caption.
    fn memory_bytes(&self) -> usize {
        let patches = (self.vision.image_size / self.vision.patch_size).pow(2);
        (1 + patches + self.text.text_length) * self.state_bytes()
    }

    /// Keys and values of every layer, for one state of an image or one id of a caption.
    fn state_bytes(&self) -> usize {
        let layers = &self.text.layers;
        2 * layers.num_hidden_layers * layers.hidden_size * size_of::<f32>()
    }
}

/// How images are prepared: squashed to a square.
///
/// * `side`: pixels of its side
///
/// # Errors
/// Names the file and the key at fault.
pub(super) fn squashed(files: &Checkpoint, side: usize) -> Result<ImageSpec, LoadError> {
    let (file, json) = files.preprocessor();
    let at_fault = |message: String| LoadError::new(format!("{file}: {message}"));
    let pixels = u32::try_from(side)
        .map_err(|_| LoadError::new("config.json: vision_config.image_size is too large"))?;
    let spec = ImageSpec::parse_squashed(json, pixels);
    let spec = spec.map_err(|error| at_fault(error.to_string()))?;
    if spec.size != (TargetSize::Fixed { height: pixels, width: pixels }) {
        let [height, width] = spec.size.of(pixels, pixels);
        return Err(at_fault(format!(
            "size is {height} x {width}, but config.json has an image_size of {side}"
        )));
    }
    Ok(spec)
}

impl Architecture for BlipConfig {
    fn description(&self) -> Description {
        let encoder = &self.vision.encoder;
        Description {
            family: "blip",
            patch_size: self.vision.patch_size,
            leading_tokens: 1,
            last_state_is_normed: true,
            vision_layers: encoder.num_hidden_layers,
            vision_width: encoder.hidden_size,
            queries: None,
        }
    }

    fn image_spec(&self, files: &Checkpoint) -> Result<ImageSpec, LoadError> {
        squashed(files, self.vision.image_size)
    }

    fn text_layout(&self) -> Option<TextLayout> {
        Some(TextLayout {
            text_length: self.text.text_length,
            vocab_size: self.text.vocab_size,
            scheme: Scheme::Bert,
        })
    }

    fn outline(&self, _: &Scope<'_>) -> Result<Outline, LoadError> {
        let start = self.text.start;
        Ok(match self.purpose {
            Purpose::Retrieval { embedding_dim } => Outline {
                has_text: true,
                reader: Some(ReaderInfo::Matching { start: Some(start) }),
                scorer: Some(Scorer::Matching),
                embedding_dim,
            },
            Purpose::Captions => Outline {
                has_text: false,
                reader: Some(ReaderInfo::Captions {
                    start,
                    end: self.text.end,
                    longest: self.text.text_length,
                    memory_bytes: self.memory_bytes(),
                    id_bytes: self.state_bytes(),
                }),
                scorer: None,
                embedding_dim: self.vision.encoder.hidden_size,
            },
        })
    }

    fn load(&self, image: &ImageSpec, root: &Scope<'_>, part: Part) -> Result<Towers, LoadError> {
        let mut towers = Towers::default();
        if part.has_vision() {
            let vision = vision::load((&self.vision, self.purpose), image, root)?;
            towers.vision = Some(Box::new(EncoderTower::new(vision)));
            towers.vision_bytes = root.loaded_bytes();
        }
        if !part.has_text() {
            return Ok(towers);
        }
        match self.purpose {
            Purpose::Retrieval { embedding_dim } => {
                let text = Text::load(&self.text, embedding_dim, root)?;
                towers.reader = Some(Box::new(text.matcher(&self.text, root)?));
                towers.text = Some(Box::new(EncoderTower::new(text)));
            }
            Purpose::Captions => {
                towers.reader = Some(Box::new(Decoder::load(&self.text, self.is_tied, root)?));
            }
        }
        Ok(towers)
    }

    fn answers(
        &self,
        image: &ImageSpec,
        root: &Scope<'_>,
        probe: &Probe,
    ) -> Result<Answers, LoadError> {
        let images = vision::once((&self.vision, self.purpose), image, root, &probe.pixels)?;
        let texts = match self.purpose {
            Purpose::Retrieval { embedding_dim } => {
                Text::once(&self.text, embedding_dim, root, &probe.tokens)?
            }
            Purpose::Captions => Vec::new(),
        };
        Ok(Answers::new(images, texts))
    }
}
