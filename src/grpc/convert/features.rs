//! Converts messages of the method `Features`.

use super::{image, model, usage, wire_count};
use crate::{
    embedding::Encoding,
    engine::{Anyres, FeatureMap, FeatureOutput, Features, FeaturesRequest},
    error::Error,
    grpc::proto,
    model::Tap,
    preprocess::Tiling,
};

/// Reads a request for features, and the encoding of the response's values.
///
/// # Errors
/// `invalid_request` for an image without content, an unknown value of an enum, and a `layer` that contradicts
/// `output`.
pub(in crate::grpc) fn features_request(
    message: proto::FeaturesRequest,
) -> Result<(FeaturesRequest, Encoding), Error> {
    let encoding = match proto::ElementType::try_from(message.element_type) {
        Ok(proto::ElementType::Unspecified | proto::ElementType::F32) => Encoding::F32,
        Ok(proto::ElementType::F16) => Encoding::F16,
        Err(_) => return Err(Error::invalid("element_type", "no such type")),
    };
    let images = message.images.into_iter().enumerate();
    let images = images.map(|(index, item)| image(item, || format!("images[{index}]")));
    let request = FeaturesRequest {
        model: model(message.model),
        images: images.collect::<Result<_, _>>()?,
        output: output(message.output, message.layer)?,
        max_num_patches: message.max_num_patches,
        tiles: tiles(message.tiles, message.grid_pinpoints)?,
    };
    Ok((request, encoding))
}

fn output(output: i32, layer: Option<i32>) -> Result<FeatureOutput, Error> {
    use proto::FeatureOutput as Wire;
    match (Wire::try_from(output), layer) {
        (Ok(Wire::HiddenState | Wire::Unspecified), Some(layer)) => {
            Ok(FeatureOutput::HiddenState { layer: layer.into() })
        }
        (Ok(Wire::HiddenState), None) => {
            Err(Error::invalid("layer", "must be set for FEATURE_OUTPUT_HIDDEN_STATE"))
        }
        (Ok(_), Some(_)) => {
            Err(Error::invalid("layer", "goes with FEATURE_OUTPUT_HIDDEN_STATE only"))
        }
        (Ok(Wire::Pooled), None) => Ok(FeatureOutput::Pooled),
        (Ok(Wire::Qformer), None) => Ok(FeatureOutput::Qformer),
        (Ok(Wire::LanguageProjection), None) => Ok(FeatureOutput::LanguageProjection),
        (Ok(Wire::LastHiddenState), None) => Ok(FeatureOutput::LastHiddenState),
        (Ok(Wire::Unspecified), None) => Ok(FeatureOutput::Usual),
        (Err(_), _) => Err(Error::invalid("output", "no such output")),
    }
}

fn tiles(tiles: i32, grid_pinpoints: Vec<proto::ImageSize>) -> Result<Option<Anyres>, Error> {
    let sizes: Vec<_> = grid_pinpoints.iter().map(|size| [size.height, size.width]).collect();
    let grid_pinpoints = (!sizes.is_empty()).then_some(sizes);
    match (proto::Tiles::try_from(tiles), grid_pinpoints) {
        (Ok(proto::Tiles::Anyres), grid_pinpoints) => Ok(Some(Anyres { grid_pinpoints })),
        (Ok(proto::Tiles::Unspecified), None) => Ok(None),
        (Ok(proto::Tiles::Unspecified), Some(_)) => {
            Err(Error::invalid("grid_pinpoints", "goes with `tiles` only"))
        }
        (Err(_), _) => Err(Error::invalid("tiles", "no such way to cut images")),
    }
}

fn tiling(tiling: Tiling) -> proto::Tiling {
    let size = |[height, width]: [u32; 2]| Some(proto::ImageSize { height, width });
    let [padding_top, padding_left, padding_bottom, padding_right] = tiling.padding();
    proto::Tiling {
        image_size: size(tiling.image_size),
        tile_rows: tiling.grid[0],
        tile_columns: tiling.grid[1],
        inner_size: size(tiling.inner_size),
        padding_top,
        padding_left,
        padding_bottom,
        padding_right,
    }
}

/// The response without its timings.
pub(in crate::grpc) fn features_message(
    features: &Features,
    encoding: Encoding,
) -> proto::FeaturesResponse {
    let map = |map: &FeatureMap| proto::FeatureMap {
        grid_height: wire_count(map.grid[0]),
        grid_width: wire_count(map.grid[1]),
        tokens: wire_count(map.tokens.unwrap_or(1)),
        width: wire_count(map.width),
        values: match &map.views[..] {
            [values] => values.encoded(encoding).into(),
            views => {
                let views: Vec<_> = views.iter().map(|view| view.encoded(encoding)).collect();
                views.concat().into()
            }
        },
        leading_tokens: wire_count(map.leading_tokens),
        views: wire_count(map.views.len()),
        tiling: map.tiling.map(tiling),
    };
    proto::FeaturesResponse {
        model: features.model.to_string(),
        features: features.maps.iter().map(map).collect(),
        layer: match features.tap {
            Tap::HiddenState(layer) => Some(wire_count(layer)),
            Tap::Pooled | Tap::LastHiddenState | Tap::Queries => None,
        },
        usage: Some(usage(features.usage)),
        timings: None,
    }
}
