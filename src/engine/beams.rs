//! Beam search for captions, with the options and the results of transformers' `generate`.
//!
//! The beams of an image are rows of their own in the model's queue, as single captions are. They share the decoder's memory of the
//! image, and a beam that goes on in two ways shares its memory of the ids so far.

use std::{cmp::Ordering, sync::Arc};

use futures::future::try_join_all;

use super::{Context, Engine, ImageInput, captions::Caption};
use crate::{
    embedding::Embedding,
    error::Error,
    model::{BeginRow, MemorySlot, ReaderRow, StepRow, Writer},
    registry::Model,
};

/// The most beams of an image.
const MAX_BEAMS: usize = 8;

/// When a search ends before its captions have the most tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// `false` in transformers: as soon as no beam is likely to become better than the captions that have ended,
    /// judged at its present length.
    #[default]
    Likely,
    /// `true`: as soon as there are as many captions that have ended as beams.
    Full,
    /// `"never"`: as soon as no beam can become better.
    Never,
}

/// How many captions of an image are followed at once, and which of them is the best.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BeamOptions {
    /// 1 where it is not set: no search.
    pub num_beams: Option<usize>,
    /// The power of its number of new tokens by which a caption's log-probability is divided; 1 where it is not set.
    /// Above 0 it favours long captions.
    pub length_penalty: Option<f32>,
    /// When the search ends.
    pub early_stopping: Option<EarlyStopping>,
}

impl BeamOptions {
    /// The number of beams.
    #[must_use]
    pub fn width(&self) -> usize {
        self.num_beams.unwrap_or(1)
    }

    /// # Errors
    /// Names the option that is out of range, or that has no effect.
    pub(super) fn check(&self, is_greedy: bool) -> Result<(), Error> {
        let width = self.width();
        if !(1..=MAX_BEAMS).contains(&width) {
            return Err(Error::invalid("num_beams", format!("must be from 1 to {MAX_BEAMS}")));
        }
        if width > 1 && !is_greedy {
            let message = "a search takes the likeliest tokens: leave `temperature`, `top_p`, `top_k` and `seed` out";
            return Err(Error::invalid("num_beams", message));
        }
        let given = [
            ("length_penalty", self.length_penalty.is_some()),
            ("early_stopping", self.early_stopping.is_some()),
        ];
        if let Some((field, _)) = given.into_iter().find(|(_, is_given)| *is_given && width == 1) {
            return Err(Error::invalid(field, "has an effect only with `num_beams` above 1"));
        }
        if self.length_penalty.is_some_and(|power| !(-2.0..=10.0).contains(&power)) {
            return Err(Error::invalid("length_penalty", "must be from -2 to 10"));
        }
        Ok(())
    }

    /// Refuses a search whose tokens are asked for one by one.
    ///
    /// # Errors
    /// [`crate::error::Code::InvalidRequest`] for more than one beam.
    pub fn check_streamed(&self) -> Result<(), Error> {
        if self.width() == 1 {
            return Ok(());
        }
        let message =
            "a search over beams has no caption before its end: ask for it without streaming";
        Err(Error::invalid("num_beams", message))
    }
}

/// A caption so far, or one that has ended.
#[derive(Debug, Clone, PartialEq)]
struct Beam {
    ids: Vec<u32>,
    /// The sum of the tokens' log-probabilities; of a caption that has ended divided by the penalty.
    score: f32,
}

/// A way in which a beam can go on.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    score: f32,
    beam: usize,
    id: u32,
}

impl Candidate {
    /// The likeliest first, and of equal ones that of the first beam, with the smallest id.
    fn order(&self, other: &Self) -> Ordering {
        let ties = (self.beam, self.id).cmp(&(other.beam, other.id));
        other.score.total_cmp(&self.score).then(ties)
    }
}

/// The state of a search for the best caption of one image.
#[derive(Debug)]
pub(super) struct Search {
    width: usize,
    length_penalty: f64,
    early_stopping: EarlyStopping,
    repetition_penalty: Option<f32>,
    /// Ids at the beginning, which every caption has.
    begun: usize,
    /// The most ids of a caption.
    longest: usize,
    /// Ends a caption.
    end: u32,
    /// The likeliest first, all of one length.
    running: Vec<Beam>,
    /// The best first.
    ended: Vec<Beam>,
}

impl Search {
    /// * `count`: the most new tokens
    pub(super) fn new(
        options: BeamOptions,
        repetition_penalty: Option<f32>,
        (begun, count, end): (&[u32], usize, u32),
    ) -> Self {
        Self {
            width: options.width(),
            length_penalty: f64::from(options.length_penalty.unwrap_or(1.0)),
            early_stopping: options.early_stopping.unwrap_or_default(),
            repetition_penalty,
            begun: begun.len(),
            longest: begun.len() + count,
            end,
            running: vec![Beam { ids: begun.to_vec(), score: 0.0 }],
            ended: Vec::new(),
        }
    }

