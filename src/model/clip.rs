//! CLIP: OpenAI's, and those that are trained like it.

mod config;
mod text;
mod vision;

use self::{config::ClipConfig, text::Text};
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
    preprocess::{CropOffset, ImageSpec},
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
    let config = ClipConfig::read(files.config_name(), config)?;
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
    let config = ClipConfig::tower(files.config_name(), config)?;
    let side = u32::try_from(config.vision.image_size)
        .map_err(|_| LoadError::new("config.json: vision_config.image_size is too large"))?;
    Ok((Box::new(config), side))
}

impl Architecture for ClipConfig {
    fn description(&self) -> Description {
        let encoder = &self.vision.encoder;
        Description {
            family: "clip",
            patch_size: self.vision.patch_size,
            leading_tokens: 1,
            last_state_is_normed: false,
            vision_layers: encoder.num_hidden_layers,
            vision_width: encoder.hidden_size,
            queries: None,
        }
    }

    fn image_spec(&self, files: &Checkpoint) -> Result<ImageSpec, LoadError> {
        let (file, json) = files.preprocessor();
        let at_fault = |message: String| LoadError::new(format!("{file}: {message}"));
        let side = self.vision.image_size;
        let pixels = u32::try_from(side)
            .map_err(|_| LoadError::new("config.json: vision_config.image_size is too large"))?;
        let offset = if files.is_open_clip { CropOffset::Even } else { CropOffset::Down };
        let spec = ImageSpec::parse_cropped(json, pixels, offset)
            .map_err(|error| at_fault(error.to_string()))?;
        let [height, width] = spec.size.of(pixels, pixels);
        if (height, width) != (pixels, pixels) {
            return Err(at_fault(format!(
                "images become {height} x {width}, but config.json has an image_size of {side}"
            )));
        }
        Ok(spec)
    }

    fn text_layout(&self) -> Option<TextLayout> {
        let text = self.text.as_ref()?;
        Some(TextLayout {
            text_length: text.tokens.text_length,
            vocab_size: text.tokens.vocab_size,
            scheme: Scheme::Clip(text.end),
        })
    }

    fn outline(&self, root: &Scope<'_>) -> Result<Outline, LoadError> {
        let embedding_dim = vision::embedding_dim(&self.vision, root);
        if self.text.is_none() {
            return Ok(Outline { has_text: false, reader: None, scorer: None, embedding_dim });
        }
        let scorer = Scorer::Softmax { logit_scale: root.scalar("logit_scale")? };
        if root.contains("logit_bias") {
            return Err(LoadError::new(
                "tensor `logit_bias`: a CLIP model with a bias is judged in another way, which is not served",
            ));
        }
        Ok(Outline { has_text: true, reader: None, scorer: Some(scorer), embedding_dim })
    }

    fn load(&self, image: &ImageSpec, root: &Scope<'_>, part: Part) -> Result<Towers, LoadError> {
        let mut towers = Towers::default();
        if part.has_vision() {
            let vision = vision::load(&self.vision, image, root)?;
            towers.vision = Some(Box::new(EncoderTower::new(vision)));
            towers.vision_bytes = root.loaded_bytes();
        }
        if let Some(config) = self.text.as_ref().filter(|_| part.has_text()) {
            towers.text = Some(Box::new(EncoderTower::new(Text::load(config, root)?)));
        }
        Ok(towers)
    }

    fn answers(
        &self,
        image: &ImageSpec,
        root: &Scope<'_>,
        probe: &Probe,
    ) -> Result<Answers, LoadError> {
        let images = vision::once(&self.vision, image, root, &probe.pixels)?;
        let texts = match &self.text {
            Some(text) => Text::once(text, root, &probe.tokens)?,
            None => Vec::new(),
        };
        Ok(Answers::new(images, texts))
    }
}
