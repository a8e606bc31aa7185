//! Images that a request names by URL, and the way of any image to its pixels.

use std::time::Instant;

use futures::{StreamExt, stream};

use super::{Context, Engine, ImageInput, Input, embed::Batch, tiles::Target};
use crate::{
    batch::Share,
    error::{Code, Error},
    fetch::{FetchError, Fetched, Slot},
    preprocess::{Pixels, TargetSize},
    registry::Model,
    telemetry::Stage,
};

impl Engine {
    /// The image behind a URL; any other input as it is, and a URL too where none are fetched.
    ///
    /// The permit bounds how many fetched images are held: keep it until the image is decoded.
    pub(super) async fn fetched(
        &self,
        image: ImageInput,
        context: &Context,
    ) -> Result<(ImageInput, Option<Slot>), Error> {
        let (ImageInput::Url(url), Some(fetcher)) = (&image, &self.fetcher) else {
            return Ok((image, None));
        };
        let started = Instant::now();
        let fetched = fetcher.fetch(url, context.client()).await;
        self.note(context, Stage::Fetch, started);
        let Fetched { bytes, slot } = fetched.map_err(fetch_error)?;
        Ok((ImageInput::Encoded(bytes), Some(slot)))
    }

    /// As the method above, for an image that is decoded later or more than once: until then its bytes count against
    /// `limits.max_bytes_in_flight`, like those of an image in the request.
    pub(super) async fn fetched_and_counted(
        &self,
        model: &Model,
        image: ImageInput,
        context: &Context,
    ) -> Result<ImageInput, Error> {
        let sent = image.held_bytes();
        let (image, slot) = self.fetched(image, context).await?;
        if slot.is_some() {
            self.admit((model, context), 0, image.held_bytes().saturating_sub(sent))?;
        }
        Ok(image)
    }

    /// Items of which every image that is named by a URL is fetched, for who reads them twice.
    ///
    /// # Errors
    /// Every failed item's, its field named as in the request.
    pub(super) async fn fetched_once(
        &self,
        model: &Model,
        batch: Batch,
        context: &Context,
    ) -> Result<Batch, Error> {
        let Batch { field, inputs, inputs_per_name } = batch;
        let count = inputs.len().max(1);
        let each = inputs.into_iter().enumerate().map(|(index, input)| async move {
            let Input::Image(image @ ImageInput::Url(_)) = input else { return Ok(input) };
            let fetched = self.fetched_and_counted(model, image, context).await;
            let name = format!("{field}[{}]", index / inputs_per_name.max(1));
            fetched.map(Input::Image).map_err(|error| error.with_field(name))
        });
        let each: Vec<_> = stream::iter(each).buffered(count).collect().await;
        let (inputs, errors): (Vec<_>, Vec<_>) = each.into_iter().partition(Result::is_ok);
        let errors = errors.into_iter().filter_map(Result::err).collect();
        let inputs = inputs.into_iter().flatten().collect();
        Error::of_items(errors).map_or(Ok(Batch { field, inputs, inputs_per_name }), Err)
    }

    /// The prepared pixels of an image, whatever it was sent as.
    pub(super) async fn pixels(
        &self,
        model: &Model,
        image: ImageInput,
        size: TargetSize,
        context: &Context,
    ) -> Result<(Pixels, Share), Error> {
        if let ImageInput::Pixels(pixels) = image {
            // They are counted as bytes of the request.
            return Ok((pixels, None));
        }
        let (image, slot) = self.fetched(image, context).await?;
        let started = Instant::now();
        let encoded = self.encoded(image, context).await?;
        let (prepared, share) = self.prepare(model, encoded, Target::Size(size), context).await?;
        drop(slot);
        self.metrics.pixels_decoded.inc_by(prepared.source_pixels);
        self.note(context, Stage::Decode, started);
        Ok((prepared.pixels, share))
    }
}

fn fetch_error(error: FetchError) -> Error {
    let code = match error {
        FetchError::Forbidden(_) => Code::FetchForbidden,
        FetchError::TooManyBytes { .. } => Code::ImageTooLarge,
        FetchError::NotAnImage(_) => Code::UndecodableImage,
        FetchError::TooManyRedirects { .. }
        | FetchError::Status(_)
        | FetchError::TimedOut(_)
        | FetchError::Failed { .. } => Code::FetchFailed,
    };
    Error::new(code, error.to_string()).with_source(error)
}
