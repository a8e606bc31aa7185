//! Bodies of `/infer`: JSON, or JSON followed by raw tensors.

use std::{collections::HashMap, fmt};

use axum::{
    body::Body,
    extract::{FromRequest, Request},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, DeserializeSeed, SeqAccess, Visitor},
};

use crate::{
    engine::Context,
    error::Error,
    oip::{self, Elements, InferAnswer, InferRequest, Output, Tensor, Values},
    rest::{
        AppState,
        body::{self, Intake},
        long_text::LongText,
        matching_token::MatchingToken,
        problem::Failure,
        respond::{json_body, json_line, timed},
    },
};

/// The header with the number of bytes of JSON in a body with raw tensors.
const HEADER_LENGTH: &str = "inference-header-content-length";

/// The JSON of a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InferBody {
    id: Option<String>,
    inputs: Vec<InputTensor>,
    #[serde(default)]
    outputs: Vec<RequestedOutput>,
    #[serde(default)]
    parameters: RequestParameters,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RequestParameters {
    binary_data_output: bool,
    normalized: Option<bool>,
    matching_token: Option<MatchingToken>,
    /// Options of Triton's scheduler. This server has the headers `x-priority` and `x-request-timeout-ms`.
    #[serde(rename = "priority")]
    _priority: Option<u64>,
    #[serde(rename = "timeout")]
    _timeout: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InputTensor {
    name: String,
    shape: Shape,
    datatype: String,
    #[serde(default)]
    parameters: TensorParameters,
    data: Option<Data>,
}

/// The size of each dimension. Reads one dimension more than allowed and skips the rest, so that the error can
/// name the tensor.
#[derive(Debug)]
struct Shape(Vec<i64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ShapeVisitor;

        impl<'de> Visitor<'de> for ShapeVisitor {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of whole numbers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut sizes = Vec::new();
                while let Some(size) = seq.next_element()? {
                    if sizes.len() <= oip::MAX_RANK {
                        sizes.push(size);
                    }
                }
                Ok(Shape(sizes))
            }
        }

        deserializer.deserialize_seq(ShapeVisitor)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TensorParameters {
    /// For an input: number of its bytes after the JSON.
    binary_data_size: Option<usize>,
    /// For an output: whether it is returned as raw bytes.
    binary_data: Option<bool>,
    /// The type from which the client made the tensor. Not needed: the tensor's own type says how it is read.
    #[serde(rename = "content_type")]
    _content_type: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestedOutput {
    name: String,
    #[serde(default)]
    parameters: TensorParameters,
}

/// Elements in JSON, flat or nested like the shape.
#[derive(Debug)]
struct Data(Elements);

/// Collects strings or numbers. The first element decides which.
#[derive(Default)]
struct Flat {
    strings: Vec<ByteString>,
    numbers: Vec<f32>,
}

struct FlatSeed<'f>(&'f mut Flat);

impl<'de> DeserializeSeed<'de> for FlatSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FlatSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("strings or numbers, flat or nested")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(FlatSeed(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<(), E> {
        self.0.strings.push(LongText::borrowed(text).0);
        Ok(())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.0.strings.push(text.into());
        Ok(())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.0.numbers.push(value as f32);
        Ok(())
    }

    // A 32-bit float holds every id of a vocabulary of up to 2^24 tokens.
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.visit_f64(value as f64)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.visit_f64(value as f64)
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut flat = Flat::default();
        deserializer.deserialize_seq(FlatSeed(&mut flat))?;
        match (flat.strings.is_empty(), flat.numbers.is_empty()) {
            (_, true) => Ok(Self(Elements::Strings(flat.strings))),
            (true, false) => Ok(Self(Elements::Floats(flat.numbers))),
            (false, false) => Err(de::Error::custom("strings and numbers are mixed")),
        }
    }
}

/// A parsed request body.
pub(in crate::rest) struct Call {
    body: InferBody,
    /// The bytes after the JSON.
    raw: Bytes,
}

impl FromRequest<AppState> for Call {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Failure> {
        body::refuse_query(request.uri(), "options stand in `parameters`")?;
        let length = header_length(request.headers())?;
        let intake = Intake::of(state, &request);
        let bytes = body::read(request.into_body()).await?;
        Ok(Self::read(bytes, length, intake).await?)
    }
}

fn header_length(headers: &HeaderMap) -> Result<Option<usize>, Error> {
    let Some(value) = headers.get(HEADER_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    length.map(Some).ok_or_else(|| Error::invalid(HEADER_LENGTH, "must be a number of bytes"))
}

/// How a response is written.
pub(in crate::rest) struct Form {
    id: Option<String>,
    /// Whether outputs are raw bytes by default.
    raw_by_default: bool,
    raw: HashMap<String, bool>,
}

impl Call {
    /// Reads a body of which `length` bytes are JSON. Without a length, the whole body is JSON.
    ///
    /// # Errors
    /// [`crate::error::Code::InvalidRequest`] if the length exceeds the body, and the errors of [`body::json`].
    pub(in crate::rest) async fn read(
        mut raw: Bytes,
        length: Option<usize>,
        intake: Intake,
    ) -> Result<Self, Error> {
        let json = match length {
            Some(length) if length <= raw.len() => raw.split_to(length),
            Some(_) => return Err(Error::invalid(HEADER_LENGTH, "is more than the body")),
            None => std::mem::take(&mut raw),
        };
        Ok(Self { body: body::json(json, intake).await?, raw })
    }

    /// The request, and how its response is written.
    ///
    /// # Errors
    /// Names the tensor whose bytes are missing.
    pub(in crate::rest) fn split(self, model: String) -> Result<(InferRequest, Form), Error> {
        let Self { body, mut raw } = self;
        let tensor = |input: InputTensor| {
            let elements = match (input.parameters.binary_data_size, input.data) {
                (Some(size), None) if size <= raw.len() => Elements::Raw(raw.split_to(size)),
                (None, Some(Data(elements))) => elements,
                _ => {
                    let message = "has neither `data` nor `binary_data_size` bytes behind the JSON";
                    return Err(Error::invalid(input.name, message));
                }
            };
            let (name, datatype, Shape(shape)) = (input.name, input.datatype, input.shape);
            Ok(Tensor { name, datatype, shape, elements })
        };
        let inputs = body.inputs.into_iter().map(tensor).collect::<Result<_, _>>()?;
        let is_raw = |output: &RequestedOutput| {
            let raw = output.parameters.binary_data?;
            Some((output.name.clone(), raw))
        };
        let form = Form {
            id: body.id,
            raw_by_default: body.parameters.binary_data_output,
            raw: body.outputs.iter().filter_map(is_raw).collect(),
        };
        let request = InferRequest {
            model: Some(model),
            inputs,
            outputs: body.outputs.into_iter().map(|output| output.name).collect(),
            normalize: body.parameters.normalized.unwrap_or(true),
            matching_token: body.parameters.matching_token.map(Into::into),
        };
        Ok((request, form))
    }
}

/// The JSON of a response.
#[derive(Debug, Serialize)]
struct InferResponse<'a> {
    model_name: &'a str,
    model_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: Vec<OutputTensor<'a>>,
}

#[derive(Debug, Serialize)]
struct OutputTensor<'a> {
    name: &'static str,
    shape: Vec<usize>,
    datatype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<OutputParameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<OutputData<'a>>,
}

