//! `POST /`: the tasks of a Hugging Face inference endpoint.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{EmbedBody, SimilarityBody, cosines, embeddings};
use crate::{
    engine::{ClassifyRequest, Context, ImageInput, ImageSide},
    error::{Code, Error},
    rest::{
        AppState,
        body::{FromPayload, Payload, parse, parse_slice},
        layers::Ctx,
        long_text::LongText,
        openapi::{EXAMPLE_IMAGE, RequestHeaders, TeiErrors},
        problem::Failure,
        respond,
    },
};

/// An image, and the labels with which to score it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "inputs": EXAMPLE_IMAGE, "parameters": {"candidate_labels": ["a cat", "a dog"]}
}))]
pub(in crate::rest) struct ZeroShotBody {
    /// A data URI or base64.
    inputs: LongText,
    parameters: ZeroShotParameters,
    /// The model's name. Without a name, the default model is used. Not in the original format.
    model: Option<String>,
    /// Accepted and ignored: they control waiting and caching in an inference endpoint of Hugging Face.
    #[expect(dead_code, reason = "part of the endpoint's request; the server has neither")]
    #[schema(value_type = Option<serde_json::Value>)]
    options: Option<IgnoredAny>,
}

/// The labels.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::rest) struct ZeroShotParameters {
    candidate_labels: Vec<String>,
    /// A template with `{}` for the label. The default is `This is a photo of {}.`
    hypothesis_template: Option<String>,
}

/// The score of one label.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::rest) struct LabelScore {
    #[schema(value_type = String)]
    label: Arc<str>,
    /// The calibrated probability of this label on its own.
    score: f32,
}

async fn labels(
    state: &AppState,
    context: &Context,
    body: ZeroShotBody,
) -> Result<Response, Failure> {
    let image = ImageInput::parse(body.inputs.0).map_err(|error| error.with_field("inputs"))?;
    let labels = body.parameters.candidate_labels;
    let names: Vec<Arc<str>> = labels.iter().map(|label| label.as_str().into()).collect();
    let request = ClassifyRequest {
        model: body.model,
        images: ImageSide::Images(vec![image]),
        labels,
        templates: body.parameters.hypothesis_template.into_iter().collect(),
        top_k: None,
        min_probability: None,
        max_num_patches: None,
        matching_token: None,
    };
    let classified = state.engine().classify(request, context).await;
    let classified = classified.map_err(|error| error.map_field(field_of_task))?;
    let scores: Vec<_> = classified
        .images
        .into_iter()
        .flatten()
        .map(|score| LabelScore {
            label: Arc::clone(&names[score.label]),
            score: score.probability,
        })
        .collect();
    respond::json(state, context, scores.len(), move || scores).await
}

/// The name that this task uses for a field of the classification request.
fn field_of_task(field: &str) -> String {
    match field {
        "images[0]" => "inputs".to_owned(),
        "templates[0]" => "parameters.hypothesis_template".to_owned(),
        _ => field.replace("labels", "parameters.candidate_labels"),
    }
}

/// One of the three tasks of an endpoint. `from_json` decides which.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = EndpointTask)]
#[serde(untagged)]
pub(in crate::rest) enum Task {
    /// Zero-shot image classification.
    ZeroShot(ZeroShotBody),
    /// Sentence similarity.
    Similarity(SimilarityBody),
    /// Feature extraction.
    Embed(EmbedBody),
}

/// The parts of a request that identify the task. They are discarded after that.
#[derive(Deserialize)]
#[serde(expecting = "expected an object with `inputs`")]
struct Shape<'t> {
    #[serde(borrow)]
    inputs: Option<&'t RawValue>,
    #[serde(borrow)]
    parameters: Option<&'t RawValue>,
    candidate_labels: Option<IgnoredAny>,
}

/// The keys that identify the task. All are absent if the value is not an object.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Keys {
    candidate_labels: Option<IgnoredAny>,
    source_sentence: Option<IgnoredAny>,
    sentences: Option<IgnoredAny>,
}

impl Keys {
    fn of(value: Option<&RawValue>) -> serde_json::Result<Self> {
        // serde would also read a struct from an array.
        let object = value.map(RawValue::get).filter(|json| json.starts_with('{'));
        object.map_or_else(|| Ok(Self::default()), serde_json::from_str)
    }
}

