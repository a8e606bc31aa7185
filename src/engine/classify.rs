//! Zero-shot classification, by the model's rule: SigLIP judges each label on its own, CLIP all labels together.

use std::sync::Arc;

use rayon::prelude::*;

use super::{
    Context, Engine, ImageSide, Input, Matrix, Pairing, ScoreKind, Scored, Usage,
    embed::Batch,
    input::check_plain,
    item::{self, ItemOptions},
    matching::Sides,
    score::Vectors,
    similarity::{Rows, Side},
    until_deadline,
};
use crate::{
    config::{Limit, MatchingToken},
    embedding::{Embedding, normalize},
    error::{Code, Error},
    model::Scorer,
    registry::Model,
};

/// Images and the labels to judge them by.
#[derive(Debug, Clone)]
pub struct ClassifyRequest {
    /// The model's name; the default model where none is given.
    pub model: Option<String>,
    /// What is classified.
    pub images: ImageSide,
    /// The labels.
    pub labels: Vec<String>,
    /// Prompt templates, each with a `{label}` (or `{}`); several are averaged as normalised embeddings.
    /// [`DEFAULT_TEMPLATE`] where none is given.
    pub templates: Vec<String>,
    /// Keep only the best labels of each image.
    pub top_k: Option<usize>,
    /// Keep only labels whose probability is at least this, from 0 to 1.
    pub min_probability: Option<f32>,
    /// As in [`super::EmbedRequest`].
    pub max_num_patches: Option<u32>,
    /// As in [`super::SimilarityRequest`].
    pub matching_token: Option<MatchingToken>,
}

/// A label's score for one image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LabelScore {
    /// Index into the request's labels.
    pub label: usize,
    /// As [`ScoreKind::Probability`].
    pub probability: f32,
    /// As [`ScoreKind::Logit`].
    pub logit: f32,
}

/// The answer to a [`ClassifyRequest`].
#[derive(Debug, Clone)]
pub struct Classified {
    /// The name of the model that answered.
    pub model: Arc<str>,
    /// How the model scores.
    pub scorer: Scorer,
    /// For each image its labels, best first.
    pub images: Vec<Vec<LabelScore>>,
    /// What it consumed.
    pub usage: Usage,
}

/// What a label's score takes in a response beside the label, in JSON: three numbers, and their names.
const SCORE_BYTES: usize = 128;

/// HF's default prompt for zero-shot image classification.
pub const DEFAULT_TEMPLATE: &str = "This is a photo of {label}.";

impl Engine {
    /// Scores every label for every image.
    ///
    /// # Errors
    /// The first failed item's error, its field named as in the request (`labels[2]`); or a limit's
    /// error before any work.
    pub async fn classify(
        &self,
        request: ClassifyRequest,
        context: &Context,
    ) -> Result<Classified, Error> {
        let model = self.registry.get(request.model.as_deref())?;
        let scorer = model.card.scorer.ok_or_else(|| item::no_text_tower(model))?;
        let images = Side::from(request.images);
        self.check_size(&images)?;
        let limit = Limit::count(self.limits.max_labels, "limits.max_labels");
        self.check_count("labels", request.labels.len(), limit)?;
        let options = self.item_options(model, true, request.max_num_patches)?;
        let options = options.with_matching_token(model, request.matching_token)?;
        let prompts =
            Prompts::new(&request.labels, &request.templates, self.limits.max_text_bytes)?;
        // A matching head reads each prompt together with each image.
        let passes = match scorer {
            Scorer::Matching => images.rows().saturating_mul(prompts.count()),
            Scorer::Sigmoid { .. } | Scorer::Softmax { .. } => 0,
        };
        // Before they are written: a few labels in many templates are more than the request itself.
        let permit = self.admit(
            (model, context),
            images.items().saturating_add(prompts.count()).saturating_add(passes),
            images.held_bytes().saturating_add(prompts.bytes()),
        )?;
        let keep = Keep::new(request.top_k, request.min_probability)?;
        let labels = request.top_k.unwrap_or(usize::MAX).min(request.labels.len());
        let longest = request.labels.iter().map(String::len).max().unwrap_or_default();
        // A label may be written twice as long as it is: quotes and line breaks are escaped.
        let each = longest.saturating_mul(2).saturating_add(SCORE_BYTES);
        let response = images.rows().saturating_mul(labels).saturating_mul(each);
        self.admit_response((model, context), response)?;
        let batch = prompts.written();
        if scorer == Scorer::Matching {
            let (Side::Items(images), templates) = (images, prompts.templates.len()) else {
                let message = "the model judges pairs by a head that reads images: send those";
                return Err(Error::invalid("image_embeddings", message));
            };
            let work = self.classify_by_head(model, (images, batch), (templates, options), context);
            let (logits, usage) = until_deadline(context, work).await?;
            let name: Arc<str> = model.name.as_str().into();
            let about = (Arc::clone(&name), usage, scorer);
            let shape = [logits.rows, logits.dim];
            self.metrics.pairs.inc_by((shape[0] * shape[1]) as u64);
            let scored = Scored::new(about, shape, None, Some(logits), &self.scores);
            let scored = scored.holding(permit);
            let images = scored.ranked(keep).await?;
            return Ok(Classified { model: name, scorer, images, usage });
        }
        let shape = [images.rows(), request.labels.len()];
        let work = async {
            let images = self.checked(model, images).await?;
            tokio::try_join!(
                self.embed_side(model, images, options, context),
                self.embed_batch(model, batch, options, context),
            )
        };
        let ((images, mut usage), (rows, texts_usage)) = until_deadline(context, work).await?;
        usage += texts_usage;
        self.metrics.pairs.inc_by((shape[0] * shape[1]) as u64);
        let (templates, dim) = (prompts.templates.len(), model.card.embedding_dim);
        let ready = move || {
            let labels = averaged(rows, templates, dim);
            Vectors::new((Pairing::All, 1), (images.matrix(dim), labels))
        };
        let vectors = self.scores.run(ready).await.map_err(Error::internal)?;
        let name: Arc<str> = model.name.as_str().into();
        let about = (Arc::clone(&name), usage, scorer);
        let scored = Scored::new(about, shape, Some(vectors), None, &self.scores);
        let images = scored.holding(permit).ranked(keep).await?;
        Ok(Classified { model: name, scorer, images, usage })
    }
}

