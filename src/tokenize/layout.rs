//! Describes which ids a text tower reads.

use super::TextTokenizer;

/// The ids that a text tower reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextLayout {
    /// Maximum number of ids of a text, special tokens included.
    pub text_length: usize,
    /// Rows of the text tower's token table.
    pub vocab_size: usize,
    /// The kind of tokenizer, and the padding of a text.
    pub scheme: Scheme,
}

/// The kind of tokenizer, and the padding of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// The tokenizer that the files declare. Every text is padded to the full length, and the tower reads the
    /// padding: SigLIP.
    Padded,
    /// CLIP's tokenizer. No text is padded, because a causal tower does not see tokens after the end of a text.
    Clip(TextEnd),
    /// BERT's tokenizer. No text is padded, because a tower that masks the padding does not see it.
    Bert,
}

/// The id whose state becomes the vector of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextEnd {
    /// The first id with this value.
    First(u32),
    /// The first of the largest ids. Old configurations of CLIP mean this by an end token of 2.
    Largest,
}

/// The token whose state the text tower turns into the vector of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PooledToken {
    /// The first token, which is a class token.
    First,
    /// The last token that the tower reads.
    Last,
}

/// How a text is padded.
#[derive(Debug, Clone, Copy)]
pub(super) enum Behind {
    /// With this id, up to the full length.
    Padding(u32),
    /// Not at all. The text ends at the id whose state becomes its vector.
    Nothing(TextEnd),
    /// Not at all. Padding with this id in a client's ids is removed.
    Whole {
        /// The id of the padding.
        pad: u32,
    },
}

impl TextTokenizer {
    /// The token whose state the text tower turns into the vector of a text.
    #[must_use]
    pub fn pooled_token(&self) -> PooledToken {
        match self.behind {
            // SigLIP's tower reads the padding, and its last token may be padding.
            Behind::Padding(_) | Behind::Nothing(_) => PooledToken::Last,
            Behind::Whole { .. } => PooledToken::First,
        }
    }
}

impl TextEnd {
    /// The number of ids up to the one whose state is the text's vector; none if there is no such id.
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
