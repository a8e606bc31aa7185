//! `POST /v1/features`: the vision tower's token features, for models that read images through a vision tower.

mod answer;
mod pinpoints;
mod write;

use axum::{
    extract::State,
    http::{HeaderMap, Uri},
    response::Response,
};
use bytes::Bytes;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use self::{answer::FeaturesResponse, pinpoints::Pinpoints, write::Layout};
use super::{
    AppState,
    body::{File, Form, FromPayload, PartContent, Payload, option, query, unknown_part},
    embeddings::{
        Modality,
        input::{Inputs, Item},
    },
    layers::Ctx,
    negotiate::Container,
    openapi::{EXAMPLE_IMAGE, ProblemErrors},
    problem::Failure,
};
use crate::{
    embedding::Encoding,
    engine::{self, Anyres, FeatureOutput, Input},
    error::Error,
};

/// Images, and which output of the vision tower to return.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(
    json!({"input": EXAMPLE_IMAGE, "output": "hidden_state", "layer": -2, "dtype": "f16"}),
    json!({"images": [EXAMPLE_IMAGE], "output": "pooled", "encoding_format": "base64"})
))]
pub(super) struct FeaturesRequest {
    /// The images: data URIs, base64, or `{"image": ...}`. One image, or an array. `images` is another name for
    /// this field.
    #[serde(alias = "images")]
    input: Inputs,
    /// The model's name. Without a name, the default model is used.
    model: Option<String>,
    /// The default is `hidden_state` if `layer` is given, and `last_hidden_state` otherwise. For a model with a
    /// language model, the default is what the language model reads: the hidden state that a LLaVA model's
    /// files name, or the `language_projection` of a BLIP-2 model.
    output: Option<Output>,
    /// Index into transformers' `hidden_states`: 0 is the output of the embeddings, and the number of layers is
    /// the output of the last layer. A negative index counts from the end.
    #[schema(example = -2)]
    layer: Option<i64>,
    /// The type of each value.
    #[serde(default)]
    dtype: DType,
    /// Maximum number of patches of each image, for models that read images in variable resolution (`/info` has
    /// the model's own number and the limit). Other models refuse it.
    #[schema(minimum = 1)]
    max_num_patches: Option<u32>,
    /// `anyres` splits each image as LLaVA does: `views` has the whole image, resized without regard to its
    /// aspect ratio, and then the tiles row by row.
    tiles: Option<Tiles>,
    /// With `tiles`: the possible sizes, `[height, width]` in pixels. The best size for an image is chosen and
    /// split into tiles. Each must be a multiple of the model's image size. The default is the checkpoint's
    /// list.
    #[schema(inline, example = json!([[384, 768], [768, 384], [768, 768]]))]
    grid_pinpoints: Option<Pinpoints>,
    /// How the response is written. It overrides `Accept`, which can be `application/x-npy` or
    /// `application/vnd.safetensors`. The default is JSON with numbers.
    encoding_format: Option<Format>,
}

/// The options of a request whose body is one raw image.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RawImageOptions {
    /// The model's name, if the body is a raw image. Otherwise it is in the body.
    model: Option<String>,
    /// As in the JSON body.
    output: Option<Output>,
    /// As in the JSON body.
    layer: Option<i64>,
    /// As in the JSON body.
    #[serde(default)]
    dtype: DType,
    /// As in the JSON body.
    #[param(minimum = 1)]
    max_num_patches: Option<u32>,
    /// As in the JSON body.
    tiles: Option<Tiles>,
    /// As in the JSON body, as JSON.
    #[param(value_type = Option<String>, example = "[[384,768],[768,384],[768,768]]")]
    grid_pinpoints: Option<Pinpoints>,
    /// As in the JSON body.
    encoding_format: Option<Format>,
}

/// An output of the vision tower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Output {
    /// The pooled embedding, not normalised. For a model without a pooling head: the mean of the last hidden
    /// state.
    Pooled,
    /// The last layer's output after the final layer norm.
    LastHiddenState,
    /// A layer's output before the final layer norm.
    HiddenState,
    /// The states of a BLIP-2 model's queries: `[queries, width]`.
    Qformer,
    /// The same, projected to the input embeddings of the language model in a BLIP-2 checkpoint.
    LanguageProjection,
}

