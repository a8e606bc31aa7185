//! What a vision tower sees: token maps of its layers, for models that read pictures through it.

use std::sync::Arc;

use futures::{StreamExt, stream};

use super::{Context, Engine, ImageInput, Usage, admission::Permit, until_deadline};
use crate::{
    batch::Submit,
    config::Limit,
    embedding::Embedding,
    error::{Code, Error},
    model::Tap,
    preprocess::TargetSize,
    registry::Model,
};

/// Which output of the vision tower to answer with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FeatureOutput {
    /// The pooled embedding, not normalised.
    Pooled,
    /// The last layer's output behind the last norm.
    #[default]
    LastHiddenState,
    /// A layer's output before the last norm, by its number as in transformers' `hidden_states`: 0 is the
    /// embeddings' output; a negative one counts from the end.
    HiddenState {
        /// From `-(layers + 1)` to `layers`.
        layer: i64,
    },
}

impl FeatureOutput {
    /// The tower's own name for it.
    fn tap(self, layers: usize) -> Result<Tap, Error> {
        let layer = match self {
            Self::Pooled => return Ok(Tap::Pooled),
            Self::LastHiddenState => return Ok(Tap::LastHiddenState),
            Self::HiddenState { layer } => layer,
        };
        let states = i64::try_from(layers).unwrap_or(i64::MAX).saturating_add(1);
        let index = if layer < 0 { layer.saturating_add(states) } else { layer };
        let index = usize::try_from(index).ok().filter(|&index| index <= layers);
        index.map(Tap::HiddenState).ok_or_else(|| {
            let message = format!(
                "{layer} is out of range: the model has hidden states 0 to {layers}, or -{states} to -1"
            );
            Error::invalid("layer", message)
        })
    }
}

/// Pictures, and the output of the tower that is asked for.
#[derive(Debug, Clone)]
pub struct FeaturesRequest {
    /// The model's name; the default model where none is given.
    pub model: Option<String>,
    /// The pictures, in the order of the answer.
    pub images: Vec<ImageInput>,
    /// The same output for all of them.
    pub output: FeatureOutput,
    /// As in [`super::EmbedRequest`].
    pub max_num_patches: Option<u32>,
}

/// What is wanted of each picture.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    tap: Tap,
    size: TargetSize,
}

/// One picture's features.
#[derive(Debug, Clone)]
pub struct FeatureMap {
    /// Patches, rows and columns. Their tokens stand row by row.
    pub grid: [usize; 2],
    /// Tokens before those of the patches: 1 where the model has a class token. None in the pooled output.
    pub leading_tokens: usize,
    /// Values of one token.
    pub width: usize,
    /// `[tokens, width]` row-major, or `[width]` for the pooled output.
    pub values: Embedding,
}

/// The answer to a [`FeaturesRequest`].
#[derive(Debug, Clone)]
pub struct Features {
    /// The name of the model that answered.
    pub model: Arc<str>,
    /// Which output was given, its layer counted from the start.
    pub tap: Tap,
    /// One map a picture, in the order of the request.
    pub maps: Vec<FeatureMap>,
    /// What it consumed.
    pub usage: Usage,
    /// The maps count as bytes in flight for as long as they are held.
    _permit: Arc<Permit>,
}

impl Engine {
    /// Runs pictures through the vision tower up to the output that is asked for.
    ///
    /// Rows share batches with whatever else the tower does. Nothing is cached: a map is hundreds of times
    /// as large as an embedding.
    ///
    /// # Errors
    /// The first item's error with its index as the field (`input[3]`), all failed items listed in
    /// [`Error::items`]; or, before any work, [`Code::InvalidRequest`] at `layer` or a limit's error.
    pub async fn features(
        &self,
        request: FeaturesRequest,
        context: &Context,
    ) -> Result<Features, Error> {
        let model = self.registry.get(request.model.as_deref())?;
        self.check_count("input", request.images.len(), self.limits.items())?;
        let tap = request.output.tap(model.card.vision_layers)?;
        let size = self.image_size(model, request.max_num_patches)?;
        let wanted = Wanted { tap, size };
        let answer_bytes = self.check_answer(model, wanted, request.images.len())?;
        let held_bytes: usize = request.images.iter().map(ImageInput::held_bytes).sum();
        let permit =
            self.admit((model, context), request.images.len(), held_bytes + answer_bytes)?;
        let usage = Usage { images: request.images.len(), ..Usage::default() };
        let work = self.feature_maps(model, request.images, wanted, context);
        let maps = until_deadline(context, work).await?;
        let model = model.name.as_str().into();
        Ok(Features { model, tap, maps, usage, _permit: permit })
    }

