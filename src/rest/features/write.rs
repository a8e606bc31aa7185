//! Writes features picture by picture, so that a large answer never stands in memory twice.

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
use serde_json::{Map, json};

use crate::{
    embedding::Encoding,
    engine::{Context, FeatureMap, Features},
    error::Error,
    model::Tap,
    rest::{
        AppState,
        arrays::{npy_head, safetensors_head},
        negotiate::Container,
        problem::Failure,
        respond::{INLINE_VALUES, Usage},
    },
    telemetry::Stage,
};

/// Patches of each picture of an npy answer, rows and columns.
const GRID: HeaderName = HeaderName::from_static("x-siglip-grid");
/// Tokens of a map before those of the patches.
const LEADING_TOKENS: HeaderName = HeaderName::from_static("x-siglip-leading-tokens");
/// The hidden state of a binary answer, counted from the start.
const LAYER: HeaderName = HeaderName::from_static("x-siglip-layer");
/// The model that gave a binary answer.
const MODEL: HeaderName = HeaderName::from_static("x-siglip-model");

/// How an answer is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) container: Container,
    pub(super) encoding: Encoding,
    /// Base64 in place of numbers, in JSON.
    pub(super) base64: bool,
}

/// Answers with features.
///
/// A small answer is written whole. A large one is streamed: a picture's bytes are written when the client
/// has taken those before, and the maps stay counted as bytes in flight until then.
pub(super) async fn respond(
    state: &AppState,
    context: &Context,
    features: Features,
    layout: Layout,
) -> Result<Response, Failure> {
    let headers = headers(&features, layout)?;
    let values: usize = features.maps.iter().map(|map| map.values.dim()).sum();
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

/// The answer in pieces, none larger than one picture's.
fn pieces(
    features: Arc<Features>,
    layout: Layout,
) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
    try_stream! {
        yield head(&features, layout)?;
        for index in 0..features.maps.len() {
            yield piece(&features, layout, index).await?;
        }
        if layout.container == Container::Json {
            let usage =
                serde_json::to_string(&Usage::from(features.usage)).map_err(Error::internal)?;
            yield Bytes::from(format!("],\"usage\":{usage}}}\n"));
        }
    }
}

/// Headers of the answer. They say what npy has no place for.
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
    if layout.container == Container::Npy
        && let Some([rows, columns]) = common_grid(features)?
    {
        let grid = HeaderValue::from_str(&format!("{rows}x{columns}")).map_err(Error::internal)?;
        headers.insert(GRID, grid);
    }
    headers.insert(LEADING_TOKENS, HeaderValue::from(leading_tokens(features)));
    Ok(headers)
}

/// The grid that all pictures have; none where they differ and it does not matter.
///
/// # Errors
/// [`crate::error::Code::InvalidRequest`] where maps of different grids cannot be one array.
fn common_grid(features: &Features) -> Result<Option<[usize; 2]>, Error> {
    let mut grids = features.maps.iter().map(|map| map.grid);
    let first = grids.next();
    if grids.all(|grid| Some(grid) == first) {
        return Ok(first);
    }
    if features.tap == Tap::Pooled {
        return Ok(None);
    }
    let message = "the pictures have different grids, which make no one array; ask for safetensors \
                   or JSON, or send them one by one";
    Err(Error::invalid("encoding_format", message))
}

/// What stands before the first picture.
fn head(features: &Features, layout: Layout) -> Result<Bytes, Error> {
    let element = layout.encoding.element();
    let shapes = features.maps.iter().map(|map| shape(map, features.tap));
    match layout.container {
        Container::Npy => {
            let mut whole = vec![features.maps.len()];
            whole.extend(shapes.into_iter().next().unwrap_or_default());
            Ok(npy_head(element, &whole))
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

/// What was asked for, in the words of the request.
fn about(features: &Features) -> Map<String, serde_json::Value> {
    let (output, layer) = match features.tap {
        Tap::Pooled => ("pooled", None),
        Tap::LastHiddenState => ("last_hidden_state", None),
        Tap::HiddenState(layer) => ("hidden_state", Some(layer)),
    };
    let about = [
        ("model", json!(&*features.model)),
        ("output", json!(output)),
        ("layer", json!(layer)),
        ("leading_tokens", json!(leading_tokens(features))),
    ];
    about.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Tokens of each map before those of the patches.
fn leading_tokens(features: &Features) -> usize {
    features.maps.first().map_or(0, |map| map.leading_tokens)
}

/// The same for safetensors, whose metadata are texts; `grids` is JSON.
fn metadata(features: &Features) -> HashMap<String, String> {
    let grids: Vec<_> = features.maps.iter().map(|map| map.grid).collect();
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    let mut metadata: HashMap<_, _> =
        about(features).into_iter().map(|(key, value)| (key, text(value))).collect();
    metadata.insert("grids".to_owned(), json!(grids).to_string());
    metadata
}

const fn dtype(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::F16 => "f16",
        _ => "f32",
    }
}

fn shape(map: &FeatureMap, tap: Tap) -> Vec<usize> {
    match tap {
        Tap::Pooled => vec![map.width],
        Tap::LastHiddenState | Tap::HiddenState(_) => {
            vec![map.values.dim() / map.width.max(1), map.width]
        }
    }
}

/// One picture's bytes.
async fn piece(features: &Arc<Features>, layout: Layout, index: usize) -> Result<Bytes, Error> {
    let shared = Arc::clone(features);
    let write = move || match layout.container {
        Container::Json => json_piece(&shared, layout, index),
        Container::Npy | Container::Safetensors => {
            Ok(shared.maps[index].values.encoded(layout.encoding).into())
        }
    };
    if features.maps[index].values.dim() <= INLINE_VALUES {
        return write();
    }
    tokio::task::spawn_blocking(write).await.map_err(Error::internal)?
}

fn json_piece(features: &Features, layout: Layout, index: usize) -> Result<Bytes, Error> {
    let map = &features.maps[index];
    let shape = shape(map, features.tap);
    let about = json!({"index": index, "grid": map.grid, "shape": shape});
    let mut text = if index > 0 { vec![b','] } else { Vec::new() };
    serde_json::to_writer(&mut text, &about).map_err(Error::internal)?;
    text.pop();
    text.extend_from_slice(b",\"features\":");
    if layout.base64 {
        let bytes = map.values.encoded(layout.encoding);
        text.push(b'"');
        text.extend_from_slice(base64_simd::STANDARD.encode_to_string(bytes).as_bytes());
        text.push(b'"');
    } else if shape.len() == 1 {
        numbers(map.values.as_slice(), layout.encoding, &mut text);
    } else {
        for (token, row) in map.values.as_slice().chunks_exact(map.width).enumerate() {
            text.push(if token == 0 { b'[' } else { b',' });
            numbers(row, layout.encoding, &mut text);
        }
        text.push(b']');
    }
    text.push(b'}');
    Ok(text.into())
}

/// An array of numbers: the shortest text that gives each value back.
fn numbers(row: &[f32], encoding: Encoding, text: &mut Vec<u8>) {
    let mut digits = ryu::Buffer::new();
    for (index, &value) in row.iter().enumerate() {
        text.push(if index == 0 { b'[' } else { b',' });
        let value = match encoding {
            Encoding::F16 => f16::from_f32(value).to_f32(),
            _ => value,
        };
        // Finite, but for a half float that overflowed: JSON has no word for infinity but null.
        if value.is_finite() {
            text.extend_from_slice(digits.format_finite(value).as_bytes());
        } else {
            text.extend_from_slice(b"null");
        }
    }
    text.push(b']');
}
