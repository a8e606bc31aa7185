//! `POST /v1/features`: the vision tower's token maps, for models that read pictures through it.

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

/// Pictures, and which output of the vision tower to answer with.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(
    json!({"input": EXAMPLE_IMAGE, "output": "hidden_state", "layer": -2, "dtype": "f16"}),
    json!({"images": [EXAMPLE_IMAGE], "output": "pooled", "encoding_format": "base64"})
))]
pub(super) struct FeaturesRequest {
    /// The pictures: data URIs, base64, or `{"image": ...}`; one, or an array. Also called `images`.
    #[serde(alias = "images")]
    input: Inputs,
    /// The model's name; the default model where none is given.
    model: Option<String>,
    /// `hidden_state` where a `layer` is given. Else `last_hidden_state`, and of a model with a language model what this
    /// one reads: the hidden state that a LLaVA model's files name, the `language_projection` of a BLIP-2 model.
    output: Option<Output>,
    /// Which hidden state, as in transformers' `hidden_states`: 0 is the embeddings' output, the number of
    /// layers the last layer's; a negative one counts from the end.
    #[schema(example = -2)]
    layer: Option<i64>,
    /// The type of each value.
    #[serde(default)]
    dtype: DType,
    /// Most patches of each picture, for models that read pictures in variable resolution (`/info` has
    /// their own number, and the limit). Refused for others.
    #[schema(minimum = 1)]
    max_num_patches: Option<u32>,
    /// `anyres` cuts each image as LLaVA does: `views` holds the whole image, squashed, and then the tiles, row by row.
    tiles: Option<Tiles>,
    /// With `tiles`: the sizes, `[height, width]` in pixels, of which the best one for an image is cut into tiles. Each is
    /// a whole number of tiles of the model's image size. The checkpoint's where none are given.
    #[schema(inline, example = json!([[384, 768], [768, 384], [768, 768]]))]
    grid_pinpoints: Option<Pinpoints>,
    /// How the answer is written. It goes before `Accept`, which may name `application/x-npy` or
    /// `application/vnd.safetensors`; numbers in JSON by default.
    encoding_format: Option<Format>,
}

/// The options of a request whose body is one raw picture.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RawImageOptions {
    /// The model's name, where the body is a raw picture. Else it stands in the body.
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
    /// The pooled embedding, not normalised. Without a pooling head: the mean of the last hidden state.
    Pooled,
    /// The last layer's output behind the last layer norm.
    LastHiddenState,
    /// A layer's output before the last layer norm.
    HiddenState,
    /// The states of a BLIP-2 model's queries: `[queries, width]`.
    Qformer,
    /// The same, projected to words of the language model that a BLIP-2 checkpoint was made for.
    LanguageProjection,
}

/// How an image is cut into views.
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

/// How the answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// JSON with arrays of numbers.
    Float,
    /// JSON with base64 over little-endian values, row-major.
    Base64,
    /// One array in numpy's format.
    Npy,
    /// A safetensors file with one tensor a picture.
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
    /// [`crate::error::Code::InvalidRequest`] at `layer`, where it does not go with `output`.
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
                    let message = "is a text; features are of pictures";
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

/// A form: every file is a picture, the rest are options.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the form; `from_form` reads it")]
pub(super) struct FeaturesForm {
    /// Pictures. Any field with a file name counts as one, whatever it is called.
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

/// Gives the vision tower's features of pictures
///
/// For models that read images through a vision tower. LLaVA-OneVision's is `output: hidden_state` with
/// `layer: -2` on a full SigLIP checkpoint: `[729, 1152]` an image; of its own checkpoint it is the default. npy holds
/// one array `[images, tokens, width]` and names the grid in `x-siglip-grid`; safetensors holds `features.0`,
/// `features.1`, ... with the grids in its metadata. With `tiles` an image has several views: npy then holds
/// `[views, tokens, width]` of one image, safetensors has a tensor of that shape for each image.
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
