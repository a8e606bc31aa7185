//! Scores of a query against documents, of whatever kind each is.

use std::{cmp::Ordering, sync::Arc};

use super::{
    Context, Engine, Input, Pairing, Usage, classify::checked_probability, embed::Batch, item,
    matching::Sides, until_deadline,
};
use crate::{config::MatchingToken, embedding::Embedding, error::Error, model::Scorer};

/// Items of one side, with the name of the field that they came in.
#[derive(Debug, Clone)]
pub struct Side {
    /// Names the items in errors: `documents[3]`; a single query goes by the name alone.
    pub field: &'static str,
    /// Texts and images.
    pub inputs: Vec<Input>,
}

/// Queries and documents: one query for all documents, or one for each.
#[derive(Debug, Clone)]
pub struct RankRequest {
    /// The model's name; the default model where none is given.
    pub model: Option<String>,
    /// One, or as many as there are documents.
    pub queries: Side,
    /// What is scored.
    pub documents: Side,
    /// Whether a text that is too long is cut; otherwise it is refused.
    pub truncate: bool,
    /// How many documents of one query a matching head judges, of a model with one: those with the largest cosines. The
    /// others follow in the order of their cosines. All where it is not set, none at 0.
    pub rerank_top_k: Option<usize>,
    /// As in [`super::SimilarityRequest`].
    pub matching_token: Option<MatchingToken>,
}

/// How many documents a matching head judges where a rerank does not say: as many as BLIP's authors did on Flickr.
pub const RERANK_TOP_K: usize = 128;

/// How well a document fits a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// Index into the request's documents.
    pub document: usize,
    /// Cosine of the angle between the embeddings, in `[-1, 1]`.
    pub cosine: f32,
    /// The logit of an image and a text. None for two texts or two images: the model was not trained to judge those,
    /// so it has no scale for them.
    pub logit: Option<f32>,
    /// The probability that an image and a text belong together. None where there is no logit, and where the model
    /// judges no pair on its own: CLIP.
    pub probability: Option<f32>,
}

/// The answer to a [`RankRequest`].
#[derive(Debug, Clone)]
pub struct Ranked {
    /// The name of the model that answered.
    pub model: Arc<str>,
    /// What it consumed.
    pub usage: Usage,
    /// One a document, in the order of the request.
    pub pairs: Vec<Pair>,
    /// Documents that the matching head did not judge, in order: what they have for a logit puts them behind the others,
    /// and is no judgement.
    unjudged: Vec<usize>,
}

impl Pair {
    /// A score in `[0, 1]`: the probability of the pair; where there is none, `(1 + cosine) / 2`, which orders pairs
    /// but is no probability.
    #[must_use]
    pub fn score(&self) -> f32 {
        self.probability.unwrap_or_else(|| self.cosine.midpoint(1.0))
    }

    /// The score before it is mapped to `[0, 1]`: the logit, or the cosine where there is none.
    #[must_use]
    pub fn raw_score(&self) -> f32 {
        self.logit.unwrap_or(self.cosine)
    }

    /// Best first. By the raw score: probabilities far from 0.5 round to the same number.
    #[must_use]
    pub fn best_first(&self, other: &Self) -> Ordering {
        other.raw_score().total_cmp(&self.raw_score())
    }
}

impl Ranked {
    /// Keeps the pairs whose probability is at least `min_probability` (0 to 1). Pairs that the matching head did not judge
    /// are left out too.
    ///
    /// # Errors
    /// [`crate::error::Code::InvalidRequest`] for another number, and where a pair has no probability.
    pub fn at_least(mut self, min_probability: Option<f32>) -> Result<Self, Error> {
        let Some(least) = min_probability.map(checked_probability).transpose()? else {
            return Ok(self);
        };
        if let Some(pair) = self.pairs.iter().find(|pair| pair.probability.is_none()) {
            let message = format!(
                "documents[{}] has no probability to compare it with: a pair has one where it is an image and a text, \
                 and the model judges each pair on its own (`/info` has `scoring`)",
                pair.document
            );
            return Err(Error::invalid("min_probability", message));
        }
        let judged = |document| self.unjudged.binary_search(&document).is_err();
        let keep =
            |pair: &Pair| pair.probability.is_some_and(|it| it >= least) && judged(pair.document);
        self.pairs.retain(keep);
        Ok(self)
    }
}

