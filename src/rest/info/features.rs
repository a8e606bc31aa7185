//! What `GET /info` says of a vision tower's features.

use serde::Serialize;
use utoipa::ToSchema;

use crate::model::{LanguageSide, ModelCard, Queries};

/// What `/v1/features` gives of a model.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FeaturesInfo {
    /// Layers of the vision tower. There is one hidden state more.
    layers: usize,
    /// Values of one token.
    width: usize,
    /// Whether `last_hidden_state` stands behind the last layer norm. That of CLIP does not.
    last_hidden_state_is_normed: bool,
    /// The queries that read an image for a BLIP-2 model; null for any other.
    queries: Option<QueriesInfo>,
    /// What the language model in the same files reads of the tower; null for a model without one.
    language_model: Option<LanguageInfo>,
}

/// Queries that read an image: each gives a vector of its own.
#[derive(Debug, Serialize, ToSchema)]
struct QueriesInfo {
    count: usize,
    /// Values of one of their states (`output: "qformer"`).
    width: usize,
    /// Whether their vectors are the words of a language model, in place of embeddings.
    are_for_language: bool,
}

/// What a language model reads of a vision tower.
#[derive(Debug, Serialize, ToSchema)]
struct LanguageInfo {
    /// As `vision_feature_layer` says: hidden states, joined token by token where there are several.
    layers: Vec<i64>,
    /// As `vision_feature_select_strategy` says: `full`, or `default`, which leaves out the first token.
    select_strategy: &'static str,
    /// The sizes of which the best one is cut into tiles; null where the files have none.
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
