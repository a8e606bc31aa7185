//! `POST /v1/captions`: captions of images, for models that can generate them.

use std::convert::Infallible;

use async_stream::stream;
use axum::{
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::ToSchema;

use super::{
    AppState,
    body::{File, Form, FromPayload, PartContent, Payload, option, unknown_part},
    embeddings::OnError,
    layers::Ctx,
    long_text::LongText,
    openapi::ProblemErrors,
    problem::Failure,
    respond::{self, Usage},
    similarity::parse_images,
};
use crate::{
    engine::{self, BeamOptions, Caption, Captioned, ImageInput, Sampling, Written},
    error::Error,
};

/// Images for which captions are generated, and how tokens are chosen.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(
    json!({"images": ["data:image/png;base64,iVBORw0..."]}),
    json!({"images": ["data:image/png;base64,iVBORw0..."], "prompt": "a picture of", "temperature": 0.7, "seed": 1})
))]
pub(super) struct CaptionsRequest {
    /// The model's name. Without a name, the default model is used.
    model: Option<String>,
    /// Images: data URIs or base64.
    #[schema(inline)]
    images: Option<Vec<LongText>>,
    /// The text with which every caption begins.
    prompt: Option<String>,
    /// Maximum number of tokens after the prompt.
    #[schema(minimum = 1, default = 20)]
    max_new_tokens: Option<usize>,
    /// The logits are divided by this before a token is sampled. With 0, or if none of `temperature`, `top_p`,
    /// `top_k` and `seed` is given, the most likely token is taken.
    #[schema(minimum = 0, maximum = 100)]
    temperature: Option<f32>,
    /// Tokens are sampled from the most likely ones that together have this probability: above 0 and at most 1.
    #[schema(maximum = 1)]
    top_p: Option<f32>,
    /// Tokens are sampled from this many of the most likely ones.
    #[schema(minimum = 1)]
    top_k: Option<usize>,
    /// A value above 1 makes tokens that already occur less likely.
    repetition_penalty: Option<f32>,
    /// The same seed gives the same tokens.
    seed: Option<u64>,
    /// How many captions of an image are followed at once. The best one is returned, as by transformers' `generate`.
    /// Not with `stream` or a sampling option.
    #[schema(minimum = 1, maximum = 8, default = 1)]
    num_beams: Option<usize>,
    /// With `num_beams`: the log-probability of a caption is divided by the number of its new tokens to this power.
    /// A larger value favours longer captions.
    #[schema(minimum = -2, maximum = 10, default = 1)]
    length_penalty: Option<f32>,
    /// With `num_beams`: when the search ends, as in transformers.
    #[schema(default = false)]
    early_stopping: Option<EarlyStopping>,
    /// Whether the response is a stream of server-sent events, one per token.
    #[schema(default = false)]
    stream: Option<bool>,
    /// What happens to the other images when one fails.
    on_error: Option<OnError>,
    /// Files of a form.
    #[serde(skip)]
    files: Vec<ImageInput>,
}

/// When a search over beams ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged)]
pub(super) enum EarlyStopping {
    /// `true`: when as many captions as beams have ended. `false`: when no beam is likely to become better than
    /// these.
    Full(bool),
    /// `never`: when no beam can become better than these.
    Never(Never),
}

/// The word `never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Never {
    /// `never`
    Never,
}

impl From<EarlyStopping> for engine::EarlyStopping {
    fn from(stopping: EarlyStopping) -> Self {
        match stopping {
            EarlyStopping::Full(true) => Self::Full,
            EarlyStopping::Full(false) => Self::Likely,
            EarlyStopping::Never(Never::Never) => Self::Never,
        }
    }
}

impl CaptionsRequest {
    fn split(self) -> Result<(engine::CaptionRequest, OnError), Error> {
        let images = match (self.images, self.files.is_empty()) {
            (Some(images), true) => parse_images(images)?,
            (None, false) => self.files,
            _ => return Err(Error::invalid("images", "give `images`")),
        };
        let sampling = Sampling {
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        };
        let beams = BeamOptions {
            num_beams: self.num_beams,
            length_penalty: self.length_penalty,
            early_stopping: self.early_stopping.map(Into::into),
        };
        if self.stream == Some(true) {
            beams.check_streamed()?;
        }
        let (model, prompt) = (self.model, self.prompt);
        let request = engine::CaptionRequest { model, images, prompt, sampling, beams };
        Ok((request, self.on_error.unwrap_or_default()))
    }
}