impl Engine {
    /// Scores each document against its query.
    ///
    /// # Errors
    /// The first failed item's error, its field named as in the request; [`crate::error::Code::InvalidRequest`]
    /// for numbers of queries and documents that do not fit; or a limit's error before any work.
    pub async fn rank(&self, request: RankRequest, context: &Context) -> Result<Ranked, Error> {
        let RankRequest { model, queries, documents, truncate, rerank_top_k, matching_token } =
            request;
        let model = self.registry.get(model.as_deref())?;
        for side in [&queries, &documents] {
            self.check_count(side.field, side.inputs.len(), self.limits.items())?;
        }
        check_pairing(&queries, &documents)?;
        let options = self.item_options(model, truncate, None)?.with_several_vectors();
        let options = options.with_matching_token(model, matching_token)?;
        let kinds = [&queries, &documents].map(kinds);
        let name = (queries.inputs.len() == 1).then_some(queries.field);
        let [queries, documents] =
            [queries, documents].map(|side| Batch::new(side.field, side.inputs));
        let most = rerank_top_k.unwrap_or(usize::MAX);
        let head = |queries: &Batch, documents: &Batch| match model.card.scorer {
            Some(Scorer::Matching) if most > 0 => HeadPairs::of(&queries.inputs, &documents.inputs),
            _ => None,
        };
        let by_head = head(&queries, &documents);
        let passes = by_head.as_ref().map_or(0, |pairs| pairs.documents.len().min(most));
        self.admit(
            (model, context),
            queries.inputs.len() + documents.inputs.len() + passes,
            queries.held_bytes() + documents.held_bytes(),
        )?;
        let named = |error: Error| match name {
            Some(name) => error.map_field(|_| name.to_owned()),
            None => error,
        };
        let (queries, documents, head) = if by_head.is_some() {
            // The head and the vectors read the same images.
            let fetched = async {
                let queries = self.fetched_once(model, queries, context).await.map_err(named)?;
                Ok((queries, self.fetched_once(model, documents, context).await?))
            };
            let (queries, documents) = until_deadline(context, fetched).await?;
            let head = head(&queries, &documents);
            (queries, documents, head)
        } else {
            (queries, documents, None)
        };
        let queries =
            async { self.embed_batch(model, queries, options, context).await.map_err(named) };
        let documents = self.embed_batch(model, documents, options, context);
        let work = async { tokio::try_join!(queries, documents) };
        let ((queries, mut usage), (documents, used)) = until_deadline(context, work).await?;
        usage += used;
        let count = documents.len();
        self.metrics.pairs.inc_by(count as u64);
        let [query_is_image, document_is_image] = kinds;
        let is_one_image = query_is_image[..] == [true];
        let (scorer, dim) = (model.card.scorer, model.card.embedding_dim);
        let pair = move |document: usize| {
            let query = document % queries.len();
            let cosine = best_cosine(&queries[query], &documents[document], dim);
            let mut pair = Pair { document, cosine, logit: None, probability: None };
            if query_is_image[query] != document_is_image[document] {
                let scorer = scorer?;
                pair.logit = scorer.logit(cosine);
                pair.probability = pair.logit.and_then(|logit| scorer.pair_probability(logit));
            }
            Some(pair)
        };
        let all = move || (0..count).map(pair).collect::<Option<Vec<_>>>();
        let pairs = self.scores.run(all).await.map_err(Error::internal)?;
        let mut pairs = pairs.ok_or_else(|| item::no_text_tower(model))?;
        let mut unjudged = Vec::new();
        if let Some(head) = head {
            let (HeadPairs { documents, sides, pairing }, others) = head.best(&pairs, most);
            let work = self.matched(model, sides, (pairing, options), context);
            let (logits, _) = until_deadline(context, work).await?;
            let mut judge = |document: usize, logit: f32| {
                pairs[document].logit = Some(logit);
                pairs[document].probability = Scorer::Matching.pair_probability(logit);
                pairs[document].cosine
            };
            for (document, &logit) in documents.into_iter().zip(&logits.data) {
                judge(document, logit);
            }
            let least = logits.data.iter().copied().fold(f32::INFINITY, f32::min);
            for (document, cosine) in others {
                // Behind all that were judged, in their own order.
                judge(document, least - (1.0 - cosine));
                unjudged.push(document);
            }
        }
        if is_one_image && let Some(scorer @ Scorer::Softmax { .. }) = model.card.scorer {
            among_texts(scorer, &mut pairs);
        }
        unjudged.sort_unstable();
        Ok(Ranked { model: model.name.as_str().into(), usage, pairs, unjudged })
    }
}

