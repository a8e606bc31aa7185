//! Pair scores of images against texts, by the model's rule.

use super::{
    Context, Engine, ImageInput, Input, Matrix, Pairing, ScoreKind, Scored, Usage,
    embed::Batch,
    item::{self, ItemOptions},
    matching::Sides,
    score::Vectors,
    until_deadline,
};
use crate::{
    config::{Limit, MatchingToken},
    embedding::Embedding,
    error::Error,
    model::Scorer,
    registry::Model,
};

/// The image side of a comparison.
#[derive(Debug, Clone)]
pub enum ImageSide {
    /// Images, embedded first.
    Images(Vec<ImageInput>),
    /// Stored embeddings of images; normalised before scoring.
    Embeddings(Matrix),
}

/// The text side of a comparison.
#[derive(Debug, Clone)]
pub enum TextSide {
    /// Texts, embedded first.
    Texts(Vec<String>),
    /// Stored embeddings of texts; normalised before scoring.
    Embeddings(Matrix),
}

/// Images against texts.
#[derive(Debug, Clone)]
pub struct SimilarityRequest {
    /// The model's name; the default model where none is given.
    pub model: Option<String>,
    /// The rows of the answer.
    pub images: ImageSide,
    /// The columns of the answer.
    pub texts: TextSide,
    /// Whether a text that is too long is cut; otherwise it is refused.
    pub truncate: bool,
    /// As in [`super::EmbedRequest`].
    pub max_num_patches: Option<u32>,
    /// Which texts an image is paired with.
    pub pairing: Pairing,
    /// The scores that will be asked for; what none of them needs is not computed.
    pub kinds: Vec<ScoreKind>,
    /// The token before a text that a matching head reads; the model's own where it is not set.
    pub matching_token: Option<MatchingToken>,
}

/// One side of a comparison: items still to embed, or rows given as numbers.
#[derive(Debug)]
pub(super) enum Side {
    Items(Batch),
    Given { field: &'static str, rows: Matrix },
}

impl From<ImageSide> for Side {
    fn from(side: ImageSide) -> Self {
        match side {
            ImageSide::Images(images) => {
                Self::Items(Batch::new("images", images.into_iter().map(Input::Image).collect()))
            }
            ImageSide::Embeddings(rows) => Self::Given { field: IMAGE_EMBEDDINGS, rows },
        }
    }
}

impl From<TextSide> for Side {
    fn from(side: TextSide) -> Self {
        match side {
            TextSide::Texts(texts) => {
                Self::Items(Batch::new("texts", texts.into_iter().map(Input::plain).collect()))
            }
            TextSide::Embeddings(rows) => Self::Given { field: "text_embeddings", rows },
        }
    }
}

impl Side {
    /// Items to embed.
    pub(super) fn items(&self) -> usize {
        match self {
            Self::Items(batch) => batch.inputs.len(),
            Self::Given { .. } => 0,
        }
    }

    /// Rows of this side, whether they are embedded first or given.
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Items(batch) => batch.inputs.len() / batch.inputs_per_name.max(1),
            Self::Given { rows, .. } => rows.rows,
        }
    }

    /// Bytes held while the request is answered.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::Items(batch) => batch.held_bytes(),
            Self::Given { rows, .. } => rows.data.len() * size_of::<f32>(),
        }
    }
}

impl Engine {
    /// Embeds what is not embedded yet, and readies the pair scores.
    ///
    /// # Errors
    /// The first failed item's error, its field named as in the request (`images[2]`); or a limit's
    /// error before any work.
    pub async fn similarity(
        &self,
        request: SimilarityRequest,
        context: &Context,
    ) -> Result<Scored, Error> {
        let model = self.registry.get(request.model.as_deref())?;
        let scorer = model.card.scorer.ok_or_else(|| item::no_text_tower(model))?;
        let SimilarityRequest { pairing, kinds, .. } = &request;
        let (pairing, asks) = (*pairing, |kind| kinds.contains(&kind));
        let by_head =
            scorer == Scorer::Matching && (asks(ScoreKind::Logit) || asks(ScoreKind::Probability));
        let by_vectors = scorer != Scorer::Matching || asks(ScoreKind::Cosine);
        if pairing == Pairing::Zip
            && matches!(scorer, Scorer::Softmax { .. })
            && asks(ScoreKind::Probability)
        {
            let message = "a CLIP model judges no pair on its own: ask for `cosine` or `logit` beside \
                           `pairs` `zip`";
            return Err(Error::invalid("scores", message));
        }
        let (images, texts) = (Side::from(request.images), Side::from(request.texts));
        self.check_size(&images)?;
        self.check_size(&texts)?;
        if pairing == Pairing::Zip && images.rows() != texts.rows() {
            let message = format!(
                "`zip` pairs row by row, but there are {} images and {} texts",
                images.rows(),
                texts.rows()
            );
            return Err(Error::invalid("pairs", message));
        }
        let options = self.item_options(model, request.truncate, request.max_num_patches)?;
        let options = options.with_matching_token(model, request.matching_token)?;
        let options = options.with_several_vectors();
        let shape = match pairing {
            Pairing::All => [images.rows(), texts.rows()],
            Pairing::Zip => [images.rows(), 1],
        };
        // Each pair is a pass of the head over its text.
        let pairs = if by_head { shape[0].saturating_mul(shape[1]) } else { 0 };
        let permit = self.admit(
            (model, context),
            (images.items() + texts.items()).saturating_add(pairs),
            images.held_bytes() + texts.held_bytes(),
        )?;
        let work = async {
            let images = self.checked(model, images).await?;
            let texts = self.checked(model, texts).await?;
            let mut usage = Usage::default();
            let mut logits = None;
            let images = match images {
                // The head and the vectors read the same image.
                Side::Items(batch) if by_head && by_vectors => {
                    Side::Items(self.fetched_once(model, batch, context).await?)
                }
                images => images,
            };
            if by_head {
                let sides = sides(&images, &texts)?;
                let (matched, used) =
                    self.matched(model, sides, (pairing, options), context).await?;
                usage = used;
                logits = Some(matched);
            }
            let mut vectors = None;
            if by_vectors {
                let ((images, used), (texts, texts_used)) = tokio::try_join!(
                    self.embed_side(model, images, options, context),
                    self.embed_side(model, texts, options, context),
                )?;
                usage = used;
                usage += texts_used;
                let (each, dim) = (vectors_of(model), model.card.embedding_dim);
                let ready =
                    move || Vectors::new((pairing, each), (images.matrix(dim), texts.matrix(dim)));
                vectors = Some(self.scores.run(ready).await.map_err(Error::internal)?);
            }
            Ok((usage, vectors, logits))
        };
        let (usage, vectors, logits) = until_deadline(context, work).await?;
        self.metrics.pairs.inc_by((shape[0] * shape[1]) as u64);
        let about = (model.name.as_str().into(), usage, scorer);
        Ok(Scored::new(about, shape, vectors, logits, &self.scores).holding(permit))
    }

