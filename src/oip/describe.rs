//! Describes the server and its models for the protocol.

use crate::{
    error::{Code, Error},
    preprocess::TargetSize,
    registry::Model,
};

/// The protocol's name of this server.
pub const PLATFORM: &str = "siglip-server";
/// The only version of each model.
pub const VERSION: &str = "1";
/// The supported extensions: raw tensors after the JSON, and Triton's configuration of a model.
pub const EXTENSIONS: [&str; 2] = ["binary_tensor_data", "model_configuration"];

/// Encoded images, `[n]` or `[n, 1]`.
pub const IMAGE: &str = "IMAGE";
/// Texts in UTF-8, `[n]` or `[n, 1]`.
pub const TEXT: &str = "TEXT";
/// Prepared images, `[n, 3, height, width]`, normalised.
pub const PIXEL_VALUES: &str = "PIXEL_VALUES";
/// Token ids, `[n, length]`.
pub const INPUT_IDS: &str = "INPUT_IDS";
/// Embeddings, `[n, dimension]`, images first.
pub const EMBEDDING: &str = "EMBEDDING";
/// The logits of pairs by the model's rule, `[images, texts]`.
pub const LOGIT: &str = "LOGIT";
/// The probabilities of pairs, `[images, texts]`.
pub const PROBABILITY: &str = "PROBABILITY";

/// Captions of images, `[images]`.
pub const CAPTION: &str = "CAPTION";

/// The element types that responses and descriptions use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datatype {
    /// Byte strings.
    Bytes,
    /// 32-bit floats.
    Fp32,
    /// Signed integers of 64 bits.
    Int64,
}

impl Datatype {
    /// The protocol's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bytes => "BYTES",
            Self::Fp32 => "FP32",
            Self::Int64 => "INT64",
        }
    }

    /// The name in Triton's configuration of a model.
    #[must_use]
    pub const fn config_name(self) -> &'static str {
        match self {
            Self::Bytes => "TYPE_STRING",
            Self::Fp32 => "TYPE_FP32",
            Self::Int64 => "TYPE_INT64",
        }
    }
}

/// The description of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: &'static str,
    /// The type of its elements.
    pub datatype: Datatype,
    /// The shape, with -1 for a size that requests choose.
    pub shape: Vec<i64>,
}

/// The tensors that a model reads.
#[must_use]
pub fn inputs(model: &Model) -> Vec<TensorSpec> {
    // For a model that reads images in variable resolution, each size is a multiple of the patch's side.
    let [height, width] = match model.image.size {
        TargetSize::Fixed { height, width } | TargetSize::Crop { height, width, .. } => {
            [height, width].map(i64::from)
        }
        TargetSize::Patches { .. } => [-1, -1],
    };
    let mut specs = vec![
        TensorSpec { name: IMAGE, datatype: Datatype::Bytes, shape: vec![-1] },
        TensorSpec {
            name: PIXEL_VALUES,
            datatype: Datatype::Fp32,
            shape: vec![-1, 3, height, width],
        },
    ];
    if model.tokenizer.is_some() {
        specs.push(TensorSpec { name: TEXT, datatype: Datatype::Bytes, shape: vec![-1] });
        specs.push(TensorSpec { name: INPUT_IDS, datatype: Datatype::Int64, shape: vec![-1, -1] });
    }
    specs
}

/// The tensors that a model returns.
#[must_use]
pub fn outputs(model: &Model) -> Vec<TensorSpec> {
    let dimension = i64::try_from(model.card.embedding_dim).unwrap_or(i64::MAX);
    let mut specs =
        vec![TensorSpec { name: EMBEDDING, datatype: Datatype::Fp32, shape: vec![-1, dimension] }];
    if model.writer.is_some() {
        specs.push(TensorSpec { name: CAPTION, datatype: Datatype::Bytes, shape: vec![-1] });
    }
    if model.card.scorer.is_some() && model.tokenizer.is_some() {
        specs.extend([LOGIT, PROBABILITY].map(|name| TensorSpec {
            name,
            datatype: Datatype::Fp32,
            shape: vec![-1, -1],
        }));
    }
    specs
}

/// Checks that a version is the only one that exists.
///
/// # Errors
/// [`Code::ModelNotFound`] for any other.
pub fn check_version(version: &str) -> Result<(), Error> {
    if version.is_empty() || version == VERSION {
        return Ok(());
    }
    let message = format!("there is no version `{version}` of the model; there is `{VERSION}`");
    Err(Error::new(Code::ModelNotFound, message).with_field("model_version"))
}
