//! `POST /v1/similarity`: scores every image against every text.

mod write;

use axum::{extract::State, response::Response};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    AppState,
    body::{File, Form, FromPayload, PartContent, Payload, option, unknown_part},
    layers::Ctx,
    long_text::LongText,
    matching_token::MatchingToken,
    openapi::{EXAMPLE_IMAGE, ProblemErrors},
    problem::Failure,
    respond::Usage,
    rows::Rows,
};
use crate::{
    engine::{self, ImageInput, ImageSide, Pairing, ScoreKind, TextSide},
    error::Error,
};

/// Images and texts to compare, each side as items or as stored embeddings.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(
    json!({"images": [EXAMPLE_IMAGE], "texts": ["a cat", "a dog"]}),
    json!({"images": [EXAMPLE_IMAGE], "texts": ["a cat"], "scores": ["probability"]})
))]
pub(super) struct SimilarityRequest {
    /// The model's name. Without a name, the default model is used.
    model: Option<String>,
    /// Images: data URIs or base64. Give either `images` or `image_embeddings`.
    #[schema(inline)]
    images: Option<Vec<LongText>>,
    /// Stored embeddings of images, normalised or not.
    #[schema(inline)]
    image_embeddings: Option<Rows>,
    /// Texts. Give either `texts` or `text_embeddings`.
    texts: Option<Vec<String>>,
    /// Stored embeddings of texts, normalised or not.
    #[schema(inline)]
    text_embeddings: Option<Rows>,
    /// Which matrices to return. The default is all three.
    scores: Option<Vec<Score>>,
    /// Which texts an image is paired with: `all` texts, or `zip` for the text at the same position.
    #[schema(default = "all")]
    pairs: Option<Pairs>,
    /// Whether a text that is too long is truncated (the default). Otherwise it is refused.
    #[schema(default = true)]
    truncate: Option<bool>,
    /// Maximum number of patches of each image, for models that read images in variable resolution (`/info` has
    /// the model's own number and the limit). Other models refuse it.
    #[schema(minimum = 1)]
    max_num_patches: Option<u32>,
    /// The token before a text that the matching head of a BLIP model reads: `cls` as in transformers, `enc` as
    /// the models were trained. The default is the server's `--matching-token`. Other models refuse it.
    matching_token: Option<MatchingToken>,
    /// Files of a form.
    #[serde(skip)]
    files: Vec<ImageInput>,
}

/// A kind of score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Score {
    /// Cosine of the angle between the embeddings, in `[-1, 1]`.
    Cosine,
    /// `exp(logit_scale) * cosine`, plus `logit_bias` for SigLIP. For BLIP, the output of its matching head.
    Logit,
    /// SigLIP: `sigmoid(logit)`, the calibrated probability that the pair matches. CLIP: the softmax of an
    /// image's logits over the texts of the request. BLIP: the sigmoid of the output of its matching head.
    Probability,
}

/// Which texts an image is paired with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Pairs {
    /// Every text.
    #[default]
    All,
    /// The text at the same position. The request must have as many texts as images, and the result has one
    /// column.
    Zip,
}

impl From<Pairs> for Pairing {
    fn from(pairs: Pairs) -> Self {
        match pairs {
            Pairs::All => Self::All,
            Pairs::Zip => Self::Zip,
        }
    }
}

impl Score {
    const ALL: [Self; 3] = [Self::Cosine, Self::Logit, Self::Probability];

    /// The name of the matrix in the response.
    fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Logit => "logit",
            Self::Probability => "probability",
        }
    }

    fn kind(self) -> ScoreKind {
        match self {
            Self::Cosine => ScoreKind::Cosine,
            Self::Logit => ScoreKind::Logit,
            Self::Probability => ScoreKind::Probability,
        }
    }
}

/// Reads images from strings. The error names every string that is not an image.
///
/// # Errors
/// All errors combined into one.
pub(super) fn parse_images(images: Vec<LongText>) -> Result<Vec<ImageInput>, Error> {
    let mut errors = Vec::new();
    let mut parsed = Vec::with_capacity(images.len());
    for (index, image) in images.into_iter().enumerate() {
        match ImageInput::parse(image.0) {
            Ok(image) => parsed.push(image),
            Err(error) => errors.push(error.with_field(format!("images[{index}]"))),
        }
    }
    Error::of_items(errors).map_or(Ok(parsed), Err)
}

/// The image side of a request: exactly one of the two forms.
///
/// # Errors
/// Names the fields if both or none are given.
pub(super) fn image_side(
    images: Option<Vec<LongText>>,
    files: Vec<ImageInput>,
    embeddings: Option<Rows>,
) -> Result<ImageSide, Error> {
    match (images, files.is_empty(), embeddings) {
        (Some(images), true, None) => Ok(ImageSide::Images(parse_images(images)?)),
        (None, false, None) => Ok(ImageSide::Images(files)),
        (None, true, Some(Rows(rows))) => Ok(ImageSide::Embeddings(rows)),
        _ => Err(Error::invalid("images", "give either `images` or `image_embeddings`")),
    }
}

