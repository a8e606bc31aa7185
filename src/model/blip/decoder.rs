//! The text side of captioning checkpoints: a decoder that writes a caption token by token.

use candle_core::{DType, Result, Tensor, bail};

use super::{
    config::TextConfig,
    text::{Embeddings, image_states, layers},
};
use crate::{
    embedding::Embedding,
    model::{
        BeginRow, CaptionMemory, LoadError, Pass, ReaderRow, Resident, Stages, StepRow, Tap, Tower,
        TowerError,
        kernels::{Activation, LayerNorm, Linear, Mask},
        nn::{BertLayer, KeyValues, layer_norm_of, linear},
        runtime::Runtime,
        weights::Scope,
    },
    tokenize::Tokens,
};

/// Mirrors transformers' [`BlipTextLMHeadModel`].
///
/// [`BlipTextLMHeadModel`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/blip/modeling_blip_text.py
#[derive(Debug, Clone)]
pub(super) struct Decoder {
    embeddings: Embeddings,
    layers: Vec<BertLayer>,
    transform: Linear,
    activation: Activation,
    norm: LayerNorm,
    /// `[vocab_size, hidden_size]`.
    words: Linear,
    image_width: usize,
    text_length: usize,
    runtime: Runtime,
}

/// What is remembered of a caption, layer by layer.
struct Memory {
    image: std::sync::Arc<Vec<KeyValues>>,
    text: Vec<KeyValues>,
    /// The ids so far.
    length: usize,
}

impl Decoder {
    /// * `is_tied`: whether the table of words is the last layer too
    pub(super) fn load(
        config: &TextConfig,
        is_tied: bool,
        root: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let (hidden, eps) = (config.layers.hidden_size, config.layers.layer_norm_eps);
        let (bert, head) = (root.at("text_decoder").at("bert"), root.at("text_decoder").at("cls"));
        let head = head.at("predictions");
        let own = ["decoder.weight", "decoder.bias"];
        let words = if is_tied {
            // Files may hold the tied parameters a second time.
            own.iter().for_each(|name| head.skip(name));
            head.tied_linear(
                &bert.at("embeddings").at("word_embeddings.weight"),
                &head.at("bias"),
                [config.vocab_size, hidden],
            )?
        } else {
            head.skip("bias");
            head.linear(&own[..1], &own[1..], [config.vocab_size, hidden])?
        };
        Ok(Self {
            embeddings: Embeddings::load(config, &bert.at("embeddings"))?,
            layers: layers(config, &bert)?,
            transform: linear(&head.at("transform").at("dense"), hidden, hidden)?,
            activation: config.layers.activation,
            norm: layer_norm_of(hidden, eps, &head.at("transform").at("LayerNorm"))?,
            words,
            image_width: config.layers.image_width,
            text_length: config.text_length,
            runtime: root.runtime().clone(),
        })
    }

    /// The logits of the next token, of each text's last state.
    ///
    /// * `states`: `[texts, tokens, hidden_size]`
    fn next(&self, states: &Tensor) -> Result<Vec<Embedding>> {
        let last = states.narrow(1, states.dim(1)? - 1, 1)?;
        let transformed = self.transform.forward_activated(&last, self.activation)?;
        let logits = self.words.forward(&self.norm.forward(&transformed)?)?.squeeze(1)?;
        let logits = logits.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        Ok(logits.into_iter().map(Embedding::new).collect())
    }

