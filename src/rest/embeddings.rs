//! `POST /v1/embeddings`: embeds texts and images, in OpenAI's format.

pub(super) mod answer;
mod conversation;
pub(super) mod input;
mod options;
mod others;

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, Uri},
    response::Response,
};
use bytes::Bytes;
use serde::Deserialize;
use utoipa::ToSchema;

use self::{
    answer::{EmbeddingsResponse, Layout},
    conversation::{Conversations, ConversationsSchema},
    input::{Inputs, Item},
    options::{EmbeddingsForm, RawImageOptions},
};
use super::{
    AppState,
    body::{
        File, Form, FromPayload, PartContent, Payload, option, parse_by_items, query, unknown_part,
    },
    layers::Ctx,
    long_text::LongText,
    negotiate::Container,
    openapi::{EXAMPLE_IMAGE, OpenAiErrors},
    paths::Deployment,
    problem::Failure,
};
use crate::{embedding::Encoding, engine::EmbedRequest, error::Error};

/// What to embed, and how the response is written.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(
    json!({"input": ["a cat", "a dog"]}),
    json!({"input": [{"text": "a cat"}, {"image": EXAMPLE_IMAGE}], "encoding_format": "base64"}),
    json!({"input": [EXAMPLE_IMAGE], "modality": "image"})
))]
pub(super) struct EmbeddingsRequest {
    /// The model's name. Without a name, the default model is used.
    #[serde(default)]
    model: Option<String>,
    /// What to embed. Give either `input` or `messages`.
    #[serde(default)]
    input: Inputs,
    /// What to embed, in vLLM's format: one conversation, or an array of several, with one embedding each. A
    /// conversation has one message. Its content is one image, or texts, which are joined as the lines of one
    /// text.
    #[serde(default)]
    #[schema(value_type = Option<ConversationsSchema>)]
    messages: Option<Conversations>,
    /// The kind of plain strings in `input`. Items that are objects name their own kind.
    #[serde(default)]
    modality: Modality,
    /// How each embedding is written. Jina's clients send an array with one element.
    #[serde(
        default,
        alias = "embedding_type",
        alias = "encoding_type",
        deserialize_with = "others::one_format"
    )]
    encoding_format: EncodingFormat,
    /// Keep only the first values of each embedding and normalise them again. The model was not trained for
    /// this. In a search for drawings by name with the demo model, the first result is right for 88 % of the
    /// names with all 192 values, 78 % with 160, 56 % with 128 and 14 % with 64.
    #[serde(default, alias = "output_dimension")]
    #[schema(minimum = 1)]
    dimensions: Option<usize>,
    /// Whether embeddings are scaled to length 1.
    #[serde(default = "yes")]
    #[schema(default = true)]
    normalized: bool,
    /// Whether a text that is too long is truncated. Otherwise it is refused.
    #[serde(default = "yes", alias = "truncation")]
    #[schema(default = true)]
    truncate: bool,
    /// Maximum number of patches of each image, for models that read images in variable resolution (`/info` has
    /// the model's own number and the limit). Other models refuse it.
    #[serde(default)]
    #[schema(minimum = 1)]
    max_num_patches: Option<u32>,
    /// Whether an image gets several vectors, for a model that produces several (BLIP-2). The `embedding` of an
    /// image is then an array of vectors. In base64 the vectors are concatenated, and `shape` has their number.
    /// Texts still have one vector. Such a model refuses images without this option, and other models refuse
    /// this option.
    #[serde(default)]
    #[schema(default = false)]
    multi_vector: bool,
    /// What happens to the other items when one fails.
    #[serde(default)]
    on_error: OnError,
    /// Accepted for OpenAI's clients and ignored.
    #[serde(default)]
    #[expect(dead_code, reason = "part of OpenAI's request; the server keeps no users")]
    user: Option<String>,
    /// Accepted for the clients of Jina and (as `input_type`) of Voyage, and ignored: the model has one
    /// embedding for a text, whatever its use.
    #[serde(default, alias = "input_type")]
    #[expect(dead_code, reason = "part of Jina's request; the model knows no tasks")]
    task: Option<String>,
    /// Accepted for Jina's clients. Only `false` is supported, since each text has its own embedding.
    #[serde(default)]
    #[schema(default = false)]
    late_chunking: bool,
    /// Accepted for Jina's clients. Only `false` is supported, since the model has one vector per item.
    #[serde(default)]
    #[schema(default = false)]
    return_multivector: bool,
    /// Voyage's name for the type of the values. Together with `base64`, only `float` is supported.
    #[serde(default)]
    output_dtype: EncodingFormat,
}

