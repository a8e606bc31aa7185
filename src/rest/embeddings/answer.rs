//! The response of `/v1/embeddings`: JSON in OpenAI's format, or one array.

use std::collections::HashMap;

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::EncodingFormat;
use crate::{
    embedding::{Element, Embedding},
    engine::{Context, EmbeddedItems},
    error::Error,
    rest::{
        AppState,
        arrays::{npy_head, safetensors_head},
        negotiate::Container,
        problem::{Failure, OpenAiErrorBody},
        respond::{self, Usage},
    },
};

/// The model that was used for a binary response.
const MODEL: HeaderName = HeaderName::from_static("x-siglip-model");

/// How a response is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) container: Container,
    pub(super) format: EncodingFormat,
}

/// One embedding for each item, in the order of the request.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EmbeddingsResponse {
    /// Always `list`.
    #[schema(inline, value_type = String, example = "list")]
    object: &'static str,
    data: Vec<DataObject>,
    /// The model that was used.
    #[schema(example = "demo")]
    model: String,
    usage: Usage,
}

/// The result of one item.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum DataObject {
    /// The item's embedding.
    Embedding(EmbeddingObject),
    /// With `on_error: item`: why the item failed.
    Error(ErrorObject),
}

/// One embedding.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EmbeddingObject {
    /// Always `embedding`.
    #[schema(value_type = String, example = "embedding")]
    object: &'static str,
    /// The item's position in the request.
    index: usize,
    #[schema(value_type = VectorSchema)]
    embedding: Vector,
    /// For several vectors in base64, which are concatenated: the number of vectors, and the values of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    shape: Option<[usize; 2]>,
    /// True for a text that was truncated because it was longer than the model reads. Absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<bool>,
}

/// An item that failed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorObject {
    /// Always `error`.
    #[schema(value_type = String, example = "error")]
    object: &'static str,
    /// The item's position in the request.
    index: usize,
    #[serde(serialize_with = "openai_error")]
    #[schema(value_type = OpenAiErrorBody<'static>)]
    error: Error,
}

fn openai_error<S: Serializer>(error: &Error, serializer: S) -> Result<S::Ok, S::Error> {
    OpenAiErrorBody::from(error).serialize(serializer)
}

/// An embedding in the requested format.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(in crate::rest) enum Vector {
    /// Numbers.
    Float(Row),
    /// Signed integers.
    Signed(Vec<i8>),
    /// Unsigned integers.
    Unsigned(Integers),
    /// Base64 of little-endian floats.
    Base64(String),
    /// Several vectors, none of them in base64.
    Several(Vec<Self>),
}

/// An embedding in the requested format.
#[derive(ToSchema)]
#[schema(as = Vector, examples(json!([0.0182, -0.0411, 0.0077]), json!("Gw2VPG1WKL3vOPw7")))]
#[serde(untagged)]
#[expect(dead_code, reason = "only describes `Vector`, whose rows are not copied into a `Vec`")]
pub(super) enum VectorSchema {
    /// Numbers: floats, or integers of the 8-bit formats.
    Float(Vec<f32>),
    /// Base64 of little-endian floats of 32 or 16 bits.
    Base64(String),
    /// With `multi_vector`: the vectors of an image.
    Several(Vec<Vec<f32>>),
}

/// A row of numbers, serialised without a copy.
#[derive(Debug)]
pub(in crate::rest) struct Row(Embedding);

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_slice().serialize(serializer)
    }
}

/// Bytes that are written as numbers.
#[derive(Debug)]
pub(in crate::rest) struct Integers(Vec<u8>);

impl Serialize for Integers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0)
    }
}

impl Vector {
    pub(in crate::rest) fn new(embedding: Embedding, format: EncodingFormat) -> Self {
        let encoding = format.encoding();
        if format.is_base64() {
            return Self::Base64(
                base64_simd::STANDARD.encode_to_string(embedding.encoded(encoding)),
            );
        }
        match encoding.element() {
            Element::F32 | Element::F16 => Self::Float(Row(embedding)),
            Element::I8 => Self::Signed(embedding.to_i8(encoding)),
            Element::U8 => Self::Unsigned(Integers(embedding.encoded(encoding))),
        }
    }

