//! What a vision tower sees: token maps of its layers, for models that read images through it.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::{Anyres, Context, Engine, ImageInput, Usage, admission::Permit, until_deadline};
use crate::{
    batch::{Share, Submit},
    config::Limit,
    embedding::Embedding,
    error::{Code, Error},
    model::{ModelCard, Tap},
    preprocess::{Pixels, TargetSize, Tiling},
    registry::Model,
};

/// Which output of the vision tower to answer with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FeatureOutput {
    /// The pooled embedding, not normalised.
    Pooled,
    /// What a language model in the same files reads; without one the last layer's output behind the last norm.
    #[default]
    Usual,
    /// The last layer's output behind the last norm.
    LastHiddenState,
    /// A layer's output before the last norm, by its number as in transformers' `hidden_states`: 0 is the
    /// embeddings' output; a negative one counts from the end.
    HiddenState {
        /// From `-(layers + 1)` to `layers`.
        layer: i64,
    },
    /// The states of the queries that read an image for the model.
    Qformer,
    /// Those states, projected to words of a language model.
    LanguageProjection,
}

impl FeatureOutput {
    /// The tower's own name for it.
    fn tap(self, card: &ModelCard) -> Result<Tap, Error> {
        let layer = match self {
            Self::Usual if card.queries.is_some_and(|queries| queries.are_for_language) => {
                return Ok(Tap::Pooled);
            }
            Self::Usual => {
                match card.language.as_ref().map(|language| &language.feature_layers[..]) {
                    None => return Ok(Tap::LastHiddenState),
                    Some(&[layer]) => layer,
                    Some(layers) => {
                        let message = format!(
                            "must be given: the language model reads the hidden states {layers:?} side by side"
                        );
                        return Err(Error::invalid("layer", message));
                    }
                }
            }
            Self::Pooled => return Ok(Tap::Pooled),
            Self::LastHiddenState => return Ok(Tap::LastHiddenState),
            Self::HiddenState { layer } => layer,
            Self::Qformer if card.queries.is_some() => return Ok(Tap::Queries),
            Self::Qformer => return Err(Error::invalid("output", "the model has no Q-Former")),
            Self::LanguageProjection => match card.queries {
                Some(queries) if queries.are_for_language => return Ok(Tap::Pooled),
                _ => {
                    let message = "the model has no projection to a language model";
                    return Err(Error::invalid("output", message));
                }
            },
        };
        hidden_state(layer, card.vision_layers)
    }
}

/// A hidden state by its number, which counts from the end where it is negative.
fn hidden_state(layer: i64, layers: usize) -> Result<Tap, Error> {
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

/// Images, and the output of the tower that is asked for.
#[derive(Debug, Clone)]
pub struct FeaturesRequest {
    /// The model's name; the default model where none is given.
    pub model: Option<String>,
    /// The images, in the order of the answer.
    pub images: Vec<ImageInput>,
    /// The same output for all of them.
    pub output: FeatureOutput,
    /// As in [`super::EmbedRequest`].
    pub max_num_patches: Option<u32>,
    /// Whether each image becomes several views, and how.
    pub tiles: Option<Anyres>,
}

/// What is wanted of each image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) tap: Tap,
    size: TargetSize,
}

/// One image's features.
#[derive(Debug, Clone)]
pub struct FeatureMap {
    /// Patches, rows and columns. Their tokens stand row by row.
    pub grid: [usize; 2],
    /// Tokens before those of the patches: 1 where the model has a class token. None where nothing is of patches.
    pub leading_tokens: usize,
    /// Tokens, or queries; none where the output is one vector.
    pub tokens: Option<usize>,
    /// Values of one token.
    pub width: usize,
    /// `[tokens, width]` row-major, or `[width]`: one of each view. An image that is not cut is
    /// its only view; of one that is, the whole image comes first and then its tiles, row by row.
    pub views: Vec<Embedding>,
    /// How the image was cut.
    pub tiling: Option<Tiling>,
}

impl FeatureMap {
    /// Values of one view.
    #[must_use]
    pub fn view_values(&self) -> usize {
        self.tokens.unwrap_or(1) * self.width
    }
}

/// Tokens and width of an output.
fn shape(card: &ModelCard, tap: Tap, tokens: usize) -> (Option<usize>, usize) {
    match (tap, card.queries) {
        (Tap::Pooled, queries) => (queries.map(|queries| queries.count), card.embedding_dim),
        (Tap::Queries, Some(queries)) => (Some(queries.count), queries.width),
        _ => (Some(tokens), card.vision_width),
    }
}

/// The answer to a [`FeaturesRequest`].
#[derive(Debug, Clone)]
pub struct Features {
    /// The name of the model that answered.
    pub model: Arc<str>,
    /// Which output was given, its layer counted from the start.
    pub tap: Tap,
    /// The output's name, as a request has it.
    pub output: &'static str,
    /// One map an image, in the order of the request.
    pub maps: Vec<FeatureMap>,
    /// What it consumed.
    pub usage: Usage,
    /// The maps count as bytes in flight for as long as they are held.
    _permits: Vec<Arc<Permit>>,
}