impl SimilarityRequest {
    /// The engine's request, and which matrices to return.
    pub(super) fn split(self) -> Result<(engine::SimilarityRequest, Vec<Score>), Error> {
        let texts = match (self.texts, self.text_embeddings) {
            (Some(texts), None) => TextSide::Texts(texts),
            (None, Some(Rows(rows))) => TextSide::Embeddings(rows),
            _ => {
                let message = "give either `texts` or `text_embeddings`";
                return Err(Error::invalid("texts", message));
            }
        };
        let mut scores = self.scores.unwrap_or_else(|| Score::ALL.to_vec());
        if scores.is_empty() {
            return Err(Error::invalid("scores", "must not be empty"));
        }
        // Each matrix is one key of the response, so each is written once, in a fixed order.
        scores.sort_by_key(|&score| score as u8);
        scores.dedup();
        let request = engine::SimilarityRequest {
            model: self.model,
            images: image_side(self.images, self.files, self.image_embeddings)?,
            texts,
            truncate: self.truncate.unwrap_or(true),
            max_num_patches: self.max_num_patches,
            pairing: self.pairs.unwrap_or_default().into(),
            kinds: scores.iter().map(|score| score.kind()).collect(),
            matching_token: self.matching_token.map(Into::into),
        };
        Ok((request, scores))
    }
}

impl FromPayload for SimilarityRequest {
    const ACCEPTS: &'static str = "application/json, multipart/form-data";

    fn from_form(form: Form) -> Result<Self, Error> {
        let mut request = Self::default();
        for part in form.into_parts(&["text", "texts", "scores"])? {
            match (part.name.as_str(), part.content) {
                (_, PartContent::File(bytes)) => request.files.push(ImageInput::Encoded(bytes)),
                ("text" | "texts", PartContent::Text(text)) => {
                    request.texts.get_or_insert_default().push(text);
                }
                ("model", PartContent::Text(text)) => request.model = Some(text),
                ("scores", PartContent::Text(text)) => {
                    request
                        .scores
                        .get_or_insert_default()
                        .extend(option::<Score>("scores", &text)?);
                }
                ("pairs", PartContent::Text(text)) => request.pairs = option("pairs", &text)?,
                ("truncate", PartContent::Text(text)) => {
                    request.truncate = option("truncate", &text)?;
                }
                ("max_num_patches", PartContent::Text(text)) => {
                    request.max_num_patches = option("max_num_patches", &text)?;
                }
                ("matching_token", PartContent::Text(text)) => {
                    request.matching_token = option("matching_token", &text)?;
                }
                (name, PartContent::Text(_)) => {
                    return Err(unknown_part(
                        name,
                        "text, model, scores, pairs, truncate, max_num_patches, matching_token",
                    ));
                }
            }
        }
        Ok(request)
    }
}

/// A form: every file is an image, and every `text` field is a text.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the form; `from_form` reads it")]
pub(super) struct SimilarityForm {
    /// Images. Any field with a file name counts as an image, whatever its name.
    image: Vec<File>,
    /// Texts.
    text: Vec<String>,
    /// As in the JSON body.
    model: Option<String>,
    /// As in the JSON body, one field for each.
    scores: Option<Vec<Score>>,
    /// As in the JSON body.
    pairs: Option<Pairs>,
    /// As in the JSON body.
    truncate: Option<bool>,
    /// As in the JSON body.
    max_num_patches: Option<u32>,
    /// As in the JSON body.
    matching_token: Option<MatchingToken>,
}

/// The scores of every pair. Large responses are computed and sent in chunks, with the matrices in this order.
#[derive(ToSchema)]
#[schema(example = json!({
    "model": "demo",
    "scoring": "sigmoid",
    "shape": [1, 2],
    "cosine": [[0.31, 0.02]],
    "logit": [[2.1, -11.8]],
    "probability": [[0.89, 0.0000075]],
    "usage": {"prompt_tokens": 8, "total_tokens": 8, "images": 1}
}))]
#[expect(dead_code, reason = "only describes the answer; `write` streams it")]
pub(super) struct SimilarityResponse {
    /// The model that was used.
    model: String,
    /// How the model computes probabilities: `sigmoid` scores each pair on its own, `softmax` scores the texts
    /// of an image together.
    #[schema(pattern = "^(sigmoid|softmax|matching)$")]
    scoring: String,
    /// `[images, texts]`: rows and columns of each matrix.
    shape: [usize; 2],
    /// Cosines, in `[-1, 1]`.
    #[schema(required = false)]
    cosine: Vec<Vec<f32>>,
    /// `exp(logit_scale) * cosine`, plus `logit_bias` for SigLIP.
    #[schema(required = false)]
    logit: Vec<Vec<f32>>,
    /// Computed as `scoring` says.
    #[schema(required = false)]
    probability: Vec<Vec<f32>>,
    usage: Usage,
}

/// Scores every image against every text
///
/// Rows are images, and columns are texts. With a SigLIP model, each probability is the sigmoid of its own
/// pair: it does not depend on the rest of the request, and rows do not sum to 1. With a CLIP model, the
/// probabilities are a softmax over the texts of the request, so each row sums to 1. A BLIP model has a
/// matching head, which reads each text together with each image: its cosines come from embeddings, its logits
/// and probabilities from the matching head. `scoring` says which of these applies. Large responses are
/// streamed. If a streamed response ends without its closing brace, it failed.
#[utoipa::path(
    post,
    path = "/v1/similarity",
    tag = "pairs",
    params(super::openapi::RequestHeaders),
    request_body(
        content(
            (SimilarityRequest = "application/json"),
            (SimilarityForm = "multipart/form-data"),
        ),
    ),
    responses((status = 200, description = "The scores", body = SimilarityResponse), ProblemErrors),
)]
pub(super) async fn similarity(
    State(state): State<AppState>,
    Ctx(context): Ctx,
    Payload(request): Payload<SimilarityRequest>,
) -> Result<Response, Failure> {
    let (request, scores) = request.split()?;
    let scored = state.engine().similarity(request, &context).await?;
    write::respond(&state, &context, scored, scores).await
}
