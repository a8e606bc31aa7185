//! `GET /info`: what is served, and within which limits.

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

/// What is served, and within which limits.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Info {
    /// The server's version.
    version: &'static str,
    /// The commit it was built from.
    commit: &'static str,
    /// The models that are loaded, the default first; empty while the first one loads.
    models: Vec<ModelInfo>,
    /// The image formats that this build reads.
    #[schema(example = json!(["PNG", "JPEG", "WebP"]))]
    image_formats: Vec<&'static str>,
    limits: LimitsInfo,
    /// Where images are decoded: `process` is in processes of their own, `thread` in the server itself.
    #[schema(value_type = String, example = "process")]
    decode_isolation: String,
    /// How pictures are fetched by URL; null where they are not.
    fetch: Option<FetchInfo>,
    #[serde(flatten)]
    tei: Option<TeiInfo>,
}

/// How pictures are fetched by URL. Which hosts and addresses are allowed is not told.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FetchInfo {
    /// The schemes of URLs that are fetched.
    schemes: Vec<&'static str>,
    /// The longest time that one picture may take, in milliseconds.
    timeout_ms: u64,
    max_redirects: usize,
}

/// A loaded model.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelInfo {
    /// The name that requests use.
    name: String,
    /// Further names that requests may use.
    aliases: Vec<String>,
    /// The architecture: `siglip`, `siglip2`, `clip`.
    family: String,
    /// Identifies the weights. Store it beside vectors.
    revision: String,
    /// The element type that the towers run in: `f32`, `f16`, `bf16`, `int8`.
    dtype: String,
    /// The least cosine between its embeddings and those in f32 on a fixed probe set, measured at load; null in f32
    /// itself, or where it was not measured.
    agreement: Option<f32>,
    /// Where they run: `cpu`, `cuda:0`, `metal`.
    device: String,
    /// The processor's instructions that the towers use: `portable`, `avx2`, `avx512`, `avx512vnni`, `avx512bf16`,
    /// `amx`, `neon`; null on other devices.
    cpu_features: Option<String>,
    /// Why these: what was measured of them, or that the configuration pins them; null on other devices.
    cpu_features_reason: Option<String>,
    /// How f32 is multiplied on a processor: `highest`, in f32, or `high`, in three products of bf16; null in other
    /// types and on other devices.
    matmul_precision: Option<String>,
    /// Why so, with what was measured at load; null where `matmul_precision` is.
    matmul_precision_reason: Option<String>,
    /// Values of an embedding.
    dimension: usize,
    /// Ids of a text, padding included; null without a text tower.
    text_length: Option<usize>,
    /// What is done to a text before the tokenizer reads it; null without a text tower.
    text_normalization: Option<String>,
    /// The one size of every picture; null for a model that reads pictures in variable resolution.
    image_size: Option<ImageSize>,
    /// Most patches of a picture unless a request asks for another number; null for a fixed size.
    max_num_patches: Option<u32>,
    /// Pixels of a patch's side.
    patch_size: usize,
    /// Tokens of the features before those of the patches: 1 where the model has a class token.
    leading_tokens: usize,
    /// The resize filter: `bilinear` or `bicubic`.
    resample: &'static str,
    /// Names the arithmetic that prepares pictures. Store it beside vectors.
    preprocessing_version: &'static str,
    /// How a cosine becomes a logit; null without a text tower.
    scoring: Option<Scoring>,
    /// What `/v1/features` gives of the model.
    features: FeaturesInfo,
    /// Whether the model writes captions.
    captions: bool,
    /// Parameters of both towers.
    parameters: u64,
    /// Bytes of the resident weights.
    weight_bytes: u64,
}

/// Pixels of a picture as the tower reads it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ImageSize {
    width: u32,
    height: u32,
}

/// How a cosine becomes a logit, and logits become probabilities.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Scoring {
    /// `sigmoid`: `probability = sigmoid(logit_scale_exp * cosine + logit_bias)`, each pair on its own. `softmax`: the
    /// softmax of `logit_scale_exp * cosine` over the texts of a request, image by image. `matching`: the sigmoid of what
    /// a head says that reads each text in the light of each image.
    kind: &'static str,
    /// Whether a pair has a probability of its own, whatever else is in the request.
    pair_probabilities: bool,
    /// As the checkpoint stores it: a logarithm. Null where no logit follows from a cosine.
    logit_scale: Option<f32>,
    /// `exp(logit_scale)`: the factor that multiplies the cosine.
    logit_scale_exp: Option<f32>,
    /// Null where the model has none.
    logit_bias: Option<f32>,
}

/// Every bound on a request, and on all of them together.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LimitsInfo {
    max_body_bytes: usize,
    /// Texts and images of one request.
    max_items: usize,
    /// Rows of a side given as embeddings.
    max_embeddings: usize,
    max_labels: usize,
    max_text_bytes: usize,
    max_image_bytes: usize,
    max_image_pixels: u64,
    /// Patches of one picture that a request may ask for, of a model with `max_num_patches`.
    max_num_patches: usize,
    /// At the peak of decoding one picture.
    max_decode_bytes: u64,
    /// At the peak of all decoding at once.
    max_decode_bytes_in_flight: u64,
    /// Processor time of decoding one image, in milliseconds, where images are decoded in processes.
    max_decode_time_ms: u64,
    /// Arrays and objects in each other, in a JSON body.
    max_json_depth: usize,
    /// Items in the server at once, queued or running.
    max_items_in_flight: usize,
    max_bytes_in_flight: usize,
    /// Pixels of pictures that are not decoded yet.
    max_pixels_in_flight: u64,
    /// Bytes of features in one answer, counted as 32-bit floats.
    max_feature_bytes: usize,
    max_bulk_streams: usize,
    /// Rows of all bulk streams at once.
    max_bulk_rows: usize,
    max_bulk_bytes: usize,
    /// How long a bulk stream may move no row, in milliseconds.
    bulk_idle_timeout_ms: u64,
    /// The longest wait for an answer, in milliseconds.
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
        // Named one by one, so that a new limit cannot be forgotten here.
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
    /// What each loaded model says of itself, the default first.
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

/// Says what is served, and within which limits
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
