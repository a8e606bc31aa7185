//! What an answer with features looks like in JSON. `write` streams it; these types only describe it.

use utoipa::ToSchema;

use crate::rest::respond::Usage;

/// One map a picture, in the order of the request. Large answers are written and sent picture by picture.
#[derive(ToSchema)]
#[schema(example = json!({
    "model": "demo", "output": "hidden_state", "layer": 26, "dtype": "f32", "width": 2,
    "data": [{"index": 0, "grid": [1, 2], "shape": [2, 2], "features": [[0.5, -1.25], [0.0, 2.0]]}],
    "usage": {"prompt_tokens": 0, "total_tokens": 0, "images": 1}
}))]
#[expect(dead_code, reason = "only describes the answer; `write` streams it")]
pub(super) struct FeaturesResponse {
    /// The model that answered.
    model: String,
    /// The output: `pooled`, `last_hidden_state` or `hidden_state`.
    output: String,
    /// The hidden state, counted from the start; null for the other outputs.
    layer: Option<usize>,
    /// The type of each value: `f32` or `f16`.
    dtype: String,
    /// Values of one token.
    width: usize,
    data: Vec<FeatureObject>,
    usage: Usage,
}

/// The features of one image: `grid`, `shape` and `features`, or with `tiles` the other fields.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the answer; `write` streams it")]
pub(super) struct FeatureObject {
    /// The image's place in the request.
    index: usize,
    /// Patches: rows and columns. Their tokens stand row by row, behind `leading_tokens` others.
    grid: Option<[usize; 2]>,
    /// `[tokens, width]`, or `[width]` for the pooled output.
    shape: Option<Vec<usize>>,
    features: Option<FeatureValues>,
    /// Rows and columns of the image, upright.
    image_size: Option<[u32; 2]>,
    /// Tiles: rows and columns.
    tile_grid: Option<[u32; 2]>,
    /// Rows and columns of the resized image in its tiles.
    inner_size: Option<[u32; 2]>,
    /// Black pixels around it: top, left, bottom, right.
    padding: Option<[u32; 4]>,
    /// The whole image, squashed, and then the tiles, row by row.
    views: Option<Vec<ViewObject>>,
}

/// The features of one view of an image.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the answer; `write` streams it")]
pub(super) struct ViewObject {
    /// Patches: rows and columns.
    grid: [usize; 2],
    /// `[tokens, width]`, or `[width]` for the pooled output.
    shape: Vec<usize>,
    features: FeatureValues,
}

/// The values in the format that was asked for.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only describes the answer; `write` streams it")]
pub(super) enum FeatureValues {
    /// `[tokens][width]`.
    Tokens(Vec<Vec<f32>>),
    /// `[width]`, for the pooled output.
    Pooled(Vec<f32>),
    /// Base64 over little-endian values, row-major.
    Base64(String),
}