    /// The bytes of an answer, which are bounded: they are held until the client has taken them.
    fn check_answer(&self, model: &Model, wanted: Wanted, images: usize) -> Result<usize, Error> {
        let values = match wanted.tap {
            Tap::Pooled => model.card.embedding_dim,
            Tap::LastHiddenState | Tap::HiddenState(_) => {
                max_tokens(model, wanted.size) * model.card.vision_width
            }
        };
        let bytes = values.saturating_mul(size_of::<f32>()).saturating_mul(images);
        let limit = self.limits.max_feature_bytes;
        if bytes <= limit {
            return Ok(bytes);
        }
        let limit = Limit::bytes(limit, "limits.max_feature_bytes");
        let message = format!(
            "the features of {images} images are {bytes} bytes, more than the limit of {limit}; \
             split the request"
        );
        let error = Error::new(Code::PayloadTooLarge, message).with_field("input");
        self.count_rejected(&error, images);
        Err(error)
    }

    async fn feature_maps(
        &self,
        model: &Model,
        images: Vec<ImageInput>,
        wanted: Wanted,
        context: &Context,
    ) -> Result<Vec<FeatureMap>, Error> {
        let count = images.len();
        let maps = images.into_iter().enumerate().map(|(index, image)| async move {
            let map = self.feature_map(model, image, wanted, context).await;
            map.map_err(|error| error.with_field(format!("input[{index}]")))
        });
        let maps: Vec<_> = stream::iter(maps).buffered(count.max(1)).collect().await;
        let (maps, errors): (Vec<_>, Vec<_>) = maps.into_iter().partition(Result::is_ok);
        let errors = errors.into_iter().filter_map(Result::err).collect();
        Error::of_items(errors).map_or_else(|| Ok(maps.into_iter().flatten().collect()), Err)
    }

    async fn feature_map(
        &self,
        model: &Model,
        image: ImageInput,
        Wanted { tap, size }: Wanted,
        context: &Context,
    ) -> Result<FeatureMap, Error> {
        let pixels = self.pixels(model, image, size, context).await?;
        let grid = grid(model, pixels.height, pixels.width);
        let submit = Submit { tap, ..context.submit() };
        let answer = model.handle.embed_image(pixels, submit).await;
        let values = self.take_answer(context, answer)?;
        let width = match tap {
            Tap::Pooled => values.dim(),
            Tap::LastHiddenState | Tap::HiddenState(_) => model.card.vision_width,
        };
        // A tower that gives something else would be read in the wrong shape by every client.
        if tap != Tap::Pooled && values.dim() != tokens(model, grid) * width {
            return Err(Error::internal(format!("{} values for {grid:?} tokens", values.dim())));
        }
        let leading_tokens = if tap == Tap::Pooled { 0 } else { model.card.leading_tokens };
        Ok(FeatureMap { grid, leading_tokens, width, values })
    }
}

/// Most tokens of a picture.
fn max_tokens(model: &Model, size: TargetSize) -> usize {
    match size {
        TargetSize::Fixed { height, width } | TargetSize::Crop { height, width, .. } => {
            tokens(model, grid(model, height, width))
        }
        TargetSize::Patches { max_num_patches, .. } => max_num_patches as usize,
    }
}

/// Tokens of a grid of patches, with those that stand before them.
fn tokens(model: &Model, [rows, columns]: [usize; 2]) -> usize {
    model.card.leading_tokens + rows * columns
}

/// Patches of a picture, rows and columns. A remainder that fills no patch is not read.
fn grid(model: &Model, height: u32, width: u32) -> [usize; 2] {
    [height, width].map(|side| side as usize / model.card.patch_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_layer_counts_from_the_end() {
        let tap = |layer| FeatureOutput::HiddenState { layer }.tap(27);
        for (layer, index) in [(0, 0), (27, 27), (-1, 27), (-2, 26), (-28, 0)] {
            assert_eq!(tap(layer).expect("in range"), Tap::HiddenState(index), "{layer}");
        }
        for layer in [28, -29, i64::MAX, i64::MIN] {
            let error = tap(layer).expect_err("out of range");
            assert_eq!((error.code(), error.field()), (Code::InvalidRequest, Some("layer")));
        }
    }
}