impl FromPayload for CaptionsRequest {
    const ACCEPTS: &'static str = "application/json, multipart/form-data";

    fn from_form(form: Form) -> Result<Self, Error> {
        let mut request = Self::default();
        for part in form.into_parts(&[])? {
            let text = match part.content {
                PartContent::File(bytes) => {
                    request.files.push(ImageInput::Encoded(bytes));
                    continue;
                }
                PartContent::Text(text) => text,
            };
            match part.name.as_str() {
                "model" => request.model = Some(text),
                "prompt" => request.prompt = Some(text),
                "max_new_tokens" => request.max_new_tokens = option("max_new_tokens", &text)?,
                "temperature" => request.temperature = option("temperature", &text)?,
                "top_p" => request.top_p = option("top_p", &text)?,
                "top_k" => request.top_k = option("top_k", &text)?,
                "repetition_penalty" => {
                    request.repetition_penalty = option("repetition_penalty", &text)?;
                }
                "seed" => request.seed = option("seed", &text)?,
                "num_beams" => request.num_beams = option("num_beams", &text)?,
                "length_penalty" => request.length_penalty = option("length_penalty", &text)?,
                "early_stopping" => request.early_stopping = option("early_stopping", &text)?,
                "stream" => request.stream = option("stream", &text)?,
                "on_error" => request.on_error = option("on_error", &text)?,
                name => {
                    let known = "model, prompt, max_new_tokens, temperature, top_p, top_k, \
                                 repetition_penalty, seed, num_beams, length_penalty, early_stopping, \
                                 stream, on_error";
                    return Err(unknown_part(name, known));
                }
            }
        }
        Ok(request)
    }
}

/// A form: every file is an image.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the form; `from_form` reads it")]
pub(super) struct CaptionsForm {
    /// Images. Any field with a file name counts as an image, whatever its name.
    image: Vec<File>,
    /// As in the JSON body.
    model: Option<String>,
    /// As in the JSON body.
    prompt: Option<String>,
    /// As in the JSON body.
    max_new_tokens: Option<usize>,
    /// As in the JSON body.
    temperature: Option<f32>,
    /// As in the JSON body.
    top_p: Option<f32>,
    /// As in the JSON body.
    top_k: Option<usize>,
    /// As in the JSON body.
    repetition_penalty: Option<f32>,
    /// As in the JSON body.
    seed: Option<u64>,
    /// As in the JSON body.
    num_beams: Option<usize>,
    /// As in the JSON body.
    length_penalty: Option<f32>,
    /// As in the JSON body.
    early_stopping: Option<EarlyStopping>,
    /// As in the JSON body.
    stream: Option<bool>,
    /// As in the JSON body.
    on_error: Option<OnError>,
}

/// The captions.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "model": "blip",
    "captions": [{"text": "a woman sitting on the beach with her dog", "token_ids": [30522, 1037, 2450, 102], "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "total_tokens": 3, "images": 1}
}))]
pub(super) struct CaptionsResponse {
    /// The model that was used.
    model: String,
    /// One per image, in the order of the request.
    captions: Vec<CaptionOrError>,
    /// What the request used. Its tokens are those that the model generated.
    usage: Usage,
}

/// A caption. With `on_error: item` it can be the error of an image.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum CaptionOrError {
    /// A caption.
    Caption(CaptionObject),
    /// An image that failed.
    Failed {
        /// Why.
        error: CaptionError,
    },
}

/// A caption.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CaptionObject {
    /// The text, with the prompt and without special tokens.
    text: String,
    /// The token ids: the start token, the prompt and the generated tokens, with the end token if it was
    /// reached.
    token_ids: Vec<u32>,
    /// `stop` if the model ended the caption, `length` if it has the maximum number of tokens.
    #[schema(pattern = "^(stop|length)$")]
    finish_reason: &'static str,
}

/// Why an image has no caption.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CaptionError {
    /// The machine-readable name, which does not change.
    code: &'static str,
    /// What is wrong with the image.
    detail: String,
}

impl From<Caption> for CaptionObject {
    fn from(caption: Caption) -> Self {
        let finish_reason = if caption.is_ended { "stop" } else { "length" };
        Self { text: caption.text, token_ids: caption.token_ids, finish_reason }
    }
}