    /// Several vectors, and their shape if it cannot be seen from the encoding.
    ///
    /// * `embedding`: the vectors, concatenated
    /// * `dim`: number of values of one vector
    fn several(
        embedding: Embedding,
        dim: usize,
        format: EncodingFormat,
    ) -> (Self, Option<[usize; 2]>) {
        let vectors = embedding.as_slice().chunks_exact(dim.max(1));
        if format.is_base64() {
            let shape = [vectors.len(), dim];
            return (Self::new(embedding, format), Some(shape));
        }
        let vectors = vectors.map(|vector| Self::new(Embedding::new(vector), format));
        (Self::Several(vectors.collect()), None)
    }
}

impl EmbeddingsResponse {
    fn new(embedded: EmbeddedItems, format: EncodingFormat) -> Self {
        let EmbeddedItems { truncated, several, dimensions, .. } = embedded;
        let object = |(index, item)| match item {
            Ok(embedding) => {
                let (embedding, shape) = match several.binary_search(&index) {
                    Ok(_) => Vector::several(embedding, dimensions, format),
                    Err(_) => (Vector::new(embedding, format), None),
                };
                DataObject::Embedding(EmbeddingObject {
                    object: "embedding",
                    index,
                    embedding,
                    shape,
                    truncated: truncated.binary_search(&index).is_ok().then_some(true),
                })
            }
            Err(error) => DataObject::Error(ErrorObject { object: "error", index, error }),
        };
        Self {
            object: "list",
            data: embedded.items.into_iter().enumerate().map(object).collect(),
            model: embedded.model.to_string(),
            usage: embedded.usage.into(),
        }
    }
}

/// Writes the response.
///
/// # Errors
/// For a binary container, the errors of failed items.
pub(super) async fn respond(
    state: &AppState,
    context: &Context,
    embedded: EmbeddedItems,
    layout: Layout,
) -> Result<Response, Failure> {
    let values = embedded.items.iter().flatten().map(Embedding::dim).sum();
    let Layout { container, format } = layout;
    if container == Container::Json {
        let body = move || EmbeddingsResponse::new(embedded, format);
        return respond::json(state, context, values, body).await;
    }
    let model = HeaderValue::from_str(&embedded.model).ok().map(|model| [(MODEL, model)]);
    let bytes = respond::timed(state, context, values, move || array(embedded, layout)).await??;
    let content_type = [(header::CONTENT_TYPE, container.content_type())];
    Ok((model, content_type, bytes).into_response())
}

/// All rows as one array, `[items, stored values]`.
fn array(embedded: EmbeddedItems, layout: Layout) -> Result<Vec<u8>, Error> {
    let encoding = layout.format.encoding();
    let rows = embedded.items.into_iter().collect::<Result<Vec<_>, _>>()?;
    let dim = rows.first().map_or(0, Embedding::dim);
    let shape = vec![rows.len(), encoding.stored_len(dim)];
    let head = match layout.container {
        Container::Npy | Container::Json => npy_head(encoding.element(), &shape),
        Container::Safetensors => {
            let places: Vec<_> = embedded.truncated.iter().map(usize::to_string).collect();
            let about = [
                ("truncated", places.join(",")),
                ("model", embedded.model.to_string()),
                ("dimensions", dim.to_string()),
                ("text_tokens", embedded.usage.text_tokens.to_string()),
                ("images", embedded.usage.images.to_string()),
            ];
            let about: HashMap<_, _> =
                about.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            let tensors = vec![("embeddings".to_owned(), shape)];
            safetensors_head(encoding.element(), tensors, about)?
        }
    };
    let mut bytes = head.to_vec();
    for row in &rows {
        encoding.write(row.as_slice(), &mut bytes);
    }
    Ok(bytes)
}