/// The pairs of an image and a text, for a matching head.
struct HeadPairs {
    /// The document of each pair.
    documents: Vec<usize>,
    sides: Sides,
    pairing: Pairing,
}

impl HeadPairs {
    /// The pairs with the largest cosines, and the documents of the others with theirs.
    fn best(mut self, pairs: &[Pair], most: usize) -> (Self, Vec<(usize, f32)>) {
        let mut order: Vec<usize> = (0..self.documents.len()).collect();
        let cosine = |at: &usize| pairs[self.documents[*at]].cosine;
        order.sort_by(|a, b| cosine(b).total_cmp(&cosine(a)));
        let rest = order.split_off(most.min(order.len()));
        let others = rest.iter().map(|at| (self.documents[*at], cosine(at))).collect();
        order.sort_unstable();
        fn kept<T: Clone>(items: &[T], order: &[usize]) -> Vec<T> {
            order.iter().map(|&at| items[at].clone()).collect()
        }
        self.documents = kept(&self.documents, &order);
        self.sides.texts.1 = kept(&self.sides.texts.1, &order);
        if self.pairing == Pairing::Zip {
            self.sides.images.1 = kept(&self.sides.images.1, &order);
        }
        (self, others)
    }

    /// None where no query and its document are of different kinds.
    fn of(queries: &[Input], documents: &[Input]) -> Option<Self> {
        let mut pairs = Self {
            documents: Vec::new(),
            sides: Sides {
                images: ("documents", Vec::new()),
                texts: ("documents", Vec::new()),
                texts_per_name: 1,
            },
            pairing: Pairing::Zip,
        };
        for (index, document) in documents.iter().enumerate() {
            let (image, text) = match (&queries[index % queries.len()], document) {
                (Input::Image(image), text @ (Input::Text(_) | Input::TokenIds(_)))
                | (text @ (Input::Text(_) | Input::TokenIds(_)), Input::Image(image)) => {
                    (image, text)
                }
                _ => continue,
            };
            pairs.documents.push(index);
            pairs.sides.images.1.push(image.clone());
            pairs.sides.texts.1.push(text.clone());
        }
        if let [Input::Image(_)] = queries {
            // The image's states are computed once for all texts.
            pairs.sides.images.1.truncate(1);
            pairs.pairing = Pairing::All;
        }
        (!pairs.documents.is_empty()).then_some(pairs)
    }
}

/// One image against several texts is what a softmax is over: the probabilities of its texts sum to 1.
fn among_texts(scorer: Scorer, pairs: &mut [Pair]) {
    let mut logits: Vec<f32> = pairs.iter().filter_map(|pair| pair.logit).collect();
    // Alone, a text would have the probability 1 whatever it says.
    if logits.len() < 2 || logits.len() < pairs.len() {
        return;
    }
    scorer.probabilities(&mut logits);
    for (pair, probability) in pairs.iter_mut().zip(logits) {
        pair.probability = Some(probability);
    }
}