impl CaptionsResponse {
    /// # Errors
    /// The errors of the images, if a failed image fails the request.
    fn new(captioned: Captioned, on_error: OnError) -> Result<Self, Error> {
        let Captioned { model, captions, usage } = captioned;
        if on_error == OnError::Fail {
            let errors = captions.iter().filter_map(|caption| caption.as_ref().err().cloned());
            if let Some(error) = Error::of_items(errors.collect()) {
                return Err(error);
            }
        }
        let captions = captions.into_iter().map(|caption| match caption {
            Ok(caption) => CaptionOrError::Caption(caption.into()),
            Err(error) => CaptionOrError::Failed {
                error: CaptionError { code: error.code().slug(), detail: error.to_string() },
            },
        });
        Ok(Self { model: model.to_string(), captions: captions.collect(), usage: usage.into() })
    }
}

/// Number of tokens that are generated ahead of a client that reads slowly.
const TOKENS_AHEAD: usize = 64;

/// A token of a streamed caption.
#[derive(Debug, Serialize)]
struct TokenEvent {
    index: usize,
    token_id: u32,
    text: String,
}

/// Generates captions for images
///
/// For models that generate captions (`captions` is true in `/info`). At each step the most likely token is
/// taken, unless a sampling option is given. With `stream` the response is a stream of server-sent events:
/// `token` with the image's `index`, the `token_id` and the `text` so far; at the end `done` with the response
/// as it is without `stream`, or `error` with a `code` and a `detail`.
#[utoipa::path(
    post,
    path = "/v1/captions",
    tag = "captions",
    params(super::openapi::RequestHeaders),
    request_body(
        content(
            (CaptionsRequest = "application/json"),
            (CaptionsForm = "multipart/form-data"),
        ),
    ),
    responses((status = 200, description = "The captions", body = CaptionsResponse), ProblemErrors),
)]
pub(super) async fn captions(
    State(state): State<AppState>,
    Ctx(context): Ctx,
    Payload(request): Payload<CaptionsRequest>,
) -> Result<Response, Failure> {
    let is_streamed = request.stream == Some(true);
    let (request, on_error) = request.split()?;
    if !is_streamed {
        let captioned = state.engine().caption(request, |_| async {}, &context).await?;
        let answer = CaptionsResponse::new(captioned, on_error)?;
        let values = answer.captions.len();
        return respond::json(&state, &context, values, move || answer).await;
    }
    let (tell, mut told) = mpsc::channel::<Written>(TOKENS_AHEAD);
    let engine = state.shared_engine();
    let mut work = Box::pin(async move {
        // If the receiver was dropped, nobody reads the tokens, and this work is dropped too.
        let written = |token| async { drop(tell.send(token).await) };
        let captioned = engine.caption(request, written, &context).await?;
        CaptionsResponse::new(captioned, on_error)
    });
    // Wait for the first token, so that a request that fails before it gets an error status.
    let first = tokio::select! {
        biased;
        Some(token) = told.recv() => Ok(token),
        ended = &mut work => Err(ended?),
    };
    let events = stream! {
        let mut ended = None;
        match first {
            Ok(token) => yield Ok::<_, Infallible>(token_event(token)),
            Err(answer) => ended = Some(Ok(answer)),
        }
        while ended.is_none() {
            tokio::select! {
                biased;
                Some(token) = told.recv() => yield Ok(token_event(token)),
                result = &mut work => ended = Some(result),
            }
        }
        while let Ok(token) = told.try_recv() {
            yield Ok(token_event(token));
        }
        match ended {
            Some(Ok(answer)) => yield Ok(event("done", &answer)),
            Some(Err(error)) => {
                let error = CaptionError { code: error.code().slug(), detail: error.to_string() };
                yield Ok(event("error", &error));
            }
            None => {}
        }
    };
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

fn token_event(Written { index, id, text }: Written) -> Event {
    event("token", &TokenEvent { index, token_id: id, text })
}

fn event(name: &str, data: &impl Serialize) -> Event {
    let event = Event::default().event(name);
    // Strings and numbers can always be written as JSON. The fallback would show the client that there is a
    // defect.
    event.json_data(data).unwrap_or_else(|_| Event::default().event("error"))
}
