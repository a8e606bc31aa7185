//! Which ids a text tower reads.

/// The ids that a text tower reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextLayout {
    /// The most ids of a text, special tokens included.
    pub text_length: usize,
    /// Rows of the text tower's table of tokens.
    pub vocab_size: usize,
    /// Which tokenizer makes them, and what stands behind a text.
    pub scheme: Scheme,
}

/// Which tokenizer makes a text's ids, and what stands behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// The tokenizer that the files declare. Every text is padded to the full length, and the tower reads the
    /// padding: SigLIP.
    Padded,
    /// CLIP's tokenizer. No text is padded: a causal tower does not see what stands behind a text's end.
    Clip(TextEnd),
    /// BERT's tokenizer. No text is padded: a tower that masks the padding does not see it.
    Bert,
}

/// Which id of a text has the state that becomes the text's vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextEnd {
    /// The first that is this one.
    First(u32),
    /// The largest, and of equal ones the first. Configurations of CLIP's first years mean this by an end token of 2.
    Largest,
}

/// What stands behind a text.
#[derive(Debug, Clone, Copy)]
pub(super) enum Behind {
    /// This id, up to the full length.
    Padding(u32),
    /// Nothing. The text ends where its vector is taken.
    Nothing(TextEnd),
    /// Nothing. Ids that a client padded with this one lose their padding.
    Whole {
        /// The padding.
        pad: u32,
    },
}

impl TextEnd {
    /// The number of ids up to the one whose state is the text's vector; none where there is no such id.
    pub(super) fn of(self, ids: &[u32]) -> Option<usize> {
        match self {
            Self::First(end) => ids.iter().position(|&id| id == end).map(|at| at + 1),
            Self::Largest => {
                let largest = ids.iter().max()?;
                ids.iter().position(|id| id == largest).map(|at| at + 1)
            }
        }
    }
}
