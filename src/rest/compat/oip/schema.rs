//! The JSON of `/infer` for the OpenAPI document. `wire` reads and writes it without these types.

use std::collections::HashMap;

use utoipa::ToSchema;

/// The request's tensors.
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
    /// Returned in the response.
    id: Option<String>,
    inputs: Vec<InputTensorSchema>,
    /// The requested output tensors. The default is all.
    outputs: Option<Vec<RequestedOutputSchema>>,
    /// `binary_data_output` for raw outputs, `normalized` (true by default) for embeddings of length 1.
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
    /// `binary_data_size`: number of bytes of the tensor after the JSON.
    parameters: Option<HashMap<String, serde_json::Value>>,
    /// Strings or numbers, flat or nested like the shape.
    data: Option<Vec<serde_json::Value>>,
}

/// A requested output tensor.
#[derive(ToSchema)]
#[schema(as = InferRequestedOutput)]
#[expect(dead_code, reason = "only describes the JSON")]
pub(in crate::rest) struct RequestedOutputSchema {
    #[schema(example = "EMBEDDING")]
    name: String,
    /// `binary_data`: whether it is returned as raw bytes.
    parameters: Option<HashMap<String, serde_json::Value>>,
}

/// The response's tensors.
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

/// A tensor of the response.
#[derive(ToSchema)]
#[schema(as = InferOutputTensor)]
#[expect(dead_code, reason = "only describes the JSON")]
pub(in crate::rest) struct OutputTensorSchema {
    name: String,
    shape: Vec<usize>,
    datatype: String,
    /// `binary_data_size`: number of bytes of the tensor after the JSON.
    parameters: Option<HashMap<String, serde_json::Value>>,
    /// Numbers. For `CAPTION`, strings.
    data: Option<Vec<serde_json::Value>>,
}