/// Whether each item is an image.
fn kinds(side: &Side) -> Vec<bool> {
    side.inputs.iter().map(|input| matches!(input, Input::Image(_))).collect()
}

fn check_pairing(queries: &Side, documents: &Side) -> Result<(), Error> {
    let (given, needed) = (queries.inputs.len(), documents.inputs.len());
    if given == 1 || given == needed {
        return Ok(());
    }
    let message = format!("{given} queries for {needed} documents: give one, or one for each");
    Err(Error::invalid(queries.field, message))
}

/// The largest cosine over the vectors of both rows.
fn best_cosine(a: &Embedding, b: &Embedding, dim: usize) -> f32 {
    let vectors = |row: &Embedding| -> Vec<Embedding> {
        row.as_slice().chunks_exact(dim.max(1)).map(Embedding::new).collect()
    };
    if a.dim() == b.dim() && a.dim() == dim {
        return cosine(a, b);
    }
    let (a, b) = (vectors(a), vectors(b));
    let pairs = a.iter().flat_map(|a| b.iter().map(move |b| cosine(a, b)));
    pairs.fold(-1.0, f32::max)
}

/// The cosine of two rows, accumulated in f64; 0 where one of them has no direction.
fn cosine(a: &Embedding, b: &Embedding) -> f32 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let (a, b) = (a.as_slice(), b.as_slice());
    let norm = (dot(a, a) * dot(b, b)).sqrt();
    // Rounding may push the cosine of equal directions past 1.
    if norm > 0.0 { (dot(a, b) / norm).clamp(-1.0, 1.0) as f32 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGMOID: Scorer = Scorer::Sigmoid { logit_scale: 0.0, logit_bias: 0.0 };
    const SOFTMAX: Scorer = Scorer::Softmax { logit_scale: 0.0 };

    fn pair(cosine: f32, logit: Option<f32>) -> Pair {
        let probability = logit.and_then(|logit| SIGMOID.pair_probability(logit));
        Pair { document: 0, cosine, logit, probability }
    }

    #[test]
    fn a_softmax_has_probabilities_among_texts_only() {
        let logits = |logits: &[f32]| -> Vec<Pair> {
            let pair = |&logit| Pair { probability: None, ..pair(0.5, Some(logit)) };
            logits.iter().map(pair).collect()
        };
        let mut several = logits(&[0.0, 0.0, -100.0]);
        among_texts(SOFTMAX, &mut several);
        let scores: Vec<f32> = several.iter().map(Pair::score).collect();
        assert_eq!(scores[..2], [0.5, 0.5]);
        let mut alone = logits(&[3.0]);
        among_texts(SOFTMAX, &mut alone);
        assert_eq!(alone[0].score(), 0.75);
    }

    #[test]
    fn only_a_picture_and_a_text_have_a_probability() {
        assert_eq!(pair(0.5, Some(0.0)).score(), 0.5);
        assert_eq!(pair(0.5, Some(3.0)).raw_score(), 3.0);
        assert_eq!(pair(0.5, None).score(), 0.75);
        assert_eq!(pair(0.5, None).raw_score(), 0.5);
    }

    #[test]
    fn the_order_survives_where_probabilities_round_to_the_same() {
        let mut pairs = [pair(0.1, Some(-300.0)), pair(0.2, Some(-200.0))];
        assert_eq!(pairs[0].score(), pairs[1].score());
        pairs.sort_by(Pair::best_first);
        assert_eq!(pairs[0].cosine, 0.2);
    }

    #[test]
    fn cosines_are_of_the_direction_alone() {
        let row = |values: [f32; 2]| Embedding::new(values.to_vec());
        assert_eq!(cosine(&row([2.0, 0.0]), &row([0.5, 0.0])), 1.0);
        assert_eq!(cosine(&row([2.0, 0.0]), &row([0.0, 3.0])), 0.0);
        assert_eq!(cosine(&row([0.0, 0.0]), &row([0.0, 3.0])), 0.0);
    }
}
