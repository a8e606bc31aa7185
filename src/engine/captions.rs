//! Captions of images, written token by token.
//!
//! Each token is a row of its own in the model's queue: captions of different lengths share a pass, join and leave
//! between passes, and no embedding waits for the end of a caption.

use std::{future::Future, sync::Arc};

use futures::{StreamExt, stream};

use super::{BeamOptions, Context, Engine, ImageInput, Usage, beams::Search, until_deadline};
use crate::{
    config::Limit,
    embedding::Embedding,
    error::{Code, Error},
    model::{BeginRow, MemorySlot, ReaderRow, StepRow, Writer},
    registry::Model,
};

/// Captions of a request that are written at once: each holds the decoder's memory of its image.
const CAPTIONS_AT_ONCE: usize = 4;

/// The most new tokens where a request does not say.
const MAX_NEW_TOKENS: usize = 20;

/// How the next token is chosen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sampling {
    /// The most tokens behind the start and the prompt; 20 where it is not set.
    pub max_new_tokens: Option<usize>,
    /// Divides the logits. The likeliest token is taken where it is 0, and where no option of sampling is set.
    pub temperature: Option<f32>,
    /// Tokens are drawn from the likeliest that have this much probability together.
    pub top_p: Option<f32>,
    /// Tokens are drawn from so many of the likeliest.
    pub top_k: Option<usize>,
    /// Makes tokens that are there already less likely: above 1.
    pub repetition_penalty: Option<f32>,
    /// The same seed draws the same tokens.
    pub seed: Option<u64>,
}

/// Images to write captions of.
#[derive(Debug, Clone)]
pub struct CaptionRequest {
    /// The model's name; the default model where none is given.
    pub model: Option<String>,
    /// The images.
    pub images: Vec<ImageInput>,
    /// How every caption begins.
    pub prompt: Option<String>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// How many captions of an image are followed.
    pub beams: BeamOptions,
}

/// One caption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caption {
    /// The text, with the prompt and without special tokens.
    pub text: String,
    /// The ids: the start token, those of the prompt, and what was written, with the end token if it was reached.
    pub token_ids: Vec<u32>,
    /// Whether the model ended the caption by itself; otherwise it has as many tokens as it may have.
    pub is_ended: bool,
}

/// A piece of a caption that was just written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The image's place in the request.
    pub index: usize,
    /// The newest id.
    pub id: u32,
    /// The text so far.
    pub text: String,
}

/// The answer to a [`CaptionRequest`].
#[derive(Debug, Clone)]
pub struct Captioned {
    /// The name of the model that answered.
    pub model: Arc<str>,
    /// One an image, in the order of the request.
    pub captions: Vec<Result<Caption, Error>>,
    /// What it consumed: the tokens are those that were written.
    pub usage: Usage,
}

impl Sampling {
    /// # Errors
    /// Names the option that is out of range.
    fn check(&self) -> Result<(), Error> {
        let wrong =
            |field: &str, message: &str| Err(Error::invalid(field.to_owned(), message.to_owned()));
        let is = |value: Option<f32>, range: fn(f32) -> bool| value.is_none_or(range);
        if self.max_new_tokens == Some(0) {
            return wrong("max_new_tokens", "must be 1 or more");
        }
        if !is(self.temperature, |value| (0.0..=100.0).contains(&value)) {
            return wrong("temperature", "must be from 0 to 100");
        }
        if !is(self.top_p, |value| value > 0.0 && value <= 1.0) {
            return wrong("top_p", "must be above 0, and 1 at most");
        }
        if self.top_k == Some(0) {
            return wrong("top_k", "must be 1 or more");
        }
        if !is(self.repetition_penalty, |value| value > 0.0 && value <= 100.0) {
            return wrong("repetition_penalty", "must be above 0, and 100 at most");
        }
        Ok(())
    }

    fn is_greedy(&self) -> bool {
        let nothing = self.top_p.is_none() && self.top_k.is_none() && self.seed.is_none();
        self.temperature == Some(0.0) || (self.temperature.is_none() && nothing)
    }

    /// The next token.
    fn choose(&self, logits: &Embedding, ids: &[u32], random: &mut Random) -> u32 {
        let mut logits = logits.as_slice().to_vec();
        if let Some(penalty) = self.repetition_penalty {
            penalise(&mut logits, ids, penalty);
        }
        if self.is_greedy() {
            return likeliest(&logits);
        }
        let temperature = self.temperature.unwrap_or(1.0);
        let mut ranked: Vec<(u32, f32)> = (0..).zip(logits).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        ranked.truncate(self.top_k.unwrap_or(usize::MAX));
        let highest = ranked.first().map_or(0.0, |&(_, logit)| logit);
        let weigh = |logit: f32| f64::from((logit - highest) / temperature).exp();
        let mut weights: Vec<f64> = ranked.iter().map(|&(_, logit)| weigh(logit)).collect();
        if let Some(top_p) = self.top_p {
            let total: f64 = weights.iter().sum();
            let mut before = 0.0;
            let kept = weights.iter().take_while(|&&weight| {
                let is_kept = before < f64::from(top_p) * total;
                before += weight;
                is_kept
            });
            let kept = kept.count().max(1);
            weights.truncate(kept);
        }
        let mut left = random.unit() * weights.iter().sum::<f64>();
        let drawn = weights.iter().position(|&weight| {
            left -= weight;
            left < 0.0
        });
        ranked[drawn.unwrap_or(weights.len() - 1)].0
    }
}