impl Engine {
    /// Runs images through the vision tower up to the output that is asked for.
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
        let tap = request.output.tap(&model.card)?;
        let size = self.image_size(model, request.max_num_patches)?;
        let pinpoints = request.tiles.map(|tiles| tiles.pinpoints(model)).transpose()?;
        let wanted = Wanted { tap, size };
        let images = request.images.len();
        let usage = Usage { images, ..Usage::default() };
        let held_bytes: usize = request.images.iter().map(ImageInput::held_bytes).sum();
        let (permits, maps) = match pinpoints {
            None => {
                let answer_bytes = self.check_answer(model, wanted, images)?;
                let permit = self.admit((model, context), images, held_bytes + answer_bytes)?;
                let work = self.feature_maps(model, request.images, wanted, context);
                (vec![permit], until_deadline(context, work).await?)
            }
            Some(pinpoints) => {
                let permit = self.admit((model, context), images, held_bytes)?;
                let work = self.tiled_maps(model, (request.images, &pinpoints), wanted, context);
                let (rows, maps) = until_deadline(context, work).await?;
                (vec![permit, rows], maps)
            }
        };
        let output = match tap {
            Tap::Pooled if model.card.queries.is_some_and(|queries| queries.are_for_language) => {
                "language_projection"
            }
            Tap::Pooled => "pooled",
            Tap::LastHiddenState => "last_hidden_state",
            Tap::HiddenState(_) => "hidden_state",
            Tap::Queries => "qformer",
        };
        let model = model.name.as_str().into();
        Ok(Features { model, tap, output, maps, usage, _permits: permits })
    }

    /// The bytes of an answer, which are bounded: they are held until the client has taken them.
    ///
    /// * `views`: of all images together
    pub(super) fn check_answer(
        &self,
        model: &Model,
        wanted: Wanted,
        views: usize,
    ) -> Result<usize, Error> {
        let (tokens, width) = shape(&model.card, wanted.tap, max_tokens(model, wanted.size));
        let values = tokens.unwrap_or(1) * width;
        let bytes = values.saturating_mul(size_of::<f32>()).saturating_mul(views);
        let limit = self.limits.max_feature_bytes;
        if bytes <= limit {
            return Ok(bytes);
        }
        let limit = Limit::bytes(limit, "limits.max_feature_bytes");
        let message = format!(
            "the features of {views} images or views of them are {bytes} bytes, more than the limit of {limit}; \
             split the request"
        );
        let error = Error::new(Code::PayloadTooLarge, message).with_field("input");
        self.count_rejected(&error, views);
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
        let row = self.pixels(model, image, size, context).await?;
        self.view_maps(model, (vec![row], None), tap, context).await
    }

    /// What the tower makes of the views of one image, which are of one size.
    pub(super) async fn view_maps(
        &self,
        model: &Model,
        (views, tiling): (Vec<(Pixels, Share)>, Option<Tiling>),
        tap: Tap,
        context: &Context,
    ) -> Result<FeatureMap, Error> {
        let sizes = views.first().map(|(view, _)| grid(model, view.height, view.width));
        let grid = sizes.ok_or_else(|| Error::internal("an image without a view"))?;
        let count = views.len();
        let rows = views.into_iter().map(|row| async move {
            let submit = Submit { tap, ..context.submit() };
            let answer = model.handle.embed_shared(row, submit).await;
            self.take_answer(context, answer)
        });
        let views: Vec<_> = stream::iter(rows).buffered(count).try_collect().await?;
        let (tokens, width) = shape(&model.card, tap, tokens(model, grid));
        let of_patches = matches!(tap, Tap::LastHiddenState | Tap::HiddenState(_));
        let leading_tokens = if of_patches { model.card.leading_tokens } else { 0 };
        let map = FeatureMap { grid, leading_tokens, tokens, width, views, tiling };
        // A tower that gives something else would be read in the wrong shape by every client.
        match map.views.iter().find(|values| values.dim() != map.view_values()) {
            Some(values) => {
                Err(Error::internal(format!("{} values for {grid:?} tokens", values.dim())))
            }
            None => Ok(map),
        }
    }
}

/// Bytes of the states of an image, at most.
pub(super) fn states_bytes(model: &Model, size: TargetSize) -> usize {
    max_tokens(model, size).saturating_mul(model.card.vision_width * size_of::<f32>())
}

/// Most tokens of an image.
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

/// Patches of an image, rows and columns. A remainder that fills no patch is not read.
fn grid(model: &Model, height: u32, width: u32) -> [usize; 2] {
    [height, width].map(|side| side as usize / model.card.patch_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_layer_counts_from_the_end() {
        for (layer, index) in [(0, 0), (27, 27), (-1, 27), (-2, 26), (-28, 0)] {
            assert_eq!(
                hidden_state(layer, 27).expect("in range"),
                Tap::HiddenState(index),
                "{layer}"
            );
        }
        for layer in [28, -29, i64::MAX, i64::MIN] {
            let error = hidden_state(layer, 27).expect_err("out of range");
            assert_eq!((error.code(), error.field()), (Code::InvalidRequest, Some("layer")));
        }
    }
}
