//! Images as several views: the whole of each, and the tiles of an enlargement. Each view is a row of the tower.

use std::{sync::Arc, time::Instant};

use futures::{StreamExt, stream};

use super::{
    Context, Engine, FeatureMap, ImageInput, admission::Permit, features::Wanted, item::Encoded,
};
use crate::{
    decoder::Decoder,
    error::Error,
    preprocess::{Header, Pinpoints, TargetSize, Tiling},
    registry::Model,
    telemetry::Stage,
};

/// Tiles of the one of several sizes that fits an image best: LLaVA's `anyres`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Anyres {
    /// Heights and widths, of equally good ones the first is chosen; the checkpoint's where none are given.
    pub grid_pinpoints: Option<Vec<[u32; 2]>>,
}

impl Anyres {
    /// The sizes of which one is chosen.
    ///
    /// # Errors
    /// [`crate::error::Code::InvalidRequest`] at `tiles` for a model that reads no squares, at `grid_pinpoints` for
    /// sizes that are no whole tiles, and where neither the request nor the checkpoint has any.
    pub(super) fn pinpoints(self, model: &Model) -> Result<Pinpoints, Error> {
        let side = match model.image.size {
            TargetSize::Fixed { height, width } | TargetSize::Crop { height, width, .. }
                if height == width =>
            {
                height
            }
            _ => {
                let message = format!("the model `{}` reads no squares of one size", model.name);
                return Err(Error::invalid("tiles", message));
            }
        };
        if let Some(sizes) = self.grid_pinpoints {
            let invalid = |error| Error::invalid("grid_pinpoints", format!("{error}"));
            return Pinpoints::new(&sizes, side).map_err(invalid);
        }
        let own = model.card.language.as_ref().and_then(|language| language.pinpoints.clone());
        own.ok_or_else(|| {
            let message = format!(
                "must be given: the files of the model `{}` name no sizes of images in tiles",
                model.name
            );
            Error::invalid("grid_pinpoints", message)
        })
    }
}

/// What becomes of a decoded image.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// One image of this size.
    Size(TargetSize),
    /// Several views, one below the other.
    Views(Tiling),
}

impl Target {
    /// The bytes that it takes to make it of an image.
    pub(super) fn memory(self, encoded: &[u8], header: Header) -> u64 {
        let decoding = Decoder::memory(encoded, header);
        match self {
            Self::Size(_) => decoding,
            Self::Views(tiling) => decoding.saturating_add(tiling.bytes()),
        }
    }

    /// The bytes of a row that waits for its pass. Those of views are admitted with their request.
    pub(super) fn row_bytes(self) -> Option<u64> {
        match self {
            Self::Size(size) => Some(3 * size.max_pixels()),
            Self::Views(_) => None,
        }
    }
}

impl Engine {
    /// The features of every view of images.
    ///
    /// How many views there are is known once all headers are read: then they are admitted, as rows.
    pub(super) async fn tiled_maps(
        &self,
        model: &Model,
        (images, pinpoints): (Vec<ImageInput>, &Pinpoints),
        wanted: Wanted,
        context: &Context,
    ) -> Result<(Arc<Permit>, Vec<FeatureMap>), Error> {
        let count = images.len().max(1);
        let opened = images.into_iter().map(|image| async move {
            let encoded = self.opened(model, image, context).await?;
            let tiling = pinpoints.tiling(encoded.header().size);
            Ok((encoded, tiling))
        });
        let opened = in_order(stream::iter(opened).buffered(count).collect().await)?;
        let tilings = || opened.iter().map(|(_, tiling)| tiling);
        let views: usize = tilings().map(Tiling::views).sum();
        let answer_bytes = self.check_answer(model, wanted, views)?;
        // The pixels of the views, from when they are cut until the tower has read them.
        let pixel_bytes: u64 = tilings().map(|tiling| 3 * tiling.pixels()).sum();
        let bytes = answer_bytes.saturating_add(usize::try_from(pixel_bytes).unwrap_or(usize::MAX));
        self.check_room(views, bytes)?;
        // The images themselves are admitted already.
        let permit = self.admit((model, context), views.saturating_sub(opened.len()), bytes)?;
        let maps = opened
            .into_iter()
            .map(|(encoded, tiling)| self.tiled_map(model, (encoded, tiling), wanted, context));
        Ok((permit, in_order(stream::iter(maps).buffered(count).collect().await)?))
    }

    /// An image whose header is read. Bytes that were fetched count like those that were sent.
    async fn opened(
        &self,
        model: &Model,
        image: ImageInput,
        context: &Context,
    ) -> Result<Encoded, Error> {
        let image = self.fetched_and_counted(model, image, context).await?;
        self.encoded(image, context).await
    }

    async fn tiled_map(
        &self,
        model: &Model,
        (encoded, tiling): (Encoded, Tiling),
        wanted: Wanted,
        context: &Context,
    ) -> Result<FeatureMap, Error> {
        let started = Instant::now();
        let (prepared, _) = self.prepare(model, encoded, Target::Views(tiling), context).await?;
        self.metrics.pixels_decoded.inc_by(prepared.source_pixels);
        self.note(context, Stage::Decode, started);
        let views = tiling.split(&prepared.pixels).into_iter().map(|view| (view, None)).collect();
        drop(prepared);
        self.view_maps(model, (views, Some(tiling)), wanted.tap, context).await
    }
}

/// All items, or every error with its place in the request.
fn in_order<T>(items: Vec<Result<T, Error>>) -> Result<Vec<T>, Error> {
    let mut errors = Vec::new();
    let mut whole = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        match item {
            Ok(item) => whole.push(item),
            Err(error) => errors.push(error.with_field(format!("input[{index}]"))),
        }
    }
    Error::of_items(errors).map_or(Ok(whole), Err)
}
