//! Towers that read texts together with an image: matching heads and caption decoders.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;

use crate::{embedding::Embedding, tokenize::Tokens};

/// One piece of a reader's work.
#[derive(Debug, Clone)]
pub enum ReaderRow {
    /// Texts to match with an image.
    Match(MatchRow),
    /// The beginning of a caption.
    Begin(BeginRow),
    /// The next token of a caption.
    Step(StepRow),
}

/// Texts to match with an image. The output is the logit of each text: how much more likely the two belong together
/// than not.
#[derive(Debug, Clone)]
pub struct MatchRow {
    /// The states of the image, `[tokens, width]`: the vision tower's last hidden state.
    pub image: Embedding,
    /// The texts, with the token that the head reads in front.
    pub texts: Arc<[Tokens]>,
}

/// An image, and the first ids of its caption. The output is the logits of the next token.
#[derive(Debug, Clone)]
pub struct BeginRow {
    /// The states of the image, as in [`MatchRow`].
    pub image: Embedding,
    /// One at least: the start token, and perhaps a prompt.
    pub ids: Arc<[u32]>,
    /// Takes the decoder's memory of the caption.
    pub memory: MemorySlot,
}

/// A caption so far, and its newest id. The output is the logits of the next token.
#[derive(Debug, Clone)]
pub struct StepRow {
    /// What the decoder gave for the ids before the newest.
    pub before: Arc<CaptionMemory>,
    /// The newest id.
    pub id: u32,
    /// Takes the decoder's memory with the newest id. It is written again whenever the row is run again.
    pub memory: MemorySlot,
}

/// What a decoder remembers of a caption: keys and values of every layer, of the image and of the ids so far.
pub struct CaptionMemory(pub(in crate::model) Box<dyn std::any::Any + Send + Sync>);

impl fmt::Debug for CaptionMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CaptionMemory")
    }
}

/// Where a decoder leaves a caption's memory.
#[derive(Debug, Clone, Default)]
pub struct MemorySlot(Arc<Mutex<Option<Arc<CaptionMemory>>>>);

impl MemorySlot {
    /// Takes what is there.
    #[must_use]
    pub fn take(&self) -> Option<Arc<CaptionMemory>> {
        self.0.lock().take()
    }

    pub(in crate::model) fn fill(&self, memory: CaptionMemory) {
        *self.0.lock() = Some(Arc::new(memory));
    }
}

impl ReaderRow {
    /// Rows of one group may share a pass.
    #[must_use]
    pub fn group(&self) -> usize {
        match self {
            Self::Match(_) => 0,
            Self::Begin(row) => row.ids.len(),
            Self::Step(_) => usize::MAX,
        }
    }

    /// The work of a row, where that of one text is 1.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Match(row) => row.texts.len().max(1),
            Self::Begin(_) | Self::Step(_) => 1,
        }
    }

    /// A row that gives the same output, and shares no slot with this one.
    #[must_use]
    pub fn apart(&self) -> Self {
        let mut row = self.clone();
        match &mut row {
            Self::Match(_) => {}
            Self::Begin(BeginRow { memory, .. }) | Self::Step(StepRow { memory, .. }) => {
                *memory = MemorySlot::default();
            }
        }
        row
    }
}
