//! Writes features view by view, so that a large response is never in memory twice.

use std::{collections::HashMap, sync::Arc, time::Instant};

use async_stream::try_stream;
use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use half::f16;
use serde_json::{Map, Value, json};

use crate::{
    embedding::{Embedding, Encoding},
    engine::{Context, FeatureMap, Features},
    error::Error,
    model::Tap,
    preprocess::Tiling,
    rest::{
        AppState,
        arrays::{npy_head, safetensors_head},
        negotiate::Container,
        problem::Failure,
        respond::{INLINE_VALUES, Usage},
    },
    telemetry::Stage,
};

/// Rows and columns of patches of each image in an npy response.
const GRID: HeaderName = HeaderName::from_static("x-siglip-grid");
/// Number of tokens before those of the patches.
const LEADING_TOKENS: HeaderName = HeaderName::from_static("x-siglip-leading-tokens");
/// Rows and columns of tiles of the image in an npy response.
const TILE_GRID: HeaderName = HeaderName::from_static("x-siglip-tile-grid");
/// Height and width of the resized image within the tiles, in pixels.
const INNER_SIZE: HeaderName = HeaderName::from_static("x-siglip-inner-size");
/// Black rows and columns around the resized image: top, left, bottom, right.
const PADDING: HeaderName = HeaderName::from_static("x-siglip-padding");
/// Height and width of the original image in pixels.
const IMAGE_SIZE: HeaderName = HeaderName::from_static("x-siglip-image-size");
/// The index of the hidden state in a binary response, counted from the start.
const LAYER: HeaderName = HeaderName::from_static("x-siglip-layer");
/// The model that was used for a binary response.
const MODEL: HeaderName = HeaderName::from_static("x-siglip-model");

/// How a response is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) container: Container,
    pub(super) encoding: Encoding,
    /// Whether JSON has base64 instead of numbers.
    pub(super) base64: bool,
}

/// Responds with features.
///
/// A small response is written at once. A large response is streamed: a view is written after the client has
/// read the one before, and the feature maps count as bytes in flight until the end.
pub(super) async fn respond(
    state: &AppState,
    context: &Context,
    features: Features,
    layout: Layout,
) -> Result<Response, Failure> {
    let headers = headers(&features, layout)?;
    let values: usize = features.maps.iter().flat_map(|map| &map.views).map(Embedding::dim).sum();
    let pieces = pieces(Arc::new(features), layout);
    if values > INLINE_VALUES {
        return Ok((headers, Body::from_stream(pieces)).into_response());
    }
    let start = Instant::now();
    let body = pieces.try_fold(Vec::new(), |mut body, piece| async move {
        body.extend_from_slice(&piece);
        Ok(body)
    });
    let body = body.await?;
    let time = start.elapsed();
    context.timings.record(Stage::Encode, time);
    state.metrics().observe_stage(Stage::Encode, time);
    Ok((headers, body).into_response())
}

/// The response in chunks, none larger than that of one view.
fn pieces(
    features: Arc<Features>,
    layout: Layout,
) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
    try_stream! {
        yield head(&features, layout)?;
        for index in 0..features.maps.len() {
            for view in 0..features.maps[index].views.len() {
                yield piece(&features, layout, [index, view]).await?;
            }
        }
        if layout.container == Container::Json {
            let usage =
                serde_json::to_string(&Usage::from(features.usage)).map_err(Error::internal)?;
            yield Bytes::from(format!("],\"usage\":{usage}}}\n"));
        }
    }
}

/// Headers of the response. They have the information that npy cannot hold.
fn headers(features: &Features, layout: Layout) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    let content_type = HeaderValue::from_static(layout.container.content_type());
    headers.insert(header::CONTENT_TYPE, content_type);
    if !layout.container.is_binary() {
        return Ok(headers);
    }
    if let Ok(model) = HeaderValue::from_str(&features.model) {
        headers.insert(MODEL, model);
    }
    if let Tap::HiddenState(layer) = features.tap {
        headers.insert(LAYER, HeaderValue::from(layer));
    }
    if layout.container == Container::Npy {
        let value = |text: String| HeaderValue::from_str(&text).map_err(Error::internal);
        if let Some([rows, columns]) = common_grid(features)? {
            headers.insert(GRID, value(format!("{rows}x{columns}"))?);
        }
        if let Some(tiling) = only_tiling(features)? {
            for (name, numbers, between) in [
                (TILE_GRID, &tiling.grid[..], "x"),
                (INNER_SIZE, &tiling.inner_size, "x"),
                (PADDING, &tiling.padding(), ","),
                (IMAGE_SIZE, &tiling.image_size, "x"),
            ] {
                let numbers: Vec<_> = numbers.iter().map(u32::to_string).collect();
                headers.insert(name, value(numbers.join(between))?);
            }
        }
    }
    headers.insert(LEADING_TOKENS, HeaderValue::from(leading_tokens(features)));
    Ok(headers)
}

