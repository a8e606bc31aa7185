//! `POST /v1/classify`: labels for images.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    AppState,
    body::{
        File, Form, FromPayload, OneOrMany, PartContent, Payload, Strings, option, refuse_list,
        unknown_part,
    },
    layers::Ctx,
    long_text::LongText,
    matching_token::MatchingToken,
    openapi::{EXAMPLE_IMAGE, ProblemErrors},
    problem::Failure,
    respond::{self, BYTES_A_VALUE, Usage},
    rows::Rows,
    similarity::image_side,
};
use crate::{
    engine::{self, Classified, ImageInput},
    error::Error,
};

/// Images, and the labels with which to score them.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "images": [EXAMPLE_IMAGE],
    "labels": ["cat", "dog"],
    "templates": ["This is a photo of {label}.", "a drawing of {label}"],
    "top_k": 1
}))]
pub(super) struct ClassifyRequest {
    /// The model's name. Without a name, the default model is used.
    model: Option<String>,
    /// Images: data URIs or base64. Give either `images` or `image_embeddings`.
    #[schema(inline)]
    images: Option<Vec<LongText>>,
    /// Stored embeddings of images, normalised or not.
    #[schema(inline)]
    image_embeddings: Option<Rows>,
    /// The labels.
    labels: Vec<String>,
    /// One or several prompt templates, each with a `{label}` (or `{}`). With several templates, the normalised
    /// embeddings are averaged. The default is `This is a photo of {label}.` Use `{label}` to take labels
    /// unchanged.
    #[schema(inline, value_type = Option<OneOrMany>)]
    templates: Option<Strings>,
    /// Keep only this many of the best labels of each image.
    #[schema(minimum = 1)]
    top_k: Option<usize>,
    /// Keep only labels with at least this probability. `siglip-server eval` finds a good value for your
    /// images.
    #[schema(minimum = 0, maximum = 1)]
    min_probability: Option<f32>,
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

impl ClassifyRequest {
    /// The engine's request, and the labels for the response.
    pub(super) fn split(self) -> Result<(engine::ClassifyRequest, Vec<Arc<str>>), Error> {
        if self.top_k == Some(0) {
            return Err(Error::invalid("top_k", "must be 1 or more"));
        }
        for (index, label) in self.labels.iter().enumerate() {
            refuse_list(&format!("labels[{index}]"), label)?;
        }
        let names = self.labels.iter().map(|label| label.as_str().into()).collect();
        let request = engine::ClassifyRequest {
            model: self.model,
            images: image_side(self.images, self.files, self.image_embeddings)?,
            labels: self.labels,
            templates: self.templates.unwrap_or_default().0,
            top_k: self.top_k,
            min_probability: self.min_probability,
            max_num_patches: self.max_num_patches,
            matching_token: self.matching_token.map(Into::into),
        };
        Ok((request, names))
    }
}

impl FromPayload for ClassifyRequest {
    const ACCEPTS: &'static str = "application/json, multipart/form-data";

    fn from_form(form: Form) -> Result<Self, Error> {
        let mut request = Self::default();
        for part in form.into_parts(&["label", "labels", "template", "templates"])? {
            match (part.name.as_str(), part.content) {
                (_, PartContent::File(bytes)) => request.files.push(ImageInput::Encoded(bytes)),
                ("label" | "labels", PartContent::Text(text)) => request.labels.push(text),
                ("template" | "templates", PartContent::Text(text)) => {
                    request.templates.get_or_insert_default().0.push(text);
                }
                ("model", PartContent::Text(text)) => request.model = Some(text),
                ("top_k", PartContent::Text(text)) => {
                    request.top_k = option("top_k", &text)?;
                }
                ("min_probability", PartContent::Text(text)) => {
                    request.min_probability = option("min_probability", &text)?;
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
                        "label, template, model, top_k, min_probability, max_num_patches, matching_token",
                    ));
                }
            }
        }
        Ok(request)
    }
}

/// A form: every file is an image, and every `label` field is a label.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the form; `from_form` reads it")]
pub(super) struct ClassifyForm {
    /// Images. Any field with a file name counts as an image, whatever its name.
    image: Vec<File>,
    /// Labels, one field for each.
    label: Vec<String>,
    /// Prompt templates, one field for each.
    template: Option<Vec<String>>,
    /// As in the JSON body.
    model: Option<String>,
    /// As in the JSON body.
    top_k: Option<usize>,
    /// As in the JSON body.
    min_probability: Option<f32>,
    /// As in the JSON body.
    max_num_patches: Option<u32>,
    /// As in the JSON body.
    matching_token: Option<MatchingToken>,
}

/// The labels of each image, best first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "model": "demo",
    "scoring": "sigmoid",
    "results": [[
        {"label": "cat", "index": 0, "probability": 0.97, "logit": 3.5},
        {"label": "dog", "index": 1, "probability": 0.0002, "logit": -8.5}
    ]],
    "usage": {"prompt_tokens": 16, "total_tokens": 16, "images": 1}
}))]
pub(super) struct ClassifyResponse {
    /// The model that was used.
    model: String,
    /// How the model computes probabilities: `sigmoid` scores each label on its own, `softmax` scores all
    /// labels together.
    #[schema(pattern = "^(sigmoid|softmax|matching)$")]
    scoring: &'static str,
    /// One list per image, in the order of the request.
    results: Vec<Vec<Label>>,
    usage: Usage,
}

/// The score of a label for one image.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Label {
    /// The label as it was sent.
    #[schema(value_type = String)]
    label: Arc<str>,
    /// Its position in the request's labels.
    index: usize,
    /// SigLIP: `sigmoid(logit)` of each label on its own, so several labels can be near 1, or none. CLIP: the
    /// softmax over all labels, which sums to 1.
    probability: f32,
    /// `exp(logit_scale) * cosine`, plus `logit_bias` for SigLIP.
    logit: f32,
}

impl ClassifyResponse {
    fn new(classified: Classified, names: &[Arc<str>]) -> Self {
        let label = |score: engine::LabelScore| Label {
            label: Arc::clone(&names[score.label]),
            index: score.label,
            probability: score.probability,
            logit: score.logit,
        };
        let results = classified
            .images
            .into_iter()
            .map(|scores| scores.into_iter().map(label).collect())
            .collect();
        Self {
            model: classified.model.to_string(),
            scoring: classified.scorer.name(),
            results,
            usage: classified.usage.into(),
        }
    }
}

/// Scores images against labels
///
/// Zero-shot classification. With a SigLIP model, every label gets its own probability, and the probabilities
/// do not sum to 1. With a CLIP model, the probabilities of all labels sum to 1. Labels are sorted by score,
/// best first.
#[utoipa::path(
    post,
    path = "/v1/classify",
    tag = "pairs",
    params(super::openapi::RequestHeaders),
    request_body(
        content(
            (ClassifyRequest = "application/json"),
            (ClassifyForm = "multipart/form-data"),
        ),
    ),
    responses((status = 200, description = "The labels", body = ClassifyResponse), ProblemErrors),
)]
pub(super) async fn classify(
    State(state): State<AppState>,
    Ctx(context): Ctx,
    Payload(request): Payload<ClassifyRequest>,
) -> Result<Response, Failure> {
    let (request, names) = request.split()?;
    let classified = state.engine().classify(request, &context).await?;
    let scores = classified.images.iter().flatten();
    // A label is written once for each image, however long it is.
    let values = scores.map(|score| 2 + names[score.label].len() / BYTES_A_VALUE).sum();
    respond::json(&state, &context, values, move || ClassifyResponse::new(classified, &names)).await
}
