//! Texts and images to embeddings.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};

use super::{Context, Engine, Input, item::ItemOptions, until_deadline};
use crate::{
    embedding::Embedding,
    error::{Code, Error},
    registry::Model,
};

/// Items to embed, in the order of the answer.
#[derive(Debug, Clone)]
pub struct EmbedRequest {
    /// The model's name; the default model where none is given.
    pub model: Option<String>,
    /// Texts and images, mixed at will.
    pub inputs: Vec<Input>,
    /// Keep only the first values of each embedding (then normalise).
    pub dimensions: Option<usize>,
    /// Whether rows are scaled to length 1.
    pub normalize: bool,
    /// Whether a text that is too long is cut; otherwise it is refused.
    pub truncate: bool,
    /// Most patches of each image, where the model reads images in variable resolution; as many as the
    /// model takes by itself where it is not set.
    pub max_num_patches: Option<u32>,
    /// Whether an image may have several vectors, of a model that gives several.
    pub multi_vector: bool,
}

impl Default for EmbedRequest {
    fn default() -> Self {
        Self {
            model: None,
            inputs: Vec::new(),
            dimensions: None,
            normalize: true,
            truncate: true,
            max_num_patches: None,
            multi_vector: false,
        }
    }
}

/// What a request consumed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Token ids of all texts, end tokens counted, padding not.
    pub text_tokens: usize,
    /// Images.
    pub images: usize,
    /// Texts that were longer than the model reads, and were cut.
    pub truncated_texts: usize,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.text_tokens += other.text_tokens;
        self.images += other.images;
        self.truncated_texts += other.truncated_texts;
    }
}

/// The answer to an [`EmbedRequest`].
#[derive(Debug, Clone)]
pub struct Embedded {
    /// The name of the model that answered.
    pub model: Arc<str>,
    /// One row an item, in the order of the request.
    pub embeddings: Vec<Embedding>,
    /// Values of one vector.
    pub dimensions: usize,
    /// The places of items whose row is several concatenated vectors, in order.
    pub several: Vec<usize>,
    /// What it consumed.
    pub usage: Usage,
    /// The places of texts that were cut, in order.
    pub truncated: Vec<usize>,
}

/// The answer to an [`EmbedRequest`] whose items fail one by one.
#[derive(Debug, Clone)]
pub struct EmbeddedItems {
    /// The name of the model that answered.
    pub model: Arc<str>,
    /// One row or error an item, in the order of the request.
    pub items: Vec<Result<Embedding, Error>>,
    /// Values of one vector.
    pub dimensions: usize,
    /// The places of items whose row is several concatenated vectors, in order.
    pub several: Vec<usize>,
    /// What the items that succeeded consumed.
    pub usage: Usage,
    /// The places of texts that were cut, in order.
    pub truncated: Vec<usize>,
}

impl From<Embedded> for EmbeddedItems {
    fn from(embedded: Embedded) -> Self {
        let Embedded { model, embeddings, dimensions, several, usage, truncated } = embedded;
        let items = embeddings.into_iter().map(Ok).collect();
        Self { model, items, dimensions, several, usage, truncated }
    }
}

/// Items of one request, with the name of the field that they came in.
pub(super) struct Batch {
    pub(super) field: &'static str,
    pub(super) inputs: Vec<Input>,
    /// How many inputs in a row the caller knows by one index: the prompts of one label.
    pub(super) inputs_per_name: usize,
}

impl Batch {
    /// Inputs that the caller knows one by one.
    pub(super) fn new(field: &'static str, inputs: Vec<Input>) -> Self {
        Self { field, inputs, inputs_per_name: 1 }
    }

    /// Bytes held for the items.
    pub(super) fn held_bytes(&self) -> usize {
        self.inputs.iter().map(Input::held_bytes).sum()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.inputs.len(), self.field)
    }
}