/// The grid of all images. `None` if the grids differ and the format allows this.
///
/// # Errors
/// [`crate::error::Code::InvalidRequest`] if the grids differ and the format needs one array.
fn common_grid(features: &Features) -> Result<Option<[usize; 2]>, Error> {
    let mut grids = features.maps.iter().map(|map| map.grid);
    let first = grids.next();
    if grids.all(|grid| Some(grid) == first) {
        return Ok(first);
    }
    if matches!(features.tap, Tap::Pooled | Tap::Queries) {
        return Ok(None);
    }
    let message = "the pictures have different grids, which make no one array; ask for safetensors \
                   or JSON, or send them one by one";
    Err(Error::invalid("encoding_format", message))
}

/// How the only image of a response was split.
///
/// # Errors
/// [`crate::error::Code::InvalidRequest`] if there are several images: their numbers of views can differ, and
/// one array cannot hold how each was split.
fn only_tiling(features: &Features) -> Result<Option<Tiling>, Error> {
    match &features.maps[..] {
        [map] => Ok(map.tiling),
        maps if maps.iter().any(|map| map.tiling.is_some()) => {
            let message = "images in tiles make no one array; ask for safetensors or JSON, or send them one by one";
            Err(Error::invalid("encoding_format", message))
        }
        _ => Ok(None),
    }
}

/// The bytes before the first image.
fn head(features: &Features, layout: Layout) -> Result<Bytes, Error> {
    let element = layout.encoding.element();
    let shapes = features.maps.iter().map(shape);
    match layout.container {
        Container::Npy => {
            let first = shapes.into_iter().next().unwrap_or_default();
            let is_cut = features.maps.iter().any(|map| map.tiling.is_some());
            // For one image in tiles, the array has its views.
            let images = if is_cut { None } else { Some(features.maps.len()) };
            Ok(npy_head(element, &images.into_iter().chain(first).collect::<Vec<_>>()))
        }
        Container::Safetensors => {
            let tensors =
                shapes.enumerate().map(|(index, shape)| (format!("features.{index}"), shape));
            safetensors_head(element, tensors.collect(), metadata(features))
        }
        Container::Json => {
            let mut about = about(features);
            about.insert("dtype".to_owned(), json!(dtype(layout.encoding)));
            let width = features.maps.first().map(|map| map.width);
            about.insert("width".to_owned(), json!(width));
            let mut text = serde_json::to_string(&about).map_err(Error::internal)?;
            text.truncate(text.len() - 1);
            Ok(Bytes::from(text + ",\"data\":["))
        }
    }
}

/// The options of the request, with the names that the request uses.
fn about(features: &Features) -> Map<String, Value> {
    let layer = match features.tap {
        Tap::HiddenState(layer) => Some(layer),
        _ => None,
    };
    let about = [
        ("model", json!(&*features.model)),
        ("output", json!(features.output)),
        ("layer", json!(layer)),
        ("leading_tokens", json!(leading_tokens(features))),
    ];
    about.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Number of tokens before those of the patches in each feature map.
fn leading_tokens(features: &Features) -> usize {
    features.maps.first().map_or(0, |map| map.leading_tokens)
}

/// The same for safetensors, whose metadata values are strings. `grids` is JSON.
fn metadata(features: &Features) -> HashMap<String, String> {
    let grids: Vec<_> = features.maps.iter().map(|map| map.grid).collect();
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let mut metadata: HashMap<_, _> =
        about(features).into_iter().map(|(key, value)| (key, text(value))).collect();
    metadata.insert("grids".to_owned(), json!(grids).to_string());
    let tilings = || features.maps.iter().filter_map(|map| map.tiling);
    if tilings().next().is_some() {
        let mut insert = |key: &str, values: Value| {
            metadata.insert(key.to_owned(), values.to_string());
        };
        insert("tile_grids", tilings().map(|tiling| json!(tiling.grid)).collect());
        insert("inner_sizes", tilings().map(|tiling| json!(tiling.inner_size)).collect());
        insert("paddings", tilings().map(|tiling| json!(tiling.padding())).collect());
        insert("image_sizes", tilings().map(|tiling| json!(tiling.image_size)).collect());
    }
    metadata
}

const fn dtype(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::F16 => "f16",
        _ => "f32",
    }
}

