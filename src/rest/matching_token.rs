//! The option `matching_token` of the routes that score pairs.

use serde::Deserialize;
use utoipa::ToSchema;

use crate::config;

/// The token before a text that the matching head of a BLIP model reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum MatchingToken {
    /// `[CLS]`, as in transformers.
    Cls,
    /// `[ENC]`, as the models were trained.
    Enc,
}

impl From<MatchingToken> for config::MatchingToken {
    fn from(token: MatchingToken) -> Self {
        match token {
            MatchingToken::Cls => Self::Cls,
            MatchingToken::Enc => Self::Enc,
        }
    }
}
