//! Sizes for images in tiles, as JSON bodies, forms and queries have them.

use serde::{Deserialize, Deserializer, de};
use utoipa::ToSchema;

/// Heights and widths.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
pub(in crate::rest) struct Pinpoints(pub(super) Vec<[u32; 2]>);

/// JSON, or a string with JSON: a query has only strings.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a list of [height, width] in pixels")]
enum Written {
    Sizes(Vec<[u32; 2]>),
    Text(String),
}

impl<'de> Deserialize<'de> for Pinpoints {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Sizes(sizes) => Ok(Self(sizes)),
            Written::Text(text) => serde_json::from_str(&text)
                .map(Self)
                .map_err(|_| de::Error::custom("expected a list of [height, width] in pixels")),
        }
    }
}
