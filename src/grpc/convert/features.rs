//! Messages of the method `Features`.

use super::{image, model, usage, wire_count};
use crate::{
    embedding::Encoding,
    engine::{FeatureMap, FeatureOutput, Features, FeaturesRequest},
    error::Error,
    grpc::proto,
    model::Tap,
};

/// Reads a request for features, and how its values are to be written.
///
/// # Errors
/// `invalid_request` for an image without content, an enum's value that is unknown, and a `layer` that
/// does not go with `output`.
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
        (Ok(Wire::LastHiddenState | Wire::Unspecified), None) => Ok(FeatureOutput::LastHiddenState),
        (Err(_), _) => Err(Error::invalid("output", "no such output")),
    }
}

/// The answer, but for its timings.
pub(in crate::grpc) fn features_message(
    features: &Features,
    encoding: Encoding,
) -> proto::FeaturesResponse {
    let map = |map: &FeatureMap| proto::FeatureMap {
        grid_height: wire_count(map.grid[0]),
        grid_width: wire_count(map.grid[1]),
        tokens: wire_count(map.values.dim() / map.width.max(1)),
        width: wire_count(map.width),
        values: map.values.encoded(encoding).into(),
        leading_tokens: wire_count(map.leading_tokens),
    };
    proto::FeaturesResponse {
        model: features.model.to_string(),
        features: features.maps.iter().map(map).collect(),
        layer: match features.tap {
            Tap::HiddenState(layer) => Some(wire_count(layer)),
            Tap::Pooled | Tap::LastHiddenState => None,
        },
        usage: Some(usage(features.usage)),
        timings: None,
    }
}