impl Engine {
    /// The logits of each image with each label, by a matching head. A label's probability is the mean over the
    /// templates, and its logit is that probability's.
    async fn classify_by_head(
        &self,
        model: &Model,
        (images, prompts): (Batch, Batch),
        (templates, options): (usize, ItemOptions),
        context: &Context,
    ) -> Result<(Matrix, Usage), Error> {
        let image = |input| if let Input::Image(image) = input { Some(image) } else { None };
        let sides = Sides {
            images: (images.field, images.inputs.into_iter().filter_map(image).collect()),
            texts: (prompts.field, prompts.inputs),
            texts_per_name: prompts.inputs_per_name,
        };
        let (matched, usage) = self.matched(model, sides, (Pairing::All, options), context).await?;
        if templates == 1 {
            return Ok((matched, usage));
        }
        let sigmoid = |logit: &f32| 1.0 / (1.0 + (-f64::from(*logit)).exp());
        let mean = |logits: &[f32]| {
            let probability = logits.iter().map(sigmoid).sum::<f64>() / templates as f64;
            (probability / (1.0 - probability)).ln().clamp(-1e4, 1e4) as f32
        };
        let data = matched.data.chunks_exact(templates).map(mean).collect();
        Ok((Matrix { rows: matched.rows, dim: matched.dim / templates, data }, usage))
    }
}

/// Which labels of an image are in the response.
#[derive(Debug, Clone, Copy)]
struct Keep {
    best: usize,
    min_probability: f32,
}

impl Keep {
    fn new(top_k: Option<usize>, min_probability: Option<f32>) -> Result<Self, Error> {
        let min_probability = min_probability.map(checked_probability).transpose()?;
        Ok(Self {
            best: top_k.unwrap_or(usize::MAX),
            min_probability: min_probability.unwrap_or_default(),
        })
    }
}

impl Keep {
    /// The labels of one image that are kept, best first.
    ///
    /// * `logits`: one for each label
    fn of(self, logits: &[f32], scorer: Scorer) -> Vec<LabelScore> {
        let mut probabilities = logits.to_vec();
        scorer.probabilities(&mut probabilities);
        let pairs = logits.iter().zip(probabilities).enumerate();
        let score = |(label, (&logit, probability))| LabelScore { label, probability, logit };
        let mut labels: Vec<_> = pairs.map(score).collect();
        // By logit, not by probability: far labels all round to the same probability.
        labels.sort_by(|a, b| b.logit.total_cmp(&a.logit));
        labels.retain(|label| label.probability >= self.min_probability);
        labels.truncate(self.best);
        labels
    }
}

/// A `min_probability` as a request gave it.
pub(super) fn checked_probability(given: f32) -> Result<f32, Error> {
    if (0.0..=1.0).contains(&given) {
        return Ok(given);
    }
    Err(Error::invalid("min_probability", "must be a number from 0 to 1"))
}