    /// Checks the number of a side's items or rows.
    pub(super) fn check_size(&self, side: &Side) -> Result<(), Error> {
        match side {
            Side::Items(batch) => {
                self.check_count(batch.field, batch.inputs.len(), self.limits.items())
            }
            Side::Given { field, rows } => {
                let limit = Limit::count(self.limits.max_embeddings, "limits.max_embeddings");
                self.check_count(field, rows.rows, limit)
            }
        }
    }

    /// Checks the width and the values of given rows, on the threads for scores.
    pub(super) async fn checked(&self, model: &Model, side: Side) -> Result<Side, Error> {
        let Side::Given { field, rows } = side else { return Ok(side) };
        let vectors = if field == IMAGE_EMBEDDINGS { vectors_of(model) } else { 1 };
        let dim = vectors * model.card.embedding_dim;
        let check = move || check_rows(field, &rows, dim).map(|()| Side::Given { field, rows });
        self.scores.run(check).await.map_err(Error::internal)?
    }

    /// The rows of a side, not normalised yet.
    pub(super) async fn embed_side(
        &self,
        model: &Model,
        side: Side,
        options: ItemOptions,
        context: &Context,
    ) -> Result<(Rows, Usage), Error> {
        match side {
            Side::Items(batch) => {
                let (rows, usage) = self.embed_batch(model, batch, options, context).await?;
                Ok((Rows::Embedded(rows), usage))
            }
            Side::Given { rows, .. } => Ok((Rows::Given(rows), Usage::default())),
        }
    }
}

/// The rows of a side.
#[derive(Debug)]
pub(super) enum Rows {
    Embedded(Vec<Embedding>),
    Given(Matrix),
}

impl Rows {
    /// The rows as a matrix. A row may be several concatenated vectors, which become rows of their own.
    ///
    /// * `dim`: values of a vector
    pub(super) fn matrix(self, dim: usize) -> Matrix {
        match self {
            Self::Embedded(rows) => stack(&rows, dim),
            Self::Given(Matrix { dim: row, data, .. }) => {
                let vector = dim.min(row).max(1);
                Matrix { rows: data.len() / vector, dim: vector, data }
            }
        }
    }
}

/// The items of both sides, for a matching head.
///
/// # Errors
/// Fails for stored embeddings, which the head cannot read.
fn sides(images: &Side, texts: &Side) -> Result<Sides, Error> {
    let (Side::Items(images), Side::Items(texts)) = (images, texts) else {
        let message = "the model judges pairs by a head that reads images and texts: send those, or ask \
                       for `cosine` alone of stored embeddings";
        return Err(Error::invalid("scores", message));
    };
    let image = |input: &Input| match input {
        Input::Image(image) => Some(image.clone()),
        _ => None,
    };
    let all: Option<Vec<_>> = images.inputs.iter().map(image).collect();
    let all = all.ok_or_else(|| Error::invalid(images.field, "images are expected"))?;
    Ok(Sides {
        images: (images.field, all),
        texts: (texts.field, texts.inputs.clone()),
        texts_per_name: texts.inputs_per_name,
    })
}

/// The name of stored embeddings of images.
const IMAGE_EMBEDDINGS: &str = "image_embeddings";

/// Vectors of one image.
fn vectors_of(model: &Model) -> usize {
    model.card.queries.map_or(1, |queries| queries.count)
}

/// The vectors as one matrix. A row may be several concatenated vectors.
fn stack(rows: &[Embedding], dim: usize) -> Matrix {
    let data: Vec<f32> = rows.iter().flat_map(|row| row.as_slice()).copied().collect();
    Matrix { rows: data.len() / dim.max(1), dim, data }
}

/// Given rows must have the model's width, and finite values that are not all zero: the direction of a
/// row of zeros is not defined, so no score of it would mean anything.
fn check_rows(field: &'static str, matrix: &Matrix, dim: usize) -> Result<(), Error> {
    if matrix.dim != dim {
        let message = format!("rows have {} values; the model's have {dim}", matrix.dim);
        return Err(Error::invalid(field, message));
    }
    for index in 0..matrix.rows {
        let row = matrix.row(index);
        let fault = if row.iter().any(|value| !value.is_finite()) {
            "holds a value that is not finite"
        } else if row.iter().all(|&value| value == 0.0) {
            "is all zeros, which has no direction"
        } else {
            continue;
        };
        return Err(Error::invalid(format!("{field}[{index}]"), fault));
    }
    Ok(())
}