/// How long one request may read its texts before the thread serves others: a thousand texts take tens of milliseconds.
const SLICE: Duration = Duration::from_micros(200);
/// Rows with more values than this are shaped on a thread of their own: on an async thread that would hold others up.
const INLINE_VALUES: usize = 64 << 10;
/// The longest form of one value of a response: a number in JSON, with its comma.
const VALUE_BYTES: usize = 16;

impl Engine {
    /// Embeds every item of a request.
    ///
    /// # Errors
    /// The first item's error with its index as the field (`input[3]`), all failed items listed in
    /// [`Error::items`]; or a limit's error before any work.
    pub async fn embed(&self, request: EmbedRequest, context: &Context) -> Result<Embedded, Error> {
        let EmbeddedItems { model, items, dimensions, several, usage, truncated } =
            self.embed_items(request, context).await?;
        let embeddings = all_or_errors(items)?;
        Ok(Embedded { model, embeddings, dimensions, several, usage, truncated })
    }

    /// Embeds every item of a request that can be embedded; each of the others has its own error.
    ///
    /// # Errors
    /// A limit's error before any work; the deadline's; and where no item got an answer because the server
    /// could give none (it is full, draining, or its device failed), that error: then a retry of the whole
    /// is what helps.
    pub async fn embed_items(
        &self,
        request: EmbedRequest,
        context: &Context,
    ) -> Result<EmbeddedItems, Error> {
        let model = self.registry.get(request.model.as_deref())?;
        self.check_count("input", request.inputs.len(), self.limits.items())?;
        let dimensions = checked_dimensions(request.dimensions, model.card.embedding_dim)?;
        let mut options = self.item_options(model, request.truncate, request.max_num_patches)?;
        let mut vectors = request.inputs.len();
        let mut several = Vec::new();
        if request.multi_vector {
            let Some(queries) = model.card.queries else {
                let message = "the model gives one vector for an item";
                return Err(Error::invalid("multi_vector", message));
            };
            options = options.with_several_vectors();
            let places = request.inputs.iter().enumerate();
            let images = places.filter(|(_, input)| matches!(input, Input::Image(_)));
            several.extend(images.map(|(place, _)| place));
            vectors += several.len().saturating_mul(queries.count);
        }
        let batch = Batch::new("input", request.inputs);
        self.admit((model, context), batch.inputs.len(), batch.held_bytes())?;
        let response = vectors.saturating_mul(dimensions).saturating_mul(VALUE_BYTES);
        self.admit_response((model, context), response)?;
        let work = self.answers(model, batch, options, context);
        let answers = until_deadline(context, async { Ok(work.await) }).await?;
        let shape =
            Shape { whole: model.card.embedding_dim, dimensions, normalize: request.normalize };
        let shape = move || shape.of_all(answers);
        let (items, usage, truncated) = if vectors * model.card.embedding_dim <= INLINE_VALUES {
            shape()
        } else {
            tokio::task::spawn_blocking(shape).await.map_err(Error::internal)?
        };
        if let Some(error) = unavailable(&items) {
            return Err(error);
        }
        let model = model.name.as_str().into();
        Ok(EmbeddedItems { model, items, dimensions, several, usage, truncated })
    }

    /// Embeds admitted items side by side, in order. The rows are not normalised.
    pub(super) async fn embed_batch(
        &self,
        model: &Model,
        batch: Batch,
        options: ItemOptions,
        context: &Context,
    ) -> Result<(Vec<Embedding>, Usage), Error> {
        let answers = self.answers(model, batch, options, context).await;
        let mut usage = Usage::default();
        let rows = answers.into_iter().map(|answer| {
            answer.map(|(row, used)| {
                usage += used;
                row
            })
        });
        let rows = all_or_errors(rows.collect())?;
        Ok((rows, usage))
    }