/// The shape of an image's features. If the image was split, the number of views comes first.
fn shape(map: &FeatureMap) -> Vec<usize> {
    let views = map.tiling.map(|_| map.views.len());
    views.into_iter().chain(view_shape(map)).collect()
}

fn view_shape(map: &FeatureMap) -> Vec<usize> {
    map.tokens.into_iter().chain([map.width]).collect()
}

/// Writes the bytes of one view.
async fn piece(
    features: &Arc<Features>,
    layout: Layout,
    [index, view]: [usize; 2],
) -> Result<Bytes, Error> {
    let shared = Arc::clone(features);
    let write = move || match layout.container {
        Container::Json => json_piece(&shared, layout, [index, view]),
        Container::Npy | Container::Safetensors => {
            Ok(shared.maps[index].views[view].encoded(layout.encoding).into())
        }
    };
    if features.maps[index].view_values() <= INLINE_VALUES {
        return write();
    }
    tokio::task::spawn_blocking(write).await.map_err(Error::internal)?
}

/// Writes an object for each image. If an image was split, it has an object for each view.
fn json_piece(
    features: &Features,
    layout: Layout,
    [index, view]: [usize; 2],
) -> Result<Bytes, Error> {
    let map = &features.maps[index];
    let shape = view_shape(map);
    let mut text = if index + view > 0 { vec![b','] } else { Vec::new() };
    let about = match map.tiling {
        None => json!({"index": index, "grid": map.grid, "shape": shape}),
        Some(tiling) => {
            if view == 0 {
                let image = json!({
                    "index": index,
                    "image_size": tiling.image_size,
                    "tile_grid": tiling.grid,
                    "inner_size": tiling.inner_size,
                    "padding": tiling.padding(),
                });
                serde_json::to_writer(&mut text, &image).map_err(Error::internal)?;
                text.pop();
                text.extend_from_slice(b",\"views\":[");
            }
            json!({"grid": map.grid, "shape": shape})
        }
    };
    serde_json::to_writer(&mut text, &about).map_err(Error::internal)?;
    text.pop();
    text.extend_from_slice(b",\"features\":");
    let values = &map.views[view];
    if layout.base64 {
        let bytes = values.encoded(layout.encoding);
        text.push(b'"');
        text.extend_from_slice(base64_simd::STANDARD.encode_to_string(bytes).as_bytes());
        text.push(b'"');
    } else if shape.len() == 1 {
        numbers(values.as_slice(), layout.encoding, &mut text);
    } else {
        for (token, row) in values.as_slice().chunks_exact(map.width).enumerate() {
            text.push(if token == 0 { b'[' } else { b',' });
            numbers(row, layout.encoding, &mut text);
        }
        text.push(b']');
    }
    text.push(b'}');
    if map.tiling.is_some() && view + 1 == map.views.len() {
        text.extend_from_slice(b"]}");
    }
    Ok(text.into())
}

/// Writes an array of numbers. Each has the shortest text that reads back as the same value.
fn numbers(row: &[f32], encoding: Encoding, text: &mut Vec<u8>) {
    let mut digits = ryu::Buffer::new();
    for (index, &value) in row.iter().enumerate() {
        text.push(if index == 0 { b'[' } else { b',' });
        let value = match encoding {
            Encoding::F16 => f16::from_f32(value).to_f32(),
            _ => value,
        };
        // Values are finite, except for a half float that overflowed. JSON has no infinity, so it becomes null.
        if value.is_finite() {
            text.extend_from_slice(digits.format_finite(value).as_bytes());
        } else {
            text.extend_from_slice(b"null");
        }
    }
    text.push(b']');
}
