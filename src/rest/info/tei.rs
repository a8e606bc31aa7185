//! What clients of text-embeddings-inference look for in `GET /info`.

use serde::Serialize;
use utoipa::ToSchema;

use crate::{build_info, config, registry::Model};

/// The default model in the words of text-embeddings-inference; missing while it loads.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::rest) struct TeiInfo {
    /// The name that requests use.
    model_id: String,
    /// Identifies the weights.
    model_sha: String,
    model_dtype: String,
    /// The name that requests use.
    served_model_name: String,
    model_type: TeiModelType,
    /// Texts and images in the server at once, queued or running.
    max_concurrent_requests: usize,
    /// Ids of a text, padding included; null without a text tower.
    max_input_length: Option<usize>,
    /// Texts and images of one request.
    max_client_batch_size: usize,
    /// Always true: texts that are too long are cut unless a request says otherwise.
    auto_truncate: bool,
    /// The commit that the server was built from.
    sha: &'static str,
}

/// What the model does.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::rest) struct TeiModelType {
    embedding: TeiPooling,
}

/// How the model comes to one vector.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::rest) struct TeiPooling {
    /// Always `last_token`: of texts, the last position; pictures have an attention pooling head.
    #[schema(value_type = String)]
    pooling: &'static str,
}

impl TeiInfo {
    pub(super) fn new(model: &Model, limits: &config::Limits) -> Self {
        Self {
            model_id: model.name.clone(),
            model_sha: model.card.revision.clone(),
            model_dtype: model.card.dtype.to_string(),
            served_model_name: model.name.clone(),
            model_type: TeiModelType { embedding: TeiPooling { pooling: "last_token" } },
            max_concurrent_requests: limits.max_items_in_flight,
            max_input_length: model.card.text_length,
            max_client_batch_size: limits.max_items,
            auto_truncate: true,
            sha: build_info::COMMIT,
        }
    }
}