/// Makes ids that are there already less likely.
pub(super) fn penalise(logits: &mut [f32], ids: &[u32], penalty: f32) {
    let mut seen = ids.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
    }
}

/// Of equally likely tokens the first.
fn likeliest(logits: &[f32]) -> u32 {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&logit| logit == best).unwrap_or_default() as u32
}

/// A sequence of numbers that follows from a seed (SplitMix64).
struct Random(u64);

impl Random {
    /// From 0 on, below 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^= bits >> 31;
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }
}

impl Engine {
    /// Writes a caption of every image. An image that fails has its own error.
    ///
    /// * `written`: is told of every token, of captions in no order, and waited for
    ///
    /// # Errors
    /// A limit's error before any work, and the deadline's.
    pub async fn caption<T: Future<Output = ()> + Send>(
        &self,
        request: CaptionRequest,
        written: impl Fn(Written) -> T + Send + Sync,
        context: &Context,
    ) -> Result<Captioned, Error> {
        let CaptionRequest { model, images, prompt, sampling, beams } = request;
        let model = self.registry.get(model.as_deref())?;
        let writer = model.writer.as_ref().ok_or_else(|| {
            let message = format!("the model `{}` writes no captions", model.name);
            Error::new(Code::InvalidRequest, message).with_field("model")
        })?;
        self.check_count("images", images.len(), self.limits.items())?;
        sampling.check()?;
        beams.check(sampling.is_greedy())?;
        let begun = self.begun(writer, prompt.as_deref())?;
        let room = writer.longest.saturating_sub(begun.len());
        let count = sampling.max_new_tokens.unwrap_or_else(|| MAX_NEW_TOKENS.min(room));
        if count > room || room == 0 {
            let message =
                format!("{count} is out of range: behind the prompt there is room for {room}");
            return Err(Error::invalid("max_new_tokens", message));
        }
        let at_once = images.len().min(CAPTIONS_AT_ONCE);
        let held: usize = images.iter().map(ImageInput::held_bytes).sum();
        // Beams share what is remembered of the image. While they go on, each has its ids in an old and in a new memory.
        let beam_ids = 2 * (beams.width() - 1) * (begun.len() + count);
        let each = writer.memory_bytes.saturating_add(beam_ids.saturating_mul(writer.id_bytes));
        let memory = at_once.saturating_mul(each);
        let rows = images.len().saturating_mul(beams.width());
        self.admit((model, context), rows, held.saturating_add(memory))?;
        let mut usage = Usage { images: images.len(), ..Usage::default() };
        let each = images.into_iter().enumerate().map(|(index, image)| {
            let (begun, sampling, written) = (&begun, &sampling, &written);
            async move {
                let caption = if beams.width() > 1 {
                    let ids = (&begun[..], count, writer.end);
                    let search = Search::new(beams, sampling.repetition_penalty, ids);
                    let image = (image, &begun[..]);
                    self.searched_caption((model, writer), image, search, context).await
                } else {
                    let told = |id, text| written(Written { index, id, text });
                    let (image, options) = ((image, &begun[..]), (sampling, count));
                    self.caption_of((model, writer), image, options, (&told, context)).await
                };
                caption.map_err(|error| error.with_field(format!("images[{index}]")))
            }
        });
        let work = async { Ok(stream::iter(each).buffered(CAPTIONS_AT_ONCE).collect().await) };
        let captions: Vec<Result<Caption, Error>> = until_deadline(context, work).await?;
        let all = captions.iter().flatten().map(|caption| caption.token_ids.len() - begun.len());
        usage.text_tokens = all.sum();
        Ok(Captioned { model: model.name.as_str().into(), captions, usage })
    }

    /// The ids that every caption begins with: the start token, and those of the prompt without its frame.
    fn begun(&self, writer: &Writer, prompt: Option<&str>) -> Result<Vec<u32>, Error> {
        let Some(prompt) = prompt else { return Ok(vec![writer.start]) };
        let limit = self.limits.max_text_bytes;
        if prompt.len() > limit {
            let limit = Limit::bytes(limit, "limits.max_text_bytes");
            let message = format!("it has {} bytes, more than the limit of {limit}", prompt.len());
            return Err(Error::new(Code::TextTooLarge, message).with_field("prompt"));
        }
        let canonical = writer.tokenizer.canonical(prompt);
        let tokens = writer.tokenizer.encode(&canonical).map_err(|error| {
            Error::invalid("prompt", "the text cannot be tokenised").with_source(error)
        })?;
        if tokens.truncated {
            let message =
                format!("it is longer than the {} tokens that the model reads", writer.longest);
            return Err(Error::new(Code::TextTooLong, message).with_field("prompt"));
        }
        let mut ids = tokens.ids.to_vec();
        // The end token would be the end of the caption.
        ids.pop();
        if let Some(first) = ids.first_mut() {
            *first = writer.start;
        }
        Ok(ids)
    }

