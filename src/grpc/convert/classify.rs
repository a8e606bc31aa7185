//! Converts messages of the method `Classify`.

use super::{image, matching_token, matrix, model, usage, wire_count};
use crate::{
    engine::{Classified, ClassifyRequest, ImageSide, LabelScore},
    error::Error,
    grpc::proto,
};

/// Reads a classification request.
///
/// # Errors
/// `invalid_request` for an image side that is missing, given twice or malformed, and for a `top_k` of 0.
pub(in crate::grpc) fn classify_request(
    message: proto::ClassifyRequest,
) -> Result<ClassifyRequest, Error> {
    if message.top_k == Some(0) {
        return Err(Error::invalid("top_k", "must be 1 or more"));
    }
    let images = match (message.images, message.image_embeddings) {
        (images, None) if !images.is_empty() => {
            let images = images.into_iter().enumerate();
            let images = images.map(|(index, item)| image(item, || format!("images[{index}]")));
            ImageSide::Images(images.collect::<Result<_, _>>()?)
        }
        (images, Some(rows)) if images.is_empty() => {
            ImageSide::Embeddings(matrix("image_embeddings", rows)?)
        }
        _ => return Err(Error::invalid("images", "set either `images` or `image_embeddings`")),
    };
    Ok(ClassifyRequest {
        model: model(message.model),
        images,
        labels: message.labels,
        templates: message.templates,
        top_k: message.top_k.map(|count| usize::try_from(count).unwrap_or(usize::MAX)),
        min_probability: message.min_probability,
        max_num_patches: message.max_num_patches,
        matching_token: matching_token(message.matching_token)?,
    })
}

/// The response without its timings.
pub(in crate::grpc) fn classify_message(classified: Classified) -> proto::ClassifyResponse {
    let score = |score: LabelScore| proto::LabelScore {
        label: wire_count(score.label),
        probability: score.probability,
        logit: score.logit,
    };
    let image = |scores: Vec<LabelScore>| proto::Classification {
        scores: scores.into_iter().map(score).collect(),
    };
    proto::ClassifyResponse {
        model: classified.model.to_string(),
        images: classified.images.into_iter().map(image).collect(),
        usage: Some(usage(classified.usage)),
        scoring: classified.scorer.name().to_owned(),
        timings: None,
    }
}
