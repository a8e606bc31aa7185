//! `GET /info`: the models and limits of the server.

mod features;
mod tei;

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use self::{features::FeaturesInfo, tei::TeiInfo};
use super::{AppState, respond::Json};
use crate::{
    build_info, config,
    engine::Engine,
    preprocess::{Resample, TargetSize},
    registry::Model,
};

/// The models and limits of the server.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Info {
    /// The server's version.
    version: &'static str,
    /// The commit from which it was built.
    commit: &'static str,
    /// The loaded models, the default model first. Empty while the first model loads.
    models: Vec<ModelInfo>,
    /// The image formats that this build reads.
    #[schema(example = json!(["PNG", "JPEG", "WebP"]))]
    image_formats: Vec<&'static str>,
    limits: LimitsInfo,
    /// Where images are decoded: `process` means in separate processes, `thread` in the server itself.
    #[schema(value_type = String, example = "process")]
    decode_isolation: String,
    /// How images are fetched by URL. Null if the server does not fetch images.
    fetch: Option<FetchInfo>,
    #[serde(flatten)]
    tei: Option<TeiInfo>,
}

/// How images are fetched by URL. The allowed hosts and addresses are not shown.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FetchInfo {
    /// The allowed URL schemes.
    schemes: Vec<&'static str>,
    /// Maximum time for one image, in milliseconds.
    timeout_ms: u64,
    max_redirects: usize,
}

/// A loaded model.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelInfo {
    /// The name that requests use.
    name: String,
    /// Other names that requests can use.
    aliases: Vec<String>,
    /// The architecture, such as `siglip`, `siglip2` or `clip`.
    family: String,
    /// Identifies the weights. Store it with your vectors.
    revision: String,
    /// The element type of the towers: `f32`, `f16`, `bf16` or `int8`.
    dtype: String,
    /// The lowest cosine between the model's embeddings and those in f32 on a fixed set of inputs, measured at
    /// load. Null for f32, or if it was not measured.
    agreement: Option<f32>,
    /// The device of the towers: `cpu`, `cuda:0` or `metal`.
    device: String,
    /// The processor instructions that the towers use: `portable`, `avx2`, `avx512`, `avx512vnni`,
    /// `avx512bf16`, `amx` or `neon`. Null on other devices.
    cpu_features: Option<String>,
    /// Why these instructions are used: the measured times, or the configuration. Null on other devices.
    cpu_features_reason: Option<String>,
    /// How f32 is multiplied on a processor: `highest` in f32, `high` in three products of bf16. Null for other
    /// types and on other devices.
    matmul_precision: Option<String>,
    /// The reason for this precision, with the measurements at load. Null if `matmul_precision` is null.
    matmul_precision_reason: Option<String>,
    /// The kernels that the towers use on a CUDA device: `own` for the server's, `candle` for candle's operations. Null
    /// on other devices.
    cuda_kernels: Option<String>,
    /// The reason for these kernels, with the measurements at load. Null on other devices.
    cuda_kernels_reason: Option<String>,
    /// Number of values of an embedding.
    dimension: usize,
    /// Number of token ids of a text, including padding. Null without a text tower.
    text_length: Option<usize>,
    /// How a text is normalised before tokenization. Null without a text tower.
    text_normalization: Option<String>,
    /// The size to which every image is resized. Null for a model that reads images in variable resolution.
    image_size: Option<ImageSize>,
    /// Maximum number of patches of an image, unless a request sets another number. Null for a fixed size.
    max_num_patches: Option<u32>,
    /// Width and height of a patch in pixels.
    patch_size: usize,
    /// Number of tokens in the features before those of the patches: 1 if the model has a class token.
    leading_tokens: usize,
    /// The resize filter: `bilinear` or `bicubic`.
    resample: &'static str,
    /// The version of the image preprocessing. Store it with your vectors.
    preprocessing_version: &'static str,
    /// How a cosine becomes a logit. Null without a text tower.
    scoring: Option<Scoring>,
    /// The model's outputs in `/v1/features`.
    features: FeaturesInfo,
    /// Whether the model generates captions.
    captions: bool,
    /// Number of parameters of both towers.
    parameters: u64,
    /// Size of the loaded weights in bytes.
    weight_bytes: u64,
}