fn yes() -> bool {
    true
}

/// The kind of a plain string.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Modality {
    /// A text to embed.
    #[default]
    Text,
    /// An image: a data URI or base64.
    Image,
}

/// How an embedding is written. In a binary response (see `Accept`), this is the type of the values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum EncodingFormat {
    /// An array of numbers.
    #[default]
    Float,
    /// Base64 of little-endian 32-bit floats.
    Base64,
    /// Base64 of little-endian 16-bit floats.
    Base64F16,
    /// An array of integers: `round(127 * value)`, in `[-127, 127]`.
    Int8,
    /// `int8` plus 128, in `[1, 255]`.
    Uint8,
    /// `ubinary` minus 128, in `[-128, 127]`. In the search that `dimensions` describes, the first result is
    /// right for 19 % of the names.
    Binary,
    /// One bit per value, set if the value is above 0. Each integer in `[0, 255]` holds eight bits, with the
    /// first value in the highest bit.
    Ubinary,
}

impl EncodingFormat {
    pub(super) const fn encoding(self) -> Encoding {
        match self {
            Self::Float | Self::Base64 => Encoding::F32,
            Self::Base64F16 => Encoding::F16,
            Self::Int8 => Encoding::Int8,
            Self::Uint8 => Encoding::Uint8,
            Self::Binary => Encoding::Binary,
            Self::Ubinary => Encoding::Ubinary,
        }
    }

    /// Whether it is base64 in JSON.
    pub(super) const fn is_base64(self) -> bool {
        matches!(self, Self::Base64 | Self::Base64F16)
    }
}

/// What happens to the other items when one fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnError {
    /// The request fails. Its error lists every item that failed.
    #[default]
    Fail,
    /// The failed item is replaced with an error object, and the other items succeed.
    Item,
}

impl EmbeddingsRequest {
    fn of(items: Vec<Item>) -> Self {
        Self {
            model: None,
            input: Inputs(items),
            messages: None,
            modality: Modality::Text,
            encoding_format: EncodingFormat::Float,
            dimensions: None,
            normalized: true,
            truncate: true,
            max_num_patches: None,
            multi_vector: false,
            on_error: OnError::Fail,
            user: None,
            task: None,
            late_chunking: false,
            return_multivector: false,
            output_dtype: EncodingFormat::Float,
        }
    }

    /// How the response is written.
    fn layout(&self, headers: &HeaderMap) -> Result<Layout, Error> {
        let format = others::format(self.encoding_format, self.output_dtype)?;
        if self.late_chunking {
            let message = "only `false` is served: each text has an embedding of its own";
            return Err(Error::invalid("late_chunking", message));
        }
        if self.return_multivector {
            let message = "only `false` is served: the model has one vector for an item";
            return Err(Error::invalid("return_multivector", message));
        }
        if format.encoding().needs_normalized() && !self.normalized {
            let message = "8-bit integers hold embeddings of length 1: leave `normalized` on";
            return Err(Error::invalid("encoding_format", message));
        }
        let container = Container::accepted(headers);
        if container.is_binary() && self.on_error == OnError::Item {
            let message = "a binary answer has no place for errors: ask for JSON";
            return Err(Error::invalid("on_error", message));
        }
        if container.is_binary() && self.multi_vector {
            let message = "a binary answer has one row for an item: ask for JSON";
            return Err(Error::invalid("multi_vector", message));
        }
        Ok(Layout { container, format })
    }

    /// The engine's request, and what happens to the other items when one fails.
    pub(super) fn split(self) -> Result<(EmbedRequest, OnError), Error> {
        let inputs = match (self.messages, self.on_error) {
            (Some(_), _) if !self.input.0.is_empty() => {
                return Err(Error::invalid("messages", "give either `input` or `messages`"));
            }
            (Some(messages), OnError::Fail) => messages.resolve()?,
            (Some(messages), OnError::Item) => messages.resolve_each(),
            (None, OnError::Fail) => self.input.resolve(self.modality)?,
            (None, OnError::Item) => self.input.resolve_each(self.modality),
        };
        let request = EmbedRequest {
            model: self.model,
            inputs,
            dimensions: self.dimensions,
            normalize: self.normalized,
            truncate: self.truncate,
            max_num_patches: self.max_num_patches,
            multi_vector: self.multi_vector,
        };
        Ok((request, self.on_error))
    }
}

