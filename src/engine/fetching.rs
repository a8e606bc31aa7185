//! Images that a request names by URL, and the way of any image to its pixels.

use std::time::Instant;

use super::{Context, Engine, ImageInput};
use crate::{
    error::{Code, Error},
    fetch::{FetchError, Fetched, Slot},
    preprocess::{Pixels, TargetSize},
    registry::Model,
    telemetry::Stage,
};

impl Engine {
    /// The picture behind a URL; any other input as it is, and a URL too where none are fetched.
    ///
    /// The permit bounds how many fetched pictures are held: keep it until the picture is decoded.
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

    /// The prepared pixels of an image, whatever it was sent as.
    pub(super) async fn pixels(
        &self,
        model: &Model,
        image: ImageInput,
        size: TargetSize,
        context: &Context,
    ) -> Result<Pixels, Error> {
        if let ImageInput::Pixels(pixels) = image {
            return Ok(pixels);
        }
        let (image, slot) = self.fetched(image, context).await?;
        let started = Instant::now();
        let encoded = self.encoded(image, context).await?;
        let prepared = self.prepare(model, encoded, size, context).await?;
        drop(slot);
        self.metrics.pixels_decoded.inc_by(prepared.source_pixels);
        self.note(context, Stage::Decode, started);
        Ok(prepared.pixels)
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
