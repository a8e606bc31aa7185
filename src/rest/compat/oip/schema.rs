//! The JSON of `/infer` for the document: it is read and written by hand.

use std::collections::HashMap;

use utoipa::ToSchema;

/// Tensors in.
#[derive(ToSchema)]
#[schema(
    as = InferRequest,
    example = json!({
        "id": "1",
        "inputs": [{"name": "TEXT", "shape": [1], "datatype": "BYTES", "data": ["a cat"]}],
        "outputs": [{"name": "EMBEDDING"}]
    })
)]
#[expect(dead_code, reason = "only describes the JSON, whose elements are read by hand")]
pub(in crate::rest) struct InferBodySchema {
    /// Echoed in the answer.
    id: Option<String>,
    inputs: Vec<InputTensorSchema>,
    /// Which tensors to answer; all of them where none is given.
    outputs: Option<Vec<RequestedOutputSchema>>,
    /// `binary_data_output` for raw outputs, `normalized` (true) for embeddings of length 1.
    parameters: Option<HashMap<String, serde_json::Value>>,
}

/// A tensor of the request.
#[derive(ToSchema)]
#[schema(as = InferInputTensor)]
#[expect(dead_code, reason = "only describes the JSON")]
pub(in crate::rest) struct InputTensorSchema {
    #[schema(example = "TEXT")]
    name: String,
    #[schema(example = json!([1]))]
    shape: Vec<i64>,
    #[schema(example = "BYTES")]
    datatype: String,
    /// `binary_data_size`: the tensor's bytes behind the JSON.
    parameters: Option<HashMap<String, serde_json::Value>>,
    /// Strings or numbers, flat or nested as the shape is.
    data: Option<Vec<serde_json::Value>>,
}

/// A tensor to be answered.
#[derive(ToSchema)]
#[schema(as = InferRequestedOutput)]
#[expect(dead_code, reason = "only describes the JSON")]
pub(in crate::rest) struct RequestedOutputSchema {
    #[schema(example = "EMBEDDING")]
    name: String,
    /// `binary_data`: whether it comes raw.
    parameters: Option<HashMap<String, serde_json::Value>>,
}

/// Tensors out.
#[derive(ToSchema)]
#[schema(as = InferResponse)]
#[expect(dead_code, reason = "only describes the JSON, whose values are not copied")]
pub(in crate::rest) struct InferResponseSchema {
    model_name: String,
    /// Always `1`.
    model_version: String,
    id: Option<String>,
    outputs: Vec<OutputTensorSchema>,
}

/// A tensor of the answer.
#[derive(ToSchema)]
#[schema(as = InferOutputTensor)]
#[expect(dead_code, reason = "only describes the JSON")]
pub(in crate::rest) struct OutputTensorSchema {
    name: String,
    shape: Vec<usize>,
    datatype: String,
    /// `binary_data_size`: the tensor's bytes behind the JSON.
    parameters: Option<HashMap<String, serde_json::Value>>,
    /// Numbers, or of `CAPTION` strings.
    data: Option<Vec<serde_json::Value>>,
}
