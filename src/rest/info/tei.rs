//! The fields of `GET /info` that clients of text-embeddings-inference read.

use serde::Serialize;
use utoipa::ToSchema;

use crate::{build_info, config, registry::Model, tokenize::PooledToken};

/// The default model in the format of text-embeddings-inference. Absent while it loads.
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
    /// Texts and images in the server at the same time, queued or running.
    max_concurrent_requests: usize,
    /// Number of token ids of a text, including padding. Null without a text tower.
    max_input_length: Option<usize>,
    /// Texts and images in one request.
    max_client_batch_size: usize,
    /// Always true: texts that are too long are truncated unless the request disables it.
    auto_truncate: bool,
    /// The commit from which the server was built.
    sha: &'static str,
}

/// The kind of the model.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::rest) struct TeiModelType {
    embedding: TeiPooling,
}

/// How the text tower pools tokens to one vector.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::rest) struct TeiPooling {
    /// `last_token` for SigLIP and CLIP, `cls` for BLIP and BLIP-2. Null without a text tower.
    pooling: Option<&'static str>,
}

impl TeiInfo {
    pub(super) fn new(model: &Model, limits: &config::Limits) -> Self {
        let tokenizer = model.tokenizer.as_ref();
        let pooling = tokenizer.map(|tokenizer| match tokenizer.pooled_token() {
            PooledToken::First => "cls",
            PooledToken::Last => "last_token",
        });
        Self {
            model_id: model.name.clone(),
            model_sha: model.card.revision.clone(),
            model_dtype: model.card.dtype.to_string(),
            served_model_name: model.name.clone(),
            model_type: TeiModelType { embedding: TeiPooling { pooling } },
            max_concurrent_requests: limits.max_items_in_flight,
            max_input_length: model.card.text_length,
            max_client_batch_size: limits.max_items,
            auto_truncate: true,
            sha: build_info::COMMIT,
        }
    }
}
