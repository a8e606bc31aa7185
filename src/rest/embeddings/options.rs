//! The options of raw images and of forms.

use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{EncodingFormat, OnError};
use crate::rest::body::File;

/// The options of a request whose body is one raw image.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RawImageOptions {
    /// The model's name, if the body is a raw image. Otherwise it is in the body.
    #[serde(default)]
    pub(super) model: Option<String>,
    /// As in the JSON body.
    #[serde(default)]
    pub(super) encoding_format: EncodingFormat,
    /// As in the JSON body.
    #[serde(default)]
    pub(super) dimensions: Option<usize>,
    /// As in the JSON body.
    #[serde(default)]
    pub(super) normalized: Option<bool>,
    /// As in the JSON body.
    #[serde(default)]
    #[param(minimum = 1)]
    pub(super) max_num_patches: Option<u32>,
    /// As in the JSON body.
    #[serde(default)]
    pub(super) multi_vector: bool,
    /// As in the JSON body.
    #[serde(default)]
    pub(super) on_error: OnError,
}

/// A form: every file is an image, and every `text` field is a text, in the order of the parts.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the form; `from_form` reads it")]
pub(super) struct EmbeddingsForm {
    /// Images. Any field with a file name counts as an image, whatever its name.
    image: Vec<File>,
    /// Texts.
    text: Option<Vec<String>>,
    /// As in the JSON body.
    model: Option<String>,
    /// As in the JSON body.
    encoding_format: Option<EncodingFormat>,
    /// As in the JSON body.
    dimensions: Option<usize>,
    /// As in the JSON body.
    normalized: Option<bool>,
    /// As in the JSON body.
    truncate: Option<bool>,
    /// As in the JSON body.
    max_num_patches: Option<u32>,
    /// As in the JSON body.
    multi_vector: Option<bool>,
    /// As in the JSON body.
    on_error: Option<OnError>,
}
