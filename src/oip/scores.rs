//! Computes scores of pairs and captions, the outputs other than embeddings.

use super::{INPUT_IDS, Sides};
use crate::{
    config::MatchingToken,
    engine::{
        BeamOptions, CaptionRequest, Context, Engine, ImageInput, ImageSide, Input, Matrix,
        Pairing, Sampling, ScoreKind, Scored, SimilarityRequest, TextSide,
    },
    error::Error,
    registry::Model,
};

/// The pair scores of existing embeddings, images first.
pub(super) async fn by_vectors(
    engine: &Engine,
    (model, token): (&Model, Option<MatchingToken>),
    (rows, pictures): (&Matrix, usize),
    context: &Context,
) -> Result<Scored, Error> {
    let (images, texts) = rows.data.split_at(pictures * rows.dim);
    let side = |data: &[f32]| Matrix {
        rows: data.len() / rows.dim.max(1),
        dim: rows.dim,
        data: data.to_vec(),
    };
    let sides = (ImageSide::Embeddings(side(images)), TextSide::Embeddings(side(texts)));
    engine.similarity(request((model, token), sides), context).await.map_err(in_parameters)
}

/// The pair scores of a matching head, which reads images and texts.
///
/// # Errors
/// Names the tensor at fault; token ids are refused.
pub(super) async fn by_head(
    engine: &Engine,
    (model, token): (&Model, Option<MatchingToken>),
    sides: &Sides,
    context: &Context,
) -> Result<Scored, Error> {
    let text = |(index, input): (usize, &Input)| match input {
        Input::Text(text) => Ok(text.clone()),
        Input::Unreadable(error) => {
            Err(error.clone().with_field(format!("{}[{index}]", sides.text_name)))
        }
        Input::TokenIds(_) | Input::Image(_) => {
            Err(Error::invalid(INPUT_IDS, "the model's matching head is asked with texts"))
        }
    };
    let texts = sides.texts.iter().enumerate().map(text).collect::<Result<Vec<_>, _>>()?;
    let both = (ImageSide::Images(images(sides)?), TextSide::Texts(texts));
    let scored =
        engine.similarity(request((model, token), both), context).await.map_err(in_parameters);
    scored.map_err(|error| {
        let named = |field: &str| {
            let field = field.replacen("images", sides.picture_name, 1);
            field.replacen("texts", sides.text_name, 1)
        };
        error.map_field(named)
    })
}

/// A caption for each image.
///
/// # Errors
/// Names the images at fault.
pub(super) async fn captions(
    engine: &Engine,
    model: &Model,
    sides: &Sides,
    context: &Context,
) -> Result<Vec<String>, Error> {
    if !sides.texts.is_empty() {
        return Err(Error::invalid(sides.text_name, "only images have captions"));
    }
    let request = CaptionRequest {
        model: Some(model.name.clone()),
        images: images(sides)?,
        prompt: None,
        sampling: Sampling::default(),
        beams: BeamOptions::default(),
    };
    let named =
        |error: Error| error.map_field(|field| field.replacen("images", sides.picture_name, 1));
    let captioned = engine.caption(request, |_| async {}, context).await.map_err(named)?;
    let mut texts = Vec::with_capacity(captioned.captions.len());
    let mut errors = Vec::new();
    for caption in captioned.captions {
        match caption {
            Ok(caption) => texts.push(caption.text),
            Err(error) => errors.push(named(error)),
        }
    }
    Error::of_items(errors).map_or(Ok(texts), Err)
}

/// Logits and probabilities of every pair.
fn request(
    (model, matching_token): (&Model, Option<MatchingToken>),
    (images, texts): (ImageSide, TextSide),
) -> SimilarityRequest {
    SimilarityRequest {
        model: Some(model.name.clone()),
        images,
        texts,
        truncate: true,
        max_num_patches: None,
        pairing: Pairing::All,
        kinds: vec![ScoreKind::Logit, ScoreKind::Probability],
        matching_token,
    }
}

/// Names an option as the protocol has it.
fn in_parameters(error: Error) -> Error {
    error.map_field(|field| match field {
        "matching_token" => "parameters.matching_token".to_owned(),
        field => field.to_owned(),
    })
}

fn images(sides: &Sides) -> Result<Vec<ImageInput>, Error> {
    let image = |(index, input): (usize, &Input)| match input {
        Input::Image(image) => Ok(image.clone()),
        Input::Unreadable(error) => {
            Err(error.clone().with_field(format!("{}[{index}]", sides.picture_name)))
        }
        Input::Text(_) | Input::TokenIds(_) => {
            Err(Error::invalid(sides.picture_name, "an image is expected"))
        }
    };
    sides.pictures.iter().enumerate().map(image).collect()
}
