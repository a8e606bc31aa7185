//! The text side of retrieval checkpoints: embeddings of texts, and the head that matches texts with an image.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{DType, Result, Tensor, bail};

use super::{config::QFormerConfig, qformer::QFormer};
use crate::{
    embedding::Embedding,
    model::{
        LoadError, MatchRow, Pass, ReaderRow, Resident, Stages, Tap, Tower, TowerError,
        blip::text::image_states,
        kernels::Linear,
        nn::{self, Blocks, TokenConfig, TokenEmbeddings, linear},
        runtime::Runtime,
        weights::Scope,
    },
    tokenize::Tokens,
};

/// The Q-Former without queries, and the projection behind it. A text's vector is its first token's. Texts are computed
/// at their own length, which gives what padded and masked texts give.
#[derive(Debug, Clone)]
pub(super) struct Text {
    embeddings: TokenEmbeddings,
    qformer: Arc<QFormer>,
    projection: Linear,
    runtime: Runtime,
}

impl Text {
    /// * `width`: values of an embedding
    pub(super) fn load(
        config: &QFormerConfig,
        qformer: Arc<QFormer>,
        (width, root): (usize, &Scope<'_>),
    ) -> std::result::Result<Self, LoadError> {
        let (vocab_size, text_length) = (config.vocab_size, config.text_length);
        let tokens = TokenConfig { vocab_size, text_length, is_padded: false };
        let names = ["word_embeddings.weight", "position_embeddings.weight"];
        let hidden = config.layers.hidden_size;
        Ok(Self {
            embeddings: TokenEmbeddings::load_named(
                tokens,
                hidden,
                (&root.at("embeddings"), names),
            )?,
            qformer,
            projection: linear(&root.at("text_projection"), width, hidden)?,
            runtime: root.runtime().clone(),
        })
    }

    /// A pass for each row.
    pub(super) fn once(&self, rows: &[Tokens]) -> std::result::Result<Vec<Embedding>, LoadError> {
        self.check(rows)?;
        let embed = |row: &Tokens| nn::row(&self.pooled(std::slice::from_ref(row))?, 0);
        Ok(self.runtime.row_by_row(rows, embed)?)
    }
}

impl Blocks for Text {
    type Row = Tokens;

    const HAS_TOKENS: bool = false;

    fn check(&self, rows: &[Tokens]) -> std::result::Result<(), TowerError> {
        self.embeddings.check(rows)
    }

    fn tokens(&self, row: &Tokens) -> usize {
        row.ids.len()
    }

    fn embed(&self, rows: &[Tokens]) -> Result<Tensor> {
        self.qformer.begin(&self.embeddings.forward(rows)?)
    }

    fn depth(&self) -> usize {
        self.qformer.depth()
    }

    fn layer(&self, index: usize, state: &Tensor) -> Result<Tensor> {
        self.qformer.text_layer(index, state)
    }

    fn last_hidden_state(&self, state: &Tensor) -> Result<Tensor> {
        Ok(state.clone())
    }

    fn pool(&self, last_hidden_state: &Tensor) -> Result<Tensor> {
        self.projection.forward(&last_hidden_state.narrow(1, 0, 1)?)?.squeeze(1)
    }

    fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn on(&self, runtime: &Runtime) -> Self {
        let embeddings = self.embeddings.on(runtime);
        Self { embeddings, runtime: runtime.clone(), ..self.clone() }
    }
}

/// The matching head: the queries look at an image beside a text, and their mean says whether they belong together.
#[derive(Debug, Clone)]
pub(super) struct Matcher {
    text: Text,
    head: Linear,
    image_width: usize,
}

impl Matcher {
    pub(super) fn load(
        config: &QFormerConfig,
        text: &Text,
        root: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let head = linear(&root.at("itm_head"), 2, config.layers.hidden_size)?;
        Ok(Self { text: text.clone(), head, image_width: config.layers.image_width })
    }

    /// The logits of the texts with one image. The image's keys and values are computed once a layer.
    fn logits(&self, row: &MatchRow) -> Result<Embedding> {
        let image = image_states(&row.image, self.image_width, &self.text.runtime)?;
        let keys = self.text.qformer.keys_of(&image)?;
        let mut groups = BTreeMap::<usize, Vec<usize>>::new();
        for (index, text) in row.texts.iter().enumerate() {
            groups.entry(text.ids.len()).or_default().push(index);
        }
        let mut logits = vec![f32::NAN; row.texts.len()];
        for indices in groups.values() {
            let texts: Vec<_> = indices.iter().map(|&index| row.texts[index].clone()).collect();
            let queries = self.text.qformer.see_beside(&self.text.embed(&texts)?, &keys)?;
            let both = self.head.forward(&queries)?.to_dtype(DType::F32)?.mean(1)?;
            for (&index, both) in indices.iter().zip(both.to_vec2::<f32>()?) {
                let [no, yes] = both[..] else { bail!("a matching head of {} values", both.len()) };
                logits[index] = yes - no;
            }
        }
        Ok(Embedding::new(logits))
    }
}

impl Tower for Matcher {
    type Input = ReaderRow;

    fn begin(&mut self, rows: &[ReaderRow], taps: &[Tap]) -> std::result::Result<Pass, TowerError> {
        Pass::pooled(taps, || {
            let mut matches = Vec::with_capacity(rows.len());
            for row in rows {
                let ReaderRow::Match(row) = row else {
                    return Err(TowerError::Shape("a matching head writes no captions".to_owned()));
                };
                self.text.check(&row.texts)?;
                matches.push(row);
            }
            self.text.runtime.run(|| matches.into_iter().map(|row| self.logits(row)).collect())
        })
    }
}

impl Resident for Matcher {
    fn stages(&self, _: &[ReaderRow]) -> std::result::Result<Stages, TowerError> {
        Err(TowerError::Shape("a matching head has no stages".to_owned()))
    }

    fn on(&self, runtime: &Runtime) -> Box<dyn Resident<Input = ReaderRow>> {
        Box::new(Self { text: self.text.on(runtime), ..self.clone() })
    }
}