    fn begin_one(&self, row: &BeginRow) -> Result<Embedding> {
        let image = image_states(&row.image, self.image_width, &self.runtime)?;
        let ids = Tokens { ids: row.ids.clone(), used: row.ids.len(), truncated: false };
        let mut x = self.embeddings.forward(&[ids])?;
        let mut text = Vec::with_capacity(self.layers.len());
        let mut images = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let image = layer.keys_of(&image)?;
            let (attended, own) = layer.attend(&x, Mask::Causal)?;
            x = layer.think(&layer.look(&attended, &image)?)?;
            // Views of a wider product: what is kept is only what is needed.
            let keys = own.keys.contiguous()?;
            text.push(KeyValues { keys, values: own.values.contiguous()? });
            images.push(image);
        }
        let length = row.ids.len();
        let memory = Memory { image: std::sync::Arc::new(images), text, length };
        let mut logits = self.next(&x)?;
        row.memory.fill(CaptionMemory(Box::new(memory)));
        Ok(logits.swap_remove(0))
    }

    /// One step of several captions, each with an image and a length of its own.
    fn step(&self, rows: &[&StepRow]) -> Result<Vec<Embedding>> {
        let mut before = Vec::with_capacity(rows.len());
        for row in rows {
            let memory = row.before.0.downcast_ref::<Memory>();
            let Some(memory) = memory else { bail!("a caption of another model") };
            before.push(memory);
        }
        let newest: Vec<_> =
            rows.iter().zip(&before).map(|(row, memory)| (row.id, memory.length)).collect();
        let mut x = self.embeddings.one_each(&newest)?;
        let mut after: Vec<_> =
            before.iter().map(|_| Vec::with_capacity(self.layers.len())).collect();
        for (index, layer) in self.layers.iter().enumerate() {
            let texts: Vec<_> = before.iter().map(|memory| &memory.text[index]).collect();
            let images: Vec<_> = before.iter().map(|memory| &memory.image[index]).collect();
            let (attended, all) = layer.attend_on(&x, &texts)?;
            x = layer.think(&layer.look_each(&attended, &images)?)?;
            for (after, all) in after.iter_mut().zip(all) {
                after.push(all);
            }
        }
        let logits = self.next(&x)?;
        for ((row, memory), text) in rows.iter().zip(before).zip(after) {
            let image = std::sync::Arc::clone(&memory.image);
            let memory = Memory { image, text, length: memory.length + 1 };
            row.memory.fill(CaptionMemory(Box::new(memory)));
        }
        Ok(logits)
    }

    /// # Errors
    /// Fails if a caption is longer than the decoder has positions, or has an id outside of the vocabulary.
    fn check(&self, row: &ReaderRow) -> std::result::Result<(), TowerError> {
        let check = |ids: &[u32]| {
            let used = ids.len();
            self.embeddings.check(&[Tokens { ids: ids.into(), used, truncated: false }])
        };
        match row {
            ReaderRow::Begin(row) => check(&row.ids),
            ReaderRow::Step(row) => {
                let memory = row.before.0.downcast_ref::<Memory>();
                let length = memory.map_or(0, |memory| memory.length);
                if length >= self.text_length {
                    let message = format!("a caption of more than {} ids", self.text_length);
                    return Err(TowerError::Shape(message));
                }
                check(&[row.id])
            }
            ReaderRow::Match(_) => {
                Err(TowerError::Shape("a caption decoder has no matching head".to_owned()))
            }
        }
    }
}

impl Tower for Decoder {
    type Input = ReaderRow;

    fn begin(&mut self, rows: &[ReaderRow], taps: &[Tap]) -> std::result::Result<Pass, TowerError> {
        Pass::pooled(taps, || {
            rows.iter().try_for_each(|row| self.check(row))?;
            let steps: Vec<_> = rows
                .iter()
                .filter_map(|row| if let ReaderRow::Step(row) = row { Some(row) } else { None })
                .collect();
            self.runtime.run(|| {
                let mut stepped =
                    if steps.is_empty() { Vec::new() } else { self.step(&steps)? }.into_iter();
                let mut outputs = Vec::with_capacity(rows.len());
                for row in rows {
                    outputs.push(match row {
                        ReaderRow::Begin(row) => self.begin_one(row)?,
                        _ => match stepped.next() {
                            Some(logits) => logits,
                            None => bail!("a step without logits"),
                        },
                    });
                }
                Ok(outputs)
            })
        })
    }
}

impl Resident for Decoder {
    fn stages(&self, _: &[ReaderRow]) -> std::result::Result<Stages, TowerError> {
        Err(TowerError::Shape("a caption decoder has no stages".to_owned()))
    }

    fn on(&self, runtime: &Runtime) -> Box<dyn Resident<Input = ReaderRow>> {
        let embeddings = self.embeddings.on(runtime);
        Box::new(Self { embeddings, runtime: runtime.clone(), ..self.clone() })
    }
}