/// Elements of a response.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum OutputData<'a> {
    Floats(&'a [f32]),
    Texts(&'a [String]),
}

#[derive(Debug, Serialize)]
struct OutputParameters {
    binary_data_size: usize,
}

impl Form {
    fn is_raw(&self, name: &str) -> bool {
        self.raw.get(name).copied().unwrap_or(self.raw_by_default)
    }

    /// The JSON, and the raw tensors that follow.
    fn write(&self, answer: &InferAnswer) -> Result<(Vec<u8>, BytesMut), Error> {
        let mut raw = BytesMut::new();
        let tensor = |output| self.tensor(output, &mut raw);
        let response = InferResponse {
            model_name: &answer.model,
            model_version: oip::VERSION,
            id: self.id.as_deref(),
            outputs: answer.outputs.iter().map(tensor).collect(),
        };
        Ok((json_line(&response)?, raw))
    }

    fn tensor<'a>(&self, output: &'a Output, raw: &mut BytesMut) -> OutputTensor<'a> {
        let tensor = OutputTensor {
            name: output.name,
            shape: output.shape(),
            datatype: output.datatype().name(),
            parameters: None,
            data: None,
        };
        if !self.is_raw(output.name) {
            let data = match &output.values {
                Values::Floats(matrix) => OutputData::Floats(&matrix.data),
                Values::Texts(texts) => OutputData::Texts(texts),
            };
            return OutputTensor { data: Some(data), ..tensor };
        }
        let bytes = output.to_raw();
        let parameters = Some(OutputParameters { binary_data_size: bytes.len() });
        raw.put(bytes);
        OutputTensor { parameters, ..tensor }
    }

    /// Writes a response.
    ///
    /// # Errors
    /// [`crate::error::Code::Internal`] if writing fails, which is a defect.
    pub(in crate::rest) async fn respond(
        self,
        state: &AppState,
        context: &Context,
        answer: InferAnswer,
    ) -> Result<Response, Error> {
        let values = answer.outputs.iter().map(Output::elements).sum();
        let (json, raw) = timed(state, context, values, move || self.write(&answer)).await??;
        if raw.is_empty() {
            return Ok(json_body(Body::from(json)));
        }
        let length = HeaderValue::from(json.len());
        let body = [json, raw.into()].concat();
        Ok((
            [
                (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
                (header::HeaderName::from_static(HEADER_LENGTH), length),
            ],
            body,
        )
            .into_response())
    }
}
