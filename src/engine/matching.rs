//! Pairs that a matching head judges: it reads each text together with each image.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::{
    Context, Engine, ImageInput, Input, Matrix, Usage, features::states_bytes, item::ItemOptions,
};
use crate::{
    batch::Submit,
    embedding::Embedding,
    error::Error,
    model::{MatchRow, ReaderRow, Tap},
    registry::Model,
    tokenize::Tokens,
};

/// Texts that the head reads in one row. What it computes of an image alone is computed once for all of them.
const TEXTS_OF_ROW: usize = 64;

/// Images of a request whose states are held at once.
const IMAGES_AT_ONCE: usize = 4;

/// Which texts an image is paired with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pairing {
    /// Every text.
    #[default]
    All,
    /// The text of the same place.
    Zip,
}

/// The images and texts of a request, each with the name of its field.
pub(super) struct Sides {
    pub(super) images: (&'static str, Vec<ImageInput>),
    pub(super) texts: (&'static str, Vec<Input>),
    /// How many texts in a row the caller knows by one index: the prompts of one label.
    pub(super) texts_per_name: usize,
}

impl Engine {
    /// The logits of a request's pairs: `[images, texts]`, or `[images, 1]` where they are zipped.
    pub(super) async fn matched(
        &self,
        model: &Model,
        sides: Sides,
        (pairing, options): (Pairing, ItemOptions),
        context: &Context,
    ) -> Result<(Matrix, Usage), Error> {
        let Sides { images: (image_field, images), texts: (text_field, texts), texts_per_name } =
            sides;
        // The states of the images that are read at once, and the texts once more, beside the request's own.
        let states =
            states_bytes(model, options.size()).saturating_mul(images.len().min(IMAGES_AT_ONCE));
        let held: usize = texts.iter().map(Input::held_bytes).sum();
        self.admit((model, context), 0, held.saturating_add(states))?;
        let mut usage = Usage { images: images.len(), ..Usage::default() };
        let mut tokens = Vec::with_capacity(texts.len());
        let mut errors = Vec::new();
        for (index, text) in texts.into_iter().enumerate() {
            match self.tokens(model, text, options, context).await {
                Ok((mut text, used)) => {
                    usage += used;
                    if let Some(start) = options.matching_start() {
                        let rest = text.ids.iter().skip(1).copied();
                        text.ids = std::iter::once(start).chain(rest).collect();
                    }
                    tokens.push(text);
                }
                Err(error) => {
                    let index = index / texts_per_name.max(1);
                    errors.push(error.with_field(format!("{text_field}[{index}]")));
                }
            }
        }
        if let Some(error) = Error::of_items(errors) {
            return Err(error);
        }
        let tokens: Arc<[Tokens]> = tokens.into();
        let (rows, columns) = match pairing {
            Pairing::All => (images.len(), tokens.len()),
            Pairing::Zip => (images.len(), 1),
        };
        let each = images.into_iter().enumerate().map(|(index, image)| {
            let tokens = Arc::clone(&tokens);
            async move {
                let texts = match pairing {
                    Pairing::All => &tokens[..],
                    Pairing::Zip => &tokens[index..=index],
                };
                let logits = self.match_image(model, (image, texts), options, context).await;
                logits.map_err(|error| error.with_field(format!("{image_field}[{index}]")))
            }
        });
        let logits: Vec<Vec<f32>> =
            stream::iter(each).buffered(IMAGES_AT_ONCE).try_collect().await?;
        Ok((Matrix { rows, dim: columns, data: logits.concat() }, usage))
    }

    /// The logits of one image with texts.
    async fn match_image(
        &self,
        model: &Model,
        (image, texts): (ImageInput, &[Tokens]),
        options: ItemOptions,
        context: &Context,
    ) -> Result<Vec<f32>, Error> {
        let image = self.image_states(model, image, options, context).await?;
        let chunks: Vec<Arc<[Tokens]>> = texts.chunks(TEXTS_OF_ROW).map(Arc::from).collect();
        let rows = chunks.into_iter().map(|texts| {
            let row = MatchRow { image: image.clone(), texts: Arc::clone(&texts) };
            async move {
                let answer = model.handle.read(ReaderRow::Match(row), context.submit()).await;
                let logits = self.take_answer(context, answer)?;
                if logits.dim() != texts.len() {
                    let message = format!("{} logits of {} texts", logits.dim(), texts.len());
                    return Err(Error::internal(message));
                }
                Ok(logits)
            }
        });
        let rows: Vec<Embedding> =
            stream::iter(rows).buffered(texts.len().max(1)).try_collect().await?;
        Ok(rows.iter().flat_map(|row| row.as_slice().iter().copied()).collect())
    }

    /// The states that a reader reads of an image: the vision tower's last hidden state, `[tokens, width]`.
    pub(super) async fn image_states(
        &self,
        model: &Model,
        image: ImageInput,
        options: ItemOptions,
        context: &Context,
    ) -> Result<Embedding, Error> {
        let submit = Submit { tap: Tap::LastHiddenState, ..context.submit() };
        let row = self.pixels(model, image, options.size(), context).await?;
        let answer = model.handle.embed_shared(row, submit).await;
        self.take_answer(context, answer)
    }
}