/// Size of an image in pixels, as the tower reads it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ImageSize {
    width: u32,
    height: u32,
}

/// How a cosine becomes a logit, and logits become probabilities.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Scoring {
    /// `sigmoid`: `probability = sigmoid(logit_scale_exp * cosine + logit_bias)`, for each pair on its own.
    /// `softmax`: the softmax of `logit_scale_exp * cosine` over the texts of a request, for each image.
    /// `matching`: the sigmoid of the output of a matching head, which reads each text together with each
    /// image.
    kind: &'static str,
    /// Whether the probability of a pair is independent of the other items in the request.
    pair_probabilities: bool,
    /// The value in the checkpoint, a logarithm. Null if logits are not computed from cosines.
    logit_scale: Option<f32>,
    /// `exp(logit_scale)`: the factor for the cosine.
    logit_scale_exp: Option<f32>,
    /// Null if the model has none.
    logit_bias: Option<f32>,
}

/// All limits for one request and for all requests together.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LimitsInfo {
    max_body_bytes: usize,
    /// Texts and images in one request.
    max_items: usize,
    /// Rows of a side that is given as embeddings.
    max_embeddings: usize,
    max_labels: usize,
    max_text_bytes: usize,
    max_image_bytes: usize,
    max_image_pixels: u64,
    /// The highest `max_num_patches` that a request can ask for, for a model with `max_num_patches`.
    max_num_patches: usize,
    /// Peak memory for decoding one image.
    max_decode_bytes: u64,
    /// Peak memory for all images that are being decoded.
    max_decode_bytes_in_flight: u64,
    /// Processor time for decoding one image, in milliseconds, if images are decoded in separate processes.
    max_decode_time_ms: u64,
    /// Nesting depth of arrays and objects in a JSON body.
    max_json_depth: usize,
    /// Items in the server at the same time, queued or running.
    max_items_in_flight: usize,
    max_bytes_in_flight: usize,
    /// Pixels of images that wait to be decoded.
    max_pixels_in_flight: u64,
    /// Bytes of features in one response, counted as 32-bit floats.
    max_feature_bytes: usize,
    max_bulk_streams: usize,
    /// Rows of all bulk streams at the same time.
    max_bulk_rows: usize,
    max_bulk_bytes: usize,
    /// How long a bulk stream may be idle, in milliseconds.
    bulk_idle_timeout_ms: u64,
    /// Maximum time until a response, in milliseconds.
    request_timeout_ms: u64,
}