    /// Embeds admitted items side by side, in order, each with its own outcome.
    async fn answers(
        &self,
        model: &Model,
        batch: Batch,
        options: ItemOptions,
        context: &Context,
    ) -> Vec<Answer> {
        let Batch { field, inputs, inputs_per_name } = batch;
        let count = inputs.len();
        let mut worked = Duration::ZERO;
        let begun = inputs.into_iter().map(|input| {
            let started = Instant::now();
            let item = self.begin_item(model, input, options, context);
            worked += started.elapsed();
            let is_slice_over = worked >= SLICE;
            if is_slice_over {
                worked = Duration::ZERO;
            }
            (is_slice_over, item)
        });
        let items = stream::iter(begun).then(|(is_slice_over, item)| async move {
            if is_slice_over {
                tokio::task::yield_now().await;
            }
            item
        });
        let answers = items.enumerate().map(|(index, item)| async move {
            let answer = self.end_item(model, item, options, context).await;
            let index = index / inputs_per_name;
            answer.map_err(|error| error.with_field(format!("{field}[{index}]")))
        });
        // All at once: admission has bounded how many there are, and a full batch needs them together.
        answers.buffered(count.max(1)).collect().await
    }
}

/// The outcome of one item, as the tower gives it.
type Answer = Result<(Embedding, Usage), Error>;

/// How the rows of a request are to look.
struct Shape {
    /// Values of a vector as the tower gives it.
    whole: usize,
    dimensions: usize,
    normalize: bool,
}

impl Shape {
    /// The items of a response, what they consumed, and the places of texts that were cut.
    fn of_all(&self, answers: Vec<Answer>) -> (Vec<Result<Embedding, Error>>, Usage, Vec<usize>) {
        let mut usage = Usage::default();
        let mut truncated = Vec::new();
        let items = answers.into_iter().enumerate().map(|(place, answer)| {
            let (row, used) = answer?;
            if used.truncated_texts > 0 {
                truncated.push(place);
            }
            usage += used;
            Ok(self.of(&row))
        });
        let items = items.collect();
        (items, usage, truncated)
    }

    fn of(&self, row: &Embedding) -> Embedding {
        if row.dim() == self.whole {
            return shaped(row, self.dimensions, self.normalize);
        }
        let vectors = row.as_slice().chunks_exact(self.whole);
        let values = vectors.flat_map(|vector| {
            let vector = shaped(&Embedding::new(vector), self.dimensions, self.normalize);
            vector.as_slice().to_vec()
        });
        Embedding::new(values.collect::<Vec<f32>>())
    }
}

/// A row as it was asked for: cut first, then scaled.
pub(super) fn shaped(row: &Embedding, dimensions: usize, normalize: bool) -> Embedding {
    let row = row.truncated(dimensions);
    if normalize { row.normalized() } else { row }
}

/// Every row, or else every error folded into one.
fn all_or_errors(items: Vec<Result<Embedding, Error>>) -> Result<Vec<Embedding>, Error> {
    let mut rows = Vec::with_capacity(items.len());
    let mut errors = Vec::new();
    for item in items {
        match item {
            Ok(row) => rows.push(row),
            Err(error) => errors.push(error),
        }
    }
    Error::of_items(errors).map_or(Ok(rows), Err)
}

/// The error of the whole, where every item failed and none because of itself.
fn unavailable(items: &[Result<Embedding, Error>]) -> Option<Error> {
    let mut errors = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Err(error) if error.code().spec().retryable => errors.push(error.clone()),
            _ => return None,
        }
    }
    Error::of_items(errors)
}

/// How many values of each embedding to keep.
pub(super) fn checked_dimensions(asked: Option<usize>, dim: usize) -> Result<usize, Error> {
    match asked {
        None => Ok(dim),
        Some(asked) if (1..=dim).contains(&asked) => Ok(asked),
        Some(asked) => Err(Error::new(
            Code::InvalidRequest,
            format!("{asked} is out of range: the model's embeddings have {dim} values"),
        )
        .with_field("dimensions")),
    }
}
