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
    openapi::{EXAMPLE_IMAGE, ProblemErrors},
    problem::Failure,
    respond::{self, Usage},
    rows::Rows,
    similarity::image_side,
};
use crate::{
    engine::{self, Classified, ImageInput},
    error::Error,
};

/// Pictures and the labels to judge them by.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "images": [EXAMPLE_IMAGE],
    "labels": ["cat", "dog"],
    "templates": ["This is a photo of {label}.", "a drawing of {label}"],
    "top_k": 1
}))]
pub(super) struct ClassifyRequest {
    /// The model's name; the default model where none is given.
    model: Option<String>,
    /// Pictures: data URIs or base64. Or give `image_embeddings`.
    #[schema(inline)]
    images: Option<Vec<LongText>>,
    /// Stored embeddings of pictures, normalised or not.
    #[schema(inline)]
    image_embeddings: Option<Rows>,
    /// The labels.
    labels: Vec<String>,
    /// One prompt template or several, each with a `{label}` (or `{}`); the normalised embeddings of several are
    /// averaged. `This is a photo of {label}.` by default; `{label}` alone takes labels as they are.
    #[schema(inline, value_type = Option<OneOrMany>)]
    templates: Option<Strings>,
    /// Keep only the best labels of each picture.
    #[schema(minimum = 1)]
    top_k: Option<usize>,
    /// Keep only labels whose probability is at least this; `siglip-server eval` finds one for your images.
    #[schema(minimum = 0, maximum = 1)]
    min_probability: Option<f32>,
    /// Most patches of each picture, for models that read pictures in variable resolution (`/info` has
    /// their own number, and the limit). Refused for others.
    #[schema(minimum = 1)]
    max_num_patches: Option<u32>,
    /// Files of a form.
    #[serde(skip)]
    files: Vec<ImageInput>,
}

impl ClassifyRequest {
    /// The engine's request, and the labels for the answer.
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
                (name, PartContent::Text(_)) => {
                    return Err(unknown_part(
                        name,
                        "label, template, model, top_k, min_probability, max_num_patches",
                    ));
                }
            }
        }
        Ok(request)
    }
}

/// A form: every file is a picture, every `label` a label.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the form; `from_form` reads it")]
pub(super) struct ClassifyForm {
    /// Pictures. Any field with a file name counts as one, whatever it is called.
    image: Vec<File>,
    /// Labels, one field for each.
    label: Vec<String>,
    /// Templates, one field for each.
    template: Option<Vec<String>>,
    /// As in the JSON body.
    model: Option<String>,
    /// As in the JSON body.
    top_k: Option<usize>,
    /// As in the JSON body.
    min_probability: Option<f32>,
    /// As in the JSON body.
    max_num_patches: Option<u32>,
}

/// The labels of each picture, best first.
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
    /// The model that answered.
    model: String,
    /// The model's rule for probabilities: `sigmoid` judges each label on its own, `softmax` all labels together.
    #[schema(pattern = "^(sigmoid|softmax|matching)$")]
    scoring: &'static str,
    /// One list an image, in the order of the request.
    results: Vec<Vec<Label>>,
    usage: Usage,
}

/// A label's score for one picture.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Label {
    /// The label as it was given.
    #[schema(value_type = String)]
    label: Arc<str>,
    /// Its place in the request's labels.
    index: usize,
    /// SigLIP: `sigmoid(logit)`, each label on its own, so several may be near 1, or none. CLIP: the softmax over all
    /// labels, which sums to 1.
    probability: f32,
    /// `exp(logit_scale) * cosine`, with SigLIP `+ logit_bias`.
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

/// Scores images by labels
///
/// Zero-shot. Of a SigLIP model every label gets its own probability, and they do not sum to 1; a CLIP model spreads a
/// probability of 1 over the labels. Labels come back best first.
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
    let values = classified.images.iter().map(Vec::len).sum();
    respond::json(&state, &context, values, move || ClassifyResponse::new(classified, &names)).await
}