impl FromPayload for EmbeddingsRequest {
    const ACCEPTS: &'static str =
        "application/json, multipart/form-data, image/*, application/octet-stream";

    fn from_json(bytes: &Bytes) -> Result<Self, Error> {
        parse_by_items(bytes)
    }

    fn from_form(form: Form) -> Result<Self, Error> {
        let mut request = Self::of(Vec::new());
        for part in form.into_parts(&["text", "input"])? {
            match (part.name.as_str(), part.content) {
                (_, PartContent::File(bytes)) => request.input.0.push(Item::Encoded(bytes)),
                ("text" | "input", PartContent::Text(text)) => {
                    request.input.0.push(Item::Text(LongText(text.into())));
                }
                ("model", PartContent::Text(text)) => request.model = Some(text),
                ("encoding_format", PartContent::Text(text)) => {
                    request.encoding_format = option("encoding_format", &text)?.unwrap_or_default();
                }
                ("dimensions", PartContent::Text(text)) => {
                    request.dimensions = option("dimensions", &text)?;
                }
                ("normalized", PartContent::Text(text)) => {
                    request.normalized = option("normalized", &text)?.unwrap_or(true);
                }
                ("truncate", PartContent::Text(text)) => {
                    request.truncate = option("truncate", &text)?.unwrap_or(true);
                }
                ("max_num_patches", PartContent::Text(text)) => {
                    request.max_num_patches = option("max_num_patches", &text)?;
                }
                ("multi_vector", PartContent::Text(text)) => {
                    request.multi_vector = option("multi_vector", &text)?.unwrap_or_default();
                }
                ("on_error", PartContent::Text(text)) => {
                    request.on_error = option("on_error", &text)?.unwrap_or_default();
                }
                ("user", PartContent::Text(_)) => {}
                (name, PartContent::Text(_)) => {
                    let known = "text, model, encoding_format, dimensions, normalized, truncate, \
                                 max_num_patches, multi_vector, on_error";
                    return Err(unknown_part(name, known));
                }
            }
        }
        Ok(request)
    }

    fn from_image(image: Bytes, uri: &Uri) -> Result<Self, Error> {
        let options: RawImageOptions = query(uri)?;
        Ok(Self {
            model: options.model,
            encoding_format: options.encoding_format,
            dimensions: options.dimensions,
            normalized: options.normalized.unwrap_or(true),
            max_num_patches: options.max_num_patches,
            multi_vector: options.multi_vector,
            on_error: options.on_error,
            ..Self::of(vec![Item::Encoded(image)])
        })
    }
}

/// Embeds texts and images
///
/// Takes OpenAI's request. Items can also be `{"text": ...}` and `{"image": ...}`, mixed. A raw image
/// (`Content-Type: image/*`) and a form with several files are also accepted. If an item fails, the request
/// fails, and the error lists every item that failed. With `on_error: item`, only the failed items are replaced
/// with error objects. With `Accept`, the response can be one array in numpy's format, or safetensors with the
/// tensor `embeddings`.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    tag = "embeddings",
    params(RawImageOptions, super::openapi::RequestHeaders),
    request_body(
        content(
            (EmbeddingsRequest = "application/json"),
            (EmbeddingsForm = "multipart/form-data"),
            (File = "image/*"),
        ),
    ),
    responses(
        (
            status = 200,
            description = "The embeddings",
            content(
                (EmbeddingsResponse = "application/json"),
                (File = "application/x-npy"),
                (File = "application/vnd.safetensors"),
            ),
        ),
        OpenAiErrors,
    ),
)]
pub(super) async fn embeddings(
    State(state): State<AppState>,
    Ctx(context): Ctx,
    deployment: Option<Extension<Deployment>>,
    headers: HeaderMap,
    Payload(mut request): Payload<EmbeddingsRequest>,
) -> Result<Response, Failure> {
    if let Some(Extension(Deployment(model))) = deployment {
        request.model = Some(model);
    }
    let layout = request.layout(&headers)?;
    let (request, on_error) = request.split()?;
    let embedded = match on_error {
        OnError::Item => state.engine().embed_items(request, &context).await?,
        OnError::Fail => state.engine().embed(request, &context).await?.into(),
    };
    answer::respond(&state, &context, embedded, layout).await
}