impl Task {
    /// The fields decide which task it is, so that an error has the message of its own task. The body is parsed
    /// twice, because a tree of values would copy an image's base64.
    fn read(bytes: &Bytes) -> Result<Self, Error> {
        let shape: Shape<'_> = parse_slice(bytes)?;
        if shape.candidate_labels.is_some() {
            return Err(Error::invalid("candidate_labels", "stands in `parameters`"));
        }
        let unreadable =
            |error: serde_json::Error| Error::new(Code::InvalidRequest, error.to_string());
        let inputs = Keys::of(shape.inputs).map_err(unreadable)?;
        if Keys::of(shape.parameters).map_err(unreadable)?.candidate_labels.is_some() {
            parse(bytes).map(Self::ZeroShot)
        } else if inputs.source_sentence.or(inputs.sentences).is_some() {
            parse(bytes).map(Self::Similarity)
        } else {
            parse(bytes).map(Self::Embed)
        }
    }
}

impl FromPayload for Task {
    const ACCEPTS: &'static str = "application/json";

    fn from_json(bytes: &Bytes) -> Result<Self, Error> {
        Self::read(bytes)
    }
}

/// The response of each task.
#[derive(ToSchema)]
#[schema(as = EndpointAnswer)]
#[serde(untagged)]
#[expect(dead_code, reason = "only describes the answers of the three tasks")]
pub(in crate::rest) enum TaskAnswer {
    /// Zero-shot image classification: labels, best first.
    ZeroShot(Vec<LabelScore>),
    /// Sentence similarity: cosines.
    Similarity(Vec<f32>),
    /// Feature extraction: one row per text.
    Embed(Vec<Vec<f32>>),
}

/// Runs a task of a Hugging Face inference endpoint
///
/// The fields of the request select the task: `parameters.candidate_labels` selects zero-shot image
/// classification, `inputs.source_sentence` selects sentence similarity, and everything else is feature
/// extraction.
#[utoipa::path(
    post,
    path = "/",
    operation_id = "endpoint_task",
    tag = "compatible",
    params(RequestHeaders),
    request_body = Task,
    responses((status = 200, description = "The task's answer", body = TaskAnswer), TeiErrors),
)]
pub(in crate::rest) async fn predict(
    State(state): State<AppState>,
    Ctx(context): Ctx,
    Payload(task): Payload<Task>,
) -> Result<Response, Failure> {
    match task {
        Task::ZeroShot(body) => labels(&state, &context, body).await,
        Task::Similarity(body) => cosines(&state, &context, body).await,
        Task::Embed(body) => embeddings(&state, &context, body).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_tells_the_task() {
        for (json, task) in [
            (r#"{"inputs": "a", "parameters": {"candidate_labels": ["b"]}}"#, "ZeroShot"),
            (r#"{"inputs": {"source_sentence": "a", "sentences": ["b"]}}"#, "Similarity"),
            (r#"{"inputs": "a"}"#, "Embed"),
            (r#"{"inputs": ["a", "b", "c"], "parameters": null}"#, "Embed"),
            (r#"{"inputs": {"text": "a"}, "normalize": false}"#, "Embed"),
        ] {
            let read = Task::read(&Bytes::from(json)).expect(json);
            assert!(format!("{read:?}").starts_with(task), "{json}");
        }
        for json in [r#""a""#, "{}", r#"{"inputs": {"sentences": ["b"]}}"#, r#"{"inputs": 1}"#] {
            assert!(Task::read(&Bytes::from(json)).is_err(), "{json}");
        }
    }

    #[test]
    fn a_picture_stays_where_the_body_holds_it() {
        let picture = "A".repeat(1 << 16);
        let json =
            format!(r#"{{"inputs": "{picture}", "parameters": {{"candidate_labels": []}}}}"#);
        let body = Bytes::from(json);
        let task = Task::read(&body).expect("a task");
        let Task::ZeroShot(ZeroShotBody { inputs, .. }) = task else { panic!("another task") };
        assert!(body.as_ptr_range().contains(&inputs.0.as_ptr()));
    }
}