impl From<&config::Fetch> for FetchInfo {
    fn from(fetch: &config::Fetch) -> Self {
        let schemes = if fetch.allow_http { vec!["https", "http"] } else { vec!["https"] };
        let (timeout_ms, max_redirects) = (millis(fetch.timeout), fetch.max_redirects);
        Self { schemes, timeout_ms, max_redirects }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl From<&config::Limits> for LimitsInfo {
    fn from(limits: &config::Limits) -> Self {
        // Destructured completely, so that a new limit cannot be forgotten here.
        let &config::Limits {
            max_body_bytes,
            max_items,
            max_embeddings,
            max_labels,
            max_text_bytes,
            max_image_bytes,
            max_image_pixels,
            max_num_patches,
            max_decode_bytes,
            max_decode_bytes_in_flight,
            max_decode_time,
            max_json_depth,
            max_items_in_flight,
            max_bytes_in_flight,
            max_pixels_in_flight,
            max_feature_bytes,
            max_bulk_streams,
            max_bulk_rows,
            max_bulk_bytes,
            bulk_idle_timeout,
            request_timeout,
        } = limits;
        Self {
            max_body_bytes,
            max_items,
            max_embeddings,
            max_labels,
            max_text_bytes,
            max_image_bytes,
            max_image_pixels,
            max_num_patches,
            max_decode_bytes,
            max_decode_bytes_in_flight,
            max_decode_time_ms: millis(max_decode_time),
            max_json_depth,
            max_items_in_flight,
            max_bytes_in_flight,
            max_pixels_in_flight,
            max_feature_bytes,
            max_bulk_streams,
            max_bulk_rows,
            max_bulk_bytes,
            bulk_idle_timeout_ms: millis(bulk_idle_timeout),
            request_timeout_ms: millis(request_timeout),
        }
    }
}

impl ModelInfo {
    /// The information about each loaded model, the default model first.
    fn all(engine: &Engine) -> Vec<Self> {
        let registry = engine.registry();
        let with_aliases = |model: &Arc<Model>| {
            let aliases = registry.aliases().filter(|(_, name)| *name == model.name);
            Self::of(engine, model, aliases.map(|(alias, _)| alias.to_owned()).collect())
        };
        registry.loaded().map(with_aliases).collect()
    }

    fn of(engine: &Engine, model: &Model, aliases: Vec<String>) -> Self {
        let card = model.measured_card();
        Self {
            name: model.name.clone(),
            aliases,
            family: card.family.clone(),
            revision: card.revision.clone(),
            dtype: card.dtype.to_string(),
            agreement: card.agreement,
            cpu_features: card.cpu_features.as_ref().map(|set| set.name.clone()),
            cpu_features_reason: card.cpu_features.as_ref().map(|set| set.why.clone()),
            matmul_precision: card.matmul_precision.as_ref().map(|own| own.value.to_string()),
            matmul_precision_reason: card.matmul_precision.as_ref().map(|own| own.why.clone()),
            cuda_kernels: card.cuda_kernels.as_ref().map(|own| own.value.to_string()),
            cuda_kernels_reason: card.cuda_kernels.as_ref().map(|own| own.why.clone()),
            device: card.device.to_string(),
            dimension: card.embedding_dim,
            text_length: card.text_length,
            text_normalization: (model.tokenizer.as_ref())
                .map(|tokenizer| tokenizer.normalization().to_string()),
            image_size: match model.image.size {
                TargetSize::Fixed { height, width } | TargetSize::Crop { height, width, .. } => {
                    Some(ImageSize { width, height })
                }
                TargetSize::Patches { .. } => None,
            },
            max_num_patches: model.image.size.max_num_patches(),
            patch_size: card.patch_size,
            leading_tokens: card.leading_tokens,
            resample: match model.image.resample {
                Resample::Bilinear => "bilinear",
                Resample::Bicubic => "bicubic",
            },
            preprocessing_version: engine.decoding().version(),
            scoring: card.scorer.map(|scorer| Scoring {
                kind: scorer.name(),
                pair_probabilities: scorer.pair_probability(0.0).is_some(),
                logit_scale: scorer.logit_scale(),
                logit_scale_exp: scorer.logit_scale().map(f32::exp),
                logit_bias: scorer.logit_bias(),
            }),
            features: FeaturesInfo::of(card),
            captions: model.writer.is_some(),
            parameters: card.parameters,
            weight_bytes: card.weight_bytes,
        }
    }
}

/// Lists the models and limits of the server
#[utoipa::path(
    get,
    path = "/info",
    tag = "models",
    responses((status = 200, description = "Models, versions and limits", body = Info)),
)]
pub(super) async fn info(State(state): State<AppState>) -> Json<Info> {
    let registry = state.engine().registry();
    Json(Info {
        version: build_info::VERSION,
        commit: build_info::COMMIT,
        models: ModelInfo::all(state.engine()),
        image_formats: state.engine().image_formats(),
        limits: state.limits().into(),
        decode_isolation: state.engine().decode_isolation().to_string(),
        fetch: state.engine().fetcher().map(|fetcher| fetcher.config().into()),
        tei: registry.loaded().next().map(|model| TeiInfo::new(model, state.limits())),
    })
}
