//! Converts messages of the methods `Caption` and `CaptionStream`.

use super::{image, model, usage, wire_count};
use crate::{
    engine::{BeamOptions, Caption, CaptionRequest, Captioned, EarlyStopping, Sampling, Written},
    error::Error,
    grpc::proto,
};

/// Reads a request for captions, and whether failed images are reported one by one.
///
/// # Errors
/// `invalid_request` for an image without content, and for an unknown value of an enum.
pub(in crate::grpc) fn caption_request(
    message: proto::CaptionRequest,
) -> Result<(CaptionRequest, bool), Error> {
    let by_item = match proto::OnError::try_from(message.on_error) {
        Ok(proto::OnError::Unspecified | proto::OnError::Fail) => false,
        Ok(proto::OnError::Item) => true,
        Err(_) => return Err(Error::invalid("on_error", "no such value")),
    };
    let early_stopping = match proto::EarlyStopping::try_from(message.early_stopping) {
        Ok(proto::EarlyStopping::Unspecified) => None,
        Ok(proto::EarlyStopping::False) => Some(EarlyStopping::Likely),
        Ok(proto::EarlyStopping::True) => Some(EarlyStopping::Full),
        Ok(proto::EarlyStopping::Never) => Some(EarlyStopping::Never),
        Err(_) => return Err(Error::invalid("early_stopping", "no such value")),
    };
    let images = message.images.into_iter().enumerate();
    let images = images.map(|(index, item)| image(item, || format!("images[{index}]")));
    // A value that does not fit is outside every model's range.
    let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    let request = CaptionRequest {
        model: model(message.model),
        images: images.collect::<Result<_, _>>()?,
        prompt: message.prompt,
        sampling: Sampling {
            max_new_tokens: message.max_new_tokens.map(count),
            temperature: message.temperature,
            top_p: message.top_p,
            top_k: message.top_k.map(count),
            repetition_penalty: message.repetition_penalty,
            seed: message.seed,
        },
        beams: BeamOptions {
            num_beams: message.num_beams.map(count),
            length_penalty: message.length_penalty,
            early_stopping,
        },
    };
    Ok((request, by_item))
}

/// The response without its timings.
///
/// # Errors
/// The errors of the images, unless they are reported one by one.
pub(in crate::grpc) fn caption_message(
    captioned: Captioned,
    by_item: bool,
) -> Result<proto::CaptionResponse, Error> {
    let Captioned { model, captions, usage: used } = captioned;
    let mut errors = Vec::new();
    let mut messages = Vec::with_capacity(captions.len());
    let mut failed = Vec::new();
    for (index, caption) in captions.into_iter().enumerate() {
        messages.push(match caption {
            Ok(Caption { text, token_ids, is_ended }) => {
                let finish_reason = match is_ended {
                    true => proto::FinishReason::Stop,
                    false => proto::FinishReason::Length,
                };
                proto::Caption { text, token_ids, finish_reason: finish_reason.into() }
            }
            Err(error) => {
                errors.push(proto::ItemError {
                    index: index as u64,
                    code: error.code().slug().to_owned(),
                    message: error.message().to_owned(),
                    field: error.field().unwrap_or_default().to_owned(),
                });
                failed.push(error);
                proto::Caption::default()
            }
        });
    }
    if !by_item && let Some(error) = Error::of_items(failed) {
        return Err(error);
    }
    let usage = Some(usage(used));
    let model = model.to_string();
    Ok(proto::CaptionResponse { model, captions: messages, errors, usage, timings: None })
}

/// The message of a new token.
pub(in crate::grpc) fn token_message(token: Written) -> proto::CaptionStreamResponse {
    let Written { index, id, text } = token;
    let token = proto::CaptionToken { index: wire_count(index), token_id: id, text };
    let message = Some(proto::caption_stream_response::Message::Token(token));
    proto::CaptionStreamResponse { message }
}
