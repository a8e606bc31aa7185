//! The JSON of a response with features. `write` streams it. These types only describe it.

use utoipa::ToSchema;

use crate::rest::respond::Usage;

/// One feature map per image, in the order of the request. Large responses are written and sent image by image.
#[derive(ToSchema)]
#[schema(example = json!({
    "model": "demo", "output": "hidden_state", "layer": 26, "dtype": "f32", "width": 2,
    "data": [{"index": 0, "grid": [1, 2], "shape": [2, 2], "features": [[0.5, -1.25], [0.0, 2.0]]}],
    "usage": {"prompt_tokens": 0, "total_tokens": 0, "images": 1}
}))]
#[expect(dead_code, reason = "only describes the answer; `write` streams it")]
pub(super) struct FeaturesResponse {
    /// The model that was used.
    model: String,
    /// The output: `pooled`, `last_hidden_state` or `hidden_state`.
    output: String,
    /// The index of the hidden state, counted from the start. Null for the other outputs.
    layer: Option<usize>,
    /// The type of each value: `f32` or `f16`.
    dtype: String,
    /// Number of values of one token.
    width: usize,
    data: Vec<FeatureObject>,
    usage: Usage,
}

/// The features of one image: `grid`, `shape` and `features`. With `tiles`, the other fields.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the answer; `write` streams it")]
pub(super) struct FeatureObject {
    /// The image's position in the request.
    index: usize,
    /// Rows and columns of patches. Their tokens come row by row, after `leading_tokens` other tokens.
    grid: Option<[usize; 2]>,
    /// `[tokens, width]`, or `[width]` for the pooled output.
    shape: Option<Vec<usize>>,
    features: Option<FeatureValues>,
    /// Height and width of the image in pixels, upright.
    image_size: Option<[u32; 2]>,
    /// Rows and columns of tiles.
    tile_grid: Option<[u32; 2]>,
    /// Height and width of the resized image within the tiles, in pixels.
    inner_size: Option<[u32; 2]>,
    /// Black pixels around the resized image: top, left, bottom, right.
    padding: Option<[u32; 4]>,
    /// The whole image, resized without regard to its aspect ratio, and then the tiles row by row.
    views: Option<Vec<ViewObject>>,
}

/// The features of one view of an image.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the answer; `write` streams it")]
pub(super) struct ViewObject {
    /// Rows and columns of patches.
    grid: [usize; 2],
    /// `[tokens, width]`, or `[width]` for the pooled output.
    shape: Vec<usize>,
    features: FeatureValues,
}

/// The values in the requested format.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only describes the answer; `write` streams it")]
pub(super) enum FeatureValues {
    /// `[tokens][width]`.
    Tokens(Vec<Vec<f32>>),
    /// `[width]`, for the pooled output.
    Pooled(Vec<f32>),
    /// Base64 of little-endian values, row-major.
    Base64(String),
}