impl Scored {
    /// For each image the labels that are kept, best first.
    async fn ranked(self, keep: Keep) -> Result<Vec<Vec<LabelScore>>, Error> {
        let mut ranked = Vec::with_capacity(self.rows());
        for range in self.chunks() {
            let sorted = move |scored: &Self| {
                let logits = scored.compute(ScoreKind::Logit, range)?;
                let labels = |row| keep.of(logits.row(row), scored.scorer());
                Ok((0..logits.rows).into_par_iter().map(labels).collect::<Vec<_>>())
            };
            ranked.extend(self.on_pool(sorted).await?);
        }
        Ok(ranked)
    }
}

/// Every label in every template, label by label.
#[derive(Debug)]
struct Prompts<'r> {
    labels: &'r [String],
    templates: Vec<Template<'r>>,
}

/// A prompt but for its label.
#[derive(Debug, Clone, Copy)]
struct Template<'r> {
    text: &'r str,
    /// Where the label goes.
    slot: &'static str,
    slots: usize,
}

impl<'r> Template<'r> {
    /// None without a place for the label.
    fn new(text: &'r str) -> Option<Self> {
        // One kind of slot is filled, so that a label which holds the other stays as it is.
        let slot = ["{label}", "{}"].into_iter().find(|slot| text.contains(slot))?;
        Some(Self { text, slot, slots: text.matches(slot).count() })
    }

    /// Bytes without any label.
    fn own_bytes(&self) -> usize {
        self.text.len() - self.slots * self.slot.len()
    }
}

impl<'r> Prompts<'r> {
    fn new(labels: &'r [String], templates: &'r [String], max_bytes: usize) -> Result<Self, Error> {
        let given = templates.iter().enumerate().map(|(index, text)| {
            Template::new(text).ok_or_else(|| {
                let message = "a template needs `{label}` where the label goes";
                Error::invalid(format!("templates[{index}]"), message)
            })
        });
        let mut templates = given.collect::<Result<Vec<_>, _>>()?;
        if templates.is_empty() {
            templates.extend(Template::new(DEFAULT_TEMPLATE));
        }
        for (index, label) in labels.iter().enumerate() {
            check_plain(label).map_err(|error| error.with_field(format!("labels[{index}]")))?;
        }
        let longest = labels.iter().enumerate().max_by_key(|(_, label)| label.len());
        if let Some((index, label)) = longest {
            let filled = |template: &Template<'_>| {
                template.own_bytes().saturating_add(template.slots.saturating_mul(label.len()))
            };
            let bytes = templates.iter().map(filled).max().unwrap_or_default();
            if bytes > max_bytes {
                let limit = Limit::bytes(max_bytes, "limits.max_text_bytes");
                let message =
                    format!("its prompt has {bytes} bytes, more than the limit of {limit}");
                let error = Error::new(Code::TextTooLarge, message);
                return Err(error.with_field(format!("labels[{index}]")));
            }
        }
        Ok(Self { labels, templates })
    }

    fn count(&self) -> usize {
        self.labels.len().saturating_mul(self.templates.len())
    }

    /// Bytes of all prompts, none of which is longer than a text may be.
    fn bytes(&self) -> usize {
        let sum = |each: fn(&Template<'r>) -> usize| self.templates.iter().map(each).sum::<usize>();
        let labels: usize = self.labels.iter().map(String::len).sum();
        let own = sum(Template::own_bytes).saturating_mul(self.labels.len());
        own.saturating_add(sum(|template| template.slots).saturating_mul(labels))
    }

    fn written(&self) -> Batch {
        let fill = |label: &'r String| {
            self.templates
                .iter()
                .map(move |template| Input::Text(template.text.replace(template.slot, label)))
        };
        let inputs = self.labels.iter().flat_map(fill).collect();
        Batch { field: "labels", inputs, inputs_per_name: self.templates.len() }
    }
}

/// The mean of each label's normalised prompt embeddings: `[labels, dim]`.
fn averaged(rows: Vec<Embedding>, templates: usize, dim: usize) -> Matrix {
    if templates == 1 {
        return Rows::Embedded(rows).matrix(dim);
    }
    let mut data = Vec::with_capacity(rows.len() / templates * dim);
    for group in rows.chunks_exact(templates) {
        let mut mean = vec![0.0_f32; dim];
        for row in group {
            for (sum, value) in mean.iter_mut().zip(row.normalized().as_slice()) {
                *sum += value;
            }
        }
        normalize(&mut mean);
        data.extend(mean);
    }
    Matrix { rows: rows.len() / templates, dim, data }
}