/// How an image is split into views.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tiles {
    /// As LLaVA-OneVision and LLaVA-NeXT do.
    Anyres,
}

/// The type of each value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum DType {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats.
    F16,
}

/// How the response is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// JSON with arrays of numbers.
    Float,
    /// JSON with base64 of little-endian values, row-major.
    Base64,
    /// One array in numpy's format.
    Npy,
    /// A safetensors file with one tensor per image.
    Safetensors,
}

impl FeaturesRequest {
    fn of(images: Vec<Item>, options: RawImageOptions) -> Self {
        let RawImageOptions { model, output, layer, dtype, .. } = options;
        let RawImageOptions { max_num_patches, tiles, grid_pinpoints, encoding_format, .. } =
            options;
        Self {
            input: Inputs(images),
            model,
            output,
            layer,
            dtype,
            max_num_patches,
            tiles,
            grid_pinpoints,
            encoding_format,
        }
    }

    /// # Errors
    /// [`crate::error::Code::InvalidRequest`], which names `layer`, if it does not fit `output`.
    fn feature_output(&self) -> Result<FeatureOutput, Error> {
        match (self.output, self.layer) {
            (Some(Output::HiddenState) | None, Some(layer)) => {
                Ok(FeatureOutput::HiddenState { layer })
            }
            (Some(Output::HiddenState), None) => {
                Err(Error::invalid("layer", "must be given for the output `hidden_state`"))
            }
            (Some(_), Some(_)) => {
                Err(Error::invalid("layer", "goes with the output `hidden_state` only"))
            }
            (Some(Output::Pooled), None) => Ok(FeatureOutput::Pooled),
            (Some(Output::Qformer), None) => Ok(FeatureOutput::Qformer),
            (Some(Output::LanguageProjection), None) => Ok(FeatureOutput::LanguageProjection),
            (Some(Output::LastHiddenState), None) => Ok(FeatureOutput::LastHiddenState),
            (None, None) => Ok(FeatureOutput::Usual),
        }
    }

    fn layout(&self, headers: &HeaderMap) -> Layout {
        let container = match self.encoding_format {
            None => Container::accepted(headers),
            Some(Format::Float | Format::Base64) => Container::Json,
            Some(Format::Npy) => Container::Npy,
            Some(Format::Safetensors) => Container::Safetensors,
        };
        let encoding = match self.dtype {
            DType::F32 => Encoding::F32,
            DType::F16 => Encoding::F16,
        };
        Layout { container, encoding, base64: self.encoding_format == Some(Format::Base64) }
    }

    /// The engine's request.
    pub(super) fn resolve(self) -> Result<engine::FeaturesRequest, Error> {
        let output = self.feature_output()?;
        let mut errors = Vec::new();
        let mut images = Vec::new();
        for (index, input) in self.input.resolve(Modality::Image)?.into_iter().enumerate() {
            match input {
                Input::Image(image) => images.push(image),
                Input::Text(_) | Input::TokenIds(_) => {
                    let message = "is a text; only images have features";
                    errors.push(Error::invalid(format!("input[{index}]"), message));
                }
                Input::Unreadable(error) => errors.push(error),
            }
        }
        let grid_pinpoints = self.grid_pinpoints.map(|Pinpoints(sizes)| sizes);
        let tiles = match (self.tiles, grid_pinpoints) {
            (Some(Tiles::Anyres), grid_pinpoints) => Some(Anyres { grid_pinpoints }),
            (None, None) => None,
            (None, Some(_)) => {
                return Err(Error::invalid("grid_pinpoints", "goes with `tiles` only"));
            }
        };
        let (model, max_num_patches) = (self.model, self.max_num_patches);
        let request = engine::FeaturesRequest { model, images, output, max_num_patches, tiles };
        Error::of_items(errors).map_or(Ok(request), Err)
    }
}

impl FromPayload for FeaturesRequest {
    const ACCEPTS: &'static str =
        "application/json, multipart/form-data, image/*, application/octet-stream";

