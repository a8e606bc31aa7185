//! SigLIP 1 and 2, at a fixed resolution and with NaFlex's variable one.
//!
//! One file a block, each naming the class of transformers that it mirrors. Both towers are built from the
//! same encoder; they differ in what goes in and in how one vector comes out.

mod config;
mod embeddings;
mod pooling;
mod positions;
mod text;
mod vision;

use self::{
    config::{Resolution, SiglipConfig},
    text::Text,
};
use super::{
    LoadError, Part, Scorer,
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
    let config = SiglipConfig::read(files.config_name(), config)?;
    Ok(Box::new(config))
}

/// The vision tower of a model that has another text side, and the pixels of an image's side.
///
/// * `config`: the object that describes the tower
///
/// # Errors
/// As [`read`].
pub(super) fn tower(
    files: &Checkpoint,
    config: &Fields<'_>,
) -> Result<(Box<dyn Architecture>, u32), LoadError> {
    let config = SiglipConfig::tower(files.config_name(), config)?;
    let side = match config.vision.resolution {
        Resolution::Fixed { image_size } => pixels(image_size, "image_size")?,
        Resolution::Naflex => {
            return Err(LoadError::new("config.json: vision_config reads images of any size"));
        }
    };
    Ok((Box::new(config), side))
}

impl Architecture for SiglipConfig {
    fn description(&self) -> Description {
        let encoder = &self.vision.encoder;
        Description {
            family: self.vision.family(),
            patch_size: self.vision.patch_size,
            leading_tokens: 0,
            last_state_is_normed: true,
            vision_layers: encoder.num_hidden_layers,
            vision_width: encoder.hidden_size,
            queries: None,
        }
    }

    fn image_spec(&self, files: &Checkpoint) -> Result<ImageSpec, LoadError> {
        let (file, json) = files.preprocessor();
        let at_fault = |message: String| LoadError::new(format!("{file}: {message}"));
        let spec = match self.vision.resolution {
            Resolution::Fixed { image_size } => {
                ImageSpec::parse(json, pixels(image_size, "image_size")?)
            }
            Resolution::Naflex => {
                ImageSpec::parse_naflex(json, pixels(self.vision.patch_size, "patch_size")?)
            }
        };
        let spec = spec.map_err(|error| at_fault(error.to_string()))?;
        if let (Resolution::Fixed { image_size: side }, TargetSize::Fixed { height, width }) =
            (self.vision.resolution, spec.size)
            && (height as usize, width as usize) != (side, side)
        {
            return Err(at_fault(format!(
                "size is {height} x {width}, but config.json has an image_size of {side}"
            )));
        }
        Ok(spec)
    }

    fn text_layout(&self) -> Option<TextLayout> {
        let text = self.text.as_ref()?;
        Some(TextLayout {
            text_length: text.tokens.text_length,
            vocab_size: text.tokens.vocab_size,
            scheme: Scheme::Padded,
        })
    }

    fn outline(&self, root: &Scope<'_>) -> Result<Outline, LoadError> {
        let embedding_dim = self.vision.encoder.hidden_size;
        let Some(config) = &self.text else {
            return Ok(Outline { has_text: false, reader: None, scorer: None, embedding_dim });
        };
        if config.projection_size != embedding_dim {
            return Err(LoadError::new(format!(
                "config.json: text_config.projection_size {} is not vision_config.hidden_size {}",
                config.projection_size, embedding_dim
            )));
        }
        let scorer = Scorer::Sigmoid {
            logit_scale: root.scalar("logit_scale")?,
            logit_bias: root.scalar("logit_bias")?,
        };
        Ok(Outline { has_text: true, reader: None, scorer: Some(scorer), embedding_dim })
    }

    fn load(&self, image: &ImageSpec, root: &Scope<'_>, part: Part) -> Result<Towers, LoadError> {
        let mut towers = Towers::default();
        if part.has_vision() {
            let vision = vision::load(&self.vision, image, &vision_scope(root))?;
            towers.vision = Some(Box::new(EncoderTower::new(vision)));
            towers.vision_bytes = root.loaded_bytes();
        }
        if let Some(config) = self.text.as_ref().filter(|_| part.has_text()) {
            let text = Text::load(config, &root.at("text_model"))?;
            towers.text = Some(Box::new(EncoderTower::new(text)));
        }
        Ok(towers)
    }

    fn answers(
        &self,
        image: &ImageSpec,
        root: &Scope<'_>,
        probe: &Probe,
    ) -> Result<Answers, LoadError> {
        let images = vision::once(&self.vision, image, &vision_scope(root), &probe.pixels)?;
        let texts = match &self.text {
            Some(text) => Text::once(text, &root.at("text_model"), &probe.tokens)?,
            None => Vec::new(),
        };
        Ok(Answers::new(images, texts))
    }
}

fn pixels(count: usize, key: &str) -> Result<u32, LoadError> {
    let too_large = |_| LoadError::new(format!("config.json: vision_config.{key} is too large"));
    u32::try_from(count).map_err(too_large)
}

/// A stand-alone tower may be stored with the full model's prefix or without one.
fn vision_scope<'w>(root: &Scope<'w>) -> Scope<'w> {
    match root.contains("embeddings.patch_embedding.weight") {
        true => root.clone(),
        false => root.at("vision_model"),
    }
}
