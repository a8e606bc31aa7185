//! The part of `GET /info` about a vision tower's features.

use serde::Serialize;
use utoipa::ToSchema;

use crate::model::{LanguageSide, ModelCard, Queries};

/// The model's outputs in `/v1/features`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FeaturesInfo {
    /// Number of layers of the vision tower. There is one hidden state more.
    layers: usize,
    /// Number of values of one token.
    width: usize,
    /// Whether `last_hidden_state` is after the final layer norm. For CLIP it is not.
    last_hidden_state_is_normed: bool,
    /// The queries of a BLIP-2 model. Null for other models.
    queries: Option<QueriesInfo>,
    /// What the language model in the checkpoint reads from the tower. Null for a model without one.
    language_model: Option<LanguageInfo>,
}

/// Queries that read an image. Each gives its own vector.
#[derive(Debug, Serialize, ToSchema)]
struct QueriesInfo {
    count: usize,
    /// Number of values of one query state (`output: "qformer"`).
    width: usize,
    /// Whether their vectors are inputs for a language model instead of embeddings.
    are_for_language: bool,
}

/// What a language model reads from a vision tower.
#[derive(Debug, Serialize, ToSchema)]
struct LanguageInfo {
    /// The hidden states in `vision_feature_layer`. Several are concatenated token by token.
    layers: Vec<i64>,
    /// The value of `vision_feature_select_strategy`: `full`, or `default`, which omits the first token.
    select_strategy: &'static str,
    /// The possible sizes of an image in tiles. Null if the checkpoint has none.
    grid_pinpoints: Option<Vec<[u32; 2]>>,
}

impl FeaturesInfo {
    pub(super) fn of(card: &ModelCard) -> Self {
        let language = |side: &LanguageSide| LanguageInfo {
            layers: side.feature_layers.clone(),
            select_strategy: side.select_strategy,
            grid_pinpoints: side.pinpoints.as_ref().map(|sizes| sizes.sizes().to_vec()),
        };
        Self {
            layers: card.vision_layers,
            width: card.vision_width,
            last_hidden_state_is_normed: card.last_state_is_normed,
            queries: card.queries.map(|Queries { count, width, are_for_language }| QueriesInfo {
                count,
                width,
                are_for_language,
            }),
            language_model: card.language.as_ref().map(language),
        }
    }
}