    async fn caption_of<T: Future<Output = ()> + Send>(
        &self,
        (model, writer): (&Model, &Writer),
        (image, begun): (ImageInput, &[u32]),
        (sampling, count): (&Sampling, usize),
        (told, context): (&(impl Fn(u32, String) -> T + Sync), &Context),
    ) -> Result<Caption, Error> {
        let options = self.item_options(model, true, None)?;
        let image = self.image_states(model, image, options, context).await?;
        let mut random = Random(sampling.seed.unwrap_or_default());
        let mut ids = begun.to_vec();
        let mut slot = MemorySlot::default();
        let row = BeginRow { image, ids: begun.into(), memory: slot.clone() };
        let mut row = ReaderRow::Begin(row);
        loop {
            let answer = model.handle.read(row, context.submit()).await;
            let logits = self.take_answer(context, answer)?;
            let id = sampling.choose(&logits, &ids, &mut random);
            ids.push(id);
            let is_ended = id == writer.end;
            let text = writer.tokenizer.decode(&ids).map_err(Error::internal)?;
            told(id, text.clone()).await;
            if is_ended || ids.len() == begun.len() + count {
                return Ok(Caption { text, token_ids: ids, is_ended });
            }
            let before = slot.take().ok_or_else(|| Error::internal("a caption without memory"))?;
            slot = MemorySlot::default();
            row = ReaderRow::Step(StepRow { before, id, memory: slot.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(sampling: &Sampling, logits: &[f32], ids: &[u32]) -> Vec<u32> {
        let mut random = Random(sampling.seed.unwrap_or_default());
        let logits = Embedding::new(logits.to_vec());
        (0..200).map(|_| sampling.choose(&logits, ids, &mut random)).collect()
    }

    #[test]
    fn the_likeliest_token_is_taken_where_nothing_else_is_asked_for() {
        let greedy = Sampling::default();
        assert!(chosen(&greedy, &[0.5, 2.0, 2.0, -1.0], &[]).iter().all(|&id| id == 1));
        let penalty = Sampling { repetition_penalty: Some(4.0), ..greedy };
        assert!(chosen(&penalty, &[0.6, 2.0, 0.0], &[1, 1]).iter().all(|&id| id == 0));
        assert!(chosen(&penalty, &[-0.5, -1.0], &[0]).iter().all(|&id| id == 1));
        let cold = Sampling { temperature: Some(0.0), seed: Some(3), ..Sampling::default() };
        assert!(chosen(&cold, &[0.5, 2.0], &[]).iter().all(|&id| id == 1));
    }

    #[test]
    fn tokens_are_drawn_from_those_that_are_left() {
        let logits = [1.0, 3.0, 2.9, -50.0, 2.8];
        let drawn = |sampling: Sampling| {
            let mut ids = chosen(&sampling, &logits, &[]);
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        let seeded = Sampling { seed: Some(7), ..Sampling::default() };
        assert_eq!(drawn(seeded.clone()), [0, 1, 2, 4]);
        assert_eq!(drawn(Sampling { top_k: Some(2), ..seeded.clone() }), [1, 2]);
        // The likeliest has 0.36 of the probability, the next 0.32.
        assert_eq!(drawn(Sampling { top_p: Some(0.3), ..seeded.clone() }), [1]);
        assert_eq!(drawn(Sampling { top_p: Some(0.4), ..seeded.clone() }), [1, 2]);
        let again = chosen(&seeded, &logits, &[]);
        assert_eq!(chosen(&seeded, &logits, &[]), again);
        assert_ne!(chosen(&Sampling { seed: Some(8), ..seeded }, &logits, &[]), again);
    }

    #[test]
    fn options_out_of_range_are_named() {
        for (sampling, field) in [
            (Sampling { max_new_tokens: Some(0), ..Sampling::default() }, "max_new_tokens"),
            (Sampling { temperature: Some(-1.0), ..Sampling::default() }, "temperature"),
            (Sampling { top_p: Some(0.0), ..Sampling::default() }, "top_p"),
            (Sampling { top_p: Some(f32::NAN), ..Sampling::default() }, "top_p"),
            (Sampling { top_k: Some(0), ..Sampling::default() }, "top_k"),
            (
                Sampling { repetition_penalty: Some(0.0), ..Sampling::default() },
                "repetition_penalty",
            ),
        ] {
            let error = sampling.check().expect_err(field);
            assert_eq!((error.code(), error.field()), (Code::InvalidRequest, Some(field)));
        }
    }
}