    /// Goes on by one token.
    ///
    /// * `logits`: of the next token of each running beam
    /// * returns for each beam that runs now which one it comes from; nothing at the end of the search
    fn advance(&mut self, logits: &[Embedding]) -> Vec<usize> {
        let mut candidates = Vec::with_capacity(2 * self.width * self.running.len());
        for (beam, (running, logits)) in self.running.iter().zip(logits).enumerate() {
            let mut scores = log_probabilities(logits.as_slice());
            if let Some(penalty) = self.repetition_penalty {
                super::captions::penalise(&mut scores, &running.ids, penalty);
            }
            let candidate = |(id, score)| Candidate { score: running.score + score, beam, id };
            candidates.extend(likeliest((0..).zip(scores).map(candidate), 2 * self.width));
        }
        // At most half of them end, so that the others are enough to go on with.
        let candidates = likeliest(candidates.into_iter(), 2 * self.width);
        let length = self.running.first().map_or(self.longest, |beam| beam.ids.len()) + 1;
        let (mut running, mut parents) = (Vec::new(), Vec::new());
        for (rank, candidate) in candidates.into_iter().enumerate() {
            let mut ids = self.running[candidate.beam].ids.clone();
            ids.push(candidate.id);
            if candidate.id != self.end && length < self.longest {
                if running.len() < self.width {
                    running.push(Beam { ids, score: candidate.score });
                    parents.push(candidate.beam);
                }
            } else if rank < self.width {
                self.ended.push(Beam { ids, score: candidate.score / self.penalty(length) });
            }
        }
        self.ended.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.ended.truncate(self.width);
        self.running = running;
        if self.is_over(length) {
            parents.clear();
        }
        parents
    }

    /// By what the log-probability of a caption of this many ids is divided.
    fn penalty(&self, length: usize) -> f32 {
        ((length - self.begun) as f64).powf(self.length_penalty) as f32
    }

    fn is_over(&self, length: usize) -> bool {
        let (Some(best), Some(worst)) = (self.running.first(), self.ended.last()) else {
            return self.running.is_empty();
        };
        if self.ended.len() < self.width {
            return false;
        }
        let length = match self.early_stopping {
            EarlyStopping::Full => return true,
            EarlyStopping::Never if self.length_penalty > 0.0 => self.longest,
            EarlyStopping::Never | EarlyStopping::Likely => length,
        };
        best.score / self.penalty(length) <= worst.score
    }

    /// The newest id of each running beam.
    fn newest(&self) -> impl Iterator<Item = u32> {
        self.running.iter().filter_map(|beam| beam.ids.last().copied())
    }

    /// The ids of the best caption.
    fn best(self) -> Option<Vec<u32>> {
        self.ended.into_iter().next().map(|beam| beam.ids)
    }
}

/// The first of the candidates by their order.
fn likeliest(candidates: impl Iterator<Item = Candidate>, count: usize) -> Vec<Candidate> {
    let mut candidates: Vec<Candidate> = candidates.collect();
    if candidates.len() > count {
        candidates.select_nth_unstable_by(count, Candidate::order);
        candidates.truncate(count);
    }
    candidates.sort_unstable_by(Candidate::order);
    candidates
}

/// The logarithm of the softmax.
fn log_probabilities(logits: &[f32]) -> Vec<f32> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - highest).exp()).sum();
    let log = sum.ln() as f32;
    logits.iter().map(|&logit| logit - highest - log).collect()
}

impl Engine {
    /// The best caption of an image that a search finds.
    pub(super) async fn searched_caption(
        &self,
        (model, writer): (&Model, &Writer),
        (image, begun): (ImageInput, &[u32]),
        mut search: Search,
        context: &Context,
    ) -> Result<Caption, Error> {
        let options = self.item_options(model, true, None)?;
        let image = self.image_states(model, image, options, context).await?;
        let mut slots = vec![MemorySlot::default()];
        let row = BeginRow { image, ids: begun.into(), memory: slots[0].clone() };
        let mut rows = vec![ReaderRow::Begin(row)];
        loop {
            let answers = rows.into_iter().map(|row| async {
                let answer = model.handle.read(row, context.submit()).await;
                self.take_answer(context, answer)
            });
            let logits: Vec<Embedding> = try_join_all(answers).await?;
            // Ranking the words of several beams takes too long for an async worker.
            let job = move || {
                let parents = search.advance(&logits);
                (search, parents)
            };
            let (advanced, parents) = self.on_pool(context, job).await.map_err(Error::internal)?;
            search = advanced;
            if parents.is_empty() {
                break;
            }
            let before = slots.iter().map(MemorySlot::take).collect::<Option<Vec<_>>>();
            let before = before.ok_or_else(|| Error::internal("a caption without memory"))?;
            let next = parents.into_iter().zip(search.newest()).map(|(parent, id)| {
                let memory = MemorySlot::default();
                let before = Arc::clone(&before[parent]);
                (memory.clone(), ReaderRow::Step(StepRow { before, id, memory }))
            });
            (slots, rows) = next.unzip();
        }
        let ids = search.best();
        let token_ids = ids.ok_or_else(|| Error::internal("a search that found no caption"))?;
        let is_ended = token_ids.last() == Some(&writer.end);
        let text = writer.tokenizer.decode(&token_ids).map_err(Error::internal)?;
        Ok(Caption { text, token_ids, is_ended })
    }
}

#[cfg(test)]
mod tests;