    fn from_form(form: Form) -> Result<Self, Error> {
        let mut files = Vec::new();
        let mut options = RawImageOptions::default();
        for part in form.into_parts(&[])? {
            match (part.name.as_str(), part.content) {
                (_, PartContent::File(bytes)) => files.push(Item::Encoded(bytes)),
                ("model", PartContent::Text(text)) => options.model = Some(text),
                ("output", PartContent::Text(text)) => {
                    options.output = option("output", &text)?;
                }
                ("layer", PartContent::Text(text)) => options.layer = option("layer", &text)?,
                ("dtype", PartContent::Text(text)) => {
                    options.dtype = option("dtype", &text)?.unwrap_or_default()
                }
                ("encoding_format", PartContent::Text(text)) => {
                    options.encoding_format = option("encoding_format", &text)?;
                }
                ("max_num_patches", PartContent::Text(text)) => {
                    options.max_num_patches = option("max_num_patches", &text)?;
                }
                ("tiles", PartContent::Text(text)) => options.tiles = option("tiles", &text)?,
                ("grid_pinpoints", PartContent::Text(text)) => {
                    options.grid_pinpoints = option("grid_pinpoints", &text)?;
                }
                (name, PartContent::Text(_)) => {
                    let known = "model, output, layer, dtype, max_num_patches, tiles, grid_pinpoints, encoding_format";
                    return Err(unknown_part(name, known));
                }
            }
        }
        Ok(Self::of(files, options))
    }

    fn from_image(image: Bytes, uri: &Uri) -> Result<Self, Error> {
        Ok(Self::of(vec![Item::Encoded(image)], query(uri)?))
    }
}

/// A form: every file is an image, and the other fields are options.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the form; `from_form` reads it")]
pub(super) struct FeaturesForm {
    /// Images. Any field with a file name counts as an image, whatever its name.
    image: Vec<File>,
    /// As in the JSON body.
    model: Option<String>,
    /// As in the JSON body.
    output: Option<Output>,
    /// As in the JSON body.
    layer: Option<i64>,
    /// As in the JSON body.
    dtype: Option<DType>,
    /// As in the JSON body.
    max_num_patches: Option<u32>,
    /// As in the JSON body.
    tiles: Option<Tiles>,
    /// As in the JSON body, as JSON.
    #[schema(value_type = Option<String>)]
    grid_pinpoints: Option<Pinpoints>,
    /// As in the JSON body.
    encoding_format: Option<Format>,
}

/// Returns the vision tower's features of images
///
/// For models that read images through a vision tower. For the features that LLaVA-OneVision reads, use
/// `output: hidden_state` with `layer: -2` on a full SigLIP checkpoint: `[729, 1152]` per image. With
/// LLaVA-OneVision's own checkpoint, this is the default. npy has one array `[images, tokens, width]`, and the
/// header `x-siglip-grid` has the grid. safetensors has `features.0`, `features.1`, ... with the grids in its
/// metadata. With `tiles` an image has several views: npy then has `[views, tokens, width]` of one image, and
/// safetensors has a tensor of this shape for each image.
#[utoipa::path(
    post,
    path = "/v1/features",
    tag = "embeddings",
    params(RawImageOptions, super::openapi::RequestHeaders),
    request_body(
        content(
            (FeaturesRequest = "application/json"),
            (FeaturesForm = "multipart/form-data"),
            (File = "image/*"),
        ),
    ),
    responses(
        (
            status = 200,
            description = "The features",
            content(
                (FeaturesResponse = "application/json"),
                (File = "application/x-npy"),
                (File = "application/vnd.safetensors"),
            ),
        ),
        ProblemErrors,
    ),
)]
pub(super) async fn features(
    State(state): State<AppState>,
    Ctx(context): Ctx,
    headers: HeaderMap,
    Payload(request): Payload<FeaturesRequest>,
) -> Result<Response, Failure> {
    let layout = request.layout(&headers);
    let features = state.engine().features(request.resolve()?, &context).await?;
    write::respond(&state, &context, features, layout).await
}
