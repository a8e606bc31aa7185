//! BLIP-2: retrieval checkpoints, which embed and match, and the eyes of those that go with a language model.

mod config;
mod qformer;
mod text;
mod vision;

use std::sync::Arc;

use self::{
    config::{Blip2Config, Purpose},
    qformer::QFormer,
    text::{Matcher, Text},
    vision::Head,
};
use super::{
    LoadError, Part, Queries, ReaderInfo, Scorer, blip,
    checkpoint::Checkpoint,
    family::{Architecture, Description, Outline, Towers},
    nn::EncoderTower,
    probe::{Answers, Probe},
    weights::{Extent, Scope},
};
use crate::{
    checkpoint::fields::Fields,
    preprocess::ImageSpec,
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
    let config = Blip2Config::read(files.config_name(), config)?;
    Ok(Box::new(config))
}

impl Blip2Config {
    /// Values of one of an image's vectors.
    ///
    /// # Errors
    /// Names the tensor that is missing or has another shape.
    fn vector_width(&self, root: &Scope<'_>) -> Result<usize, LoadError> {
        match self.purpose {
            Purpose::Retrieval { embedding_dim } => Ok(embedding_dim),
            Purpose::Generation => {
                let weight = "language_projection.weight";
                match root.shape(weight) {
                    Some(&[width, _]) => Ok(width),
                    _ => Err(LoadError::new(format!("tensor `{weight}` is missing, or no matrix"))),
                }
            }
        }
    }

    /// The head behind the vision tower: the Q-Former over the queries alone, and what projects its states.
    fn head(&self, qformer: Arc<QFormer>, root: &Scope<'_>) -> Result<Head, LoadError> {
        let projection = match self.purpose {
            Purpose::Retrieval { .. } => "vision_projection",
            Purpose::Generation => "language_projection",
        };
        let width = self.vector_width(root)?;
        Head::load(&self.vision, (qformer, &root.at(projection), width), root)
    }
}

impl Architecture for Blip2Config {
    fn description(&self) -> Description {
        let encoder = &self.vision.encoder;
        Description {
            family: "blip-2",
            patch_size: self.vision.patch_size,
            leading_tokens: 1,
            last_state_is_normed: true,
            vision_layers: encoder.num_hidden_layers,
            vision_width: encoder.hidden_size,
            queries: Some(Queries {
                count: self.queries,
                width: self.qformer.layers.hidden_size,
                are_for_language: self.purpose == Purpose::Generation,
            }),
        }
    }

    fn image_spec(&self, files: &Checkpoint) -> Result<ImageSpec, LoadError> {
        blip::squashed(files, self.vision.image_size)
    }

    fn text_layout(&self) -> Option<TextLayout> {
        matches!(self.purpose, Purpose::Retrieval { .. }).then_some(TextLayout {
            text_length: self.qformer.text_length,
            vocab_size: self.qformer.vocab_size,
            scheme: Scheme::Bert,
        })
    }

    fn outline(&self, root: &Scope<'_>) -> Result<Outline, LoadError> {
        let embedding_dim = self.vector_width(root)?;
        let embeds_texts = matches!(self.purpose, Purpose::Retrieval { .. });
        Ok(Outline {
            has_text: embeds_texts,
            // These models were trained with the usual first token in front of a text.
            reader: embeds_texts.then_some(ReaderInfo::Matching { start: None }),
            scorer: embeds_texts.then_some(Scorer::Matching),
            embedding_dim,
        })
    }

    fn extent(&self, root: &Scope<'_>) -> Result<Extent, LoadError> {
        Ok(root.extent() - root.at("language_model").extent())
    }

    /// Both towers share the Q-Former where they are loaded together; one that is loaded alone has its own.
    fn load(&self, image: &ImageSpec, root: &Scope<'_>, part: Part) -> Result<Towers, LoadError> {
        let qformer = Arc::new(QFormer::load(self, root)?);
        let mut towers = Towers::default();
        if part.has_vision() {
            let head = self.head(Arc::clone(&qformer), root)?;
            let vision = vision::load(&self.vision, head, (image, root))?;
            towers.vision = Some(Box::new(EncoderTower::new(vision)));
            towers.vision_bytes = root.loaded_bytes();
        }
        match self.purpose {
            Purpose::Generation => root.at("language_model").skip_inside(),
            Purpose::Retrieval { .. } if part.has_text() => {
                let width = self.vector_width(root)?;
                let text = Text::load(&self.qformer, qformer, (width, root))?;
                towers.reader = Some(Box::new(Matcher::load(&self.qformer, &text, root)?));
                towers.text = Some(Box::new(EncoderTower::new(text)));
            }
            Purpose::Retrieval { .. } => {}
        }
        Ok(towers)
    }

    fn answers(
        &self,
        image: &ImageSpec,
        root: &Scope<'_>,
        probe: &Probe,
    ) -> Result<Answers, LoadError> {
        // The Q-Former is a tenth of the vision tower, of which one layer is in memory at a time.
        let qformer = Arc::new(QFormer::load(self, root)?);
        let head = self.head(Arc::clone(&qformer), root)?;
        let embedding_dim = head.vector_width();
        let images = vision::once(&self.vision, head, (image, root), &probe.pixels)?;
        let texts = match self.purpose {
            Purpose::Retrieval { .. } => {
                Text::load(&self.qformer, qformer, (embedding_dim, root))?.once(&probe.tokens)?
            }
            Purpose::Generation => Vec::new(),
        };
        Ok(Answers::new(images, texts))
    }
}
