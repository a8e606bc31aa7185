//! Reads `spiece.model`, SentencePiece's own file, if a checkpoint has no `tokenizer.json` or its class uses
//! this file.
//!
//! The pieces go into the unigram model of `tokenizers`. SentencePiece's normalisation is done here as in its
//! library, because the conversion to fast tokenizers differs in rare cases.

mod charsmap;

use prost::Message;
use tokenizers::{Tokenizer, models::unigram::Unigram};

pub(super) use self::charsmap::Charsmap;

/// Stands for a space in pieces.
const SPACE_MARK: &str = "\u{2581}";

/// The parts of SentencePiece's `ModelProto` that are read.
#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<Trainer>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(enumeration = "Kind", optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum Kind {
    Unset = 0,
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

#[derive(Clone, PartialEq, Message)]
struct Trainer {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    escape_whitespaces: Option<bool>,
}

/// SentencePiece's normalisation of a text.
#[derive(Debug)]
pub(super) struct Normalizer {
    charsmap: Option<Charsmap>,
    remove_extra_whitespaces: bool,
}

impl Normalizer {
    /// The text with its spaces marked and one in front, as transformers' `SiglipTokenizer` always does,
    /// whatever the file says.
    pub(super) fn apply(&self, text: &str) -> String {
        let mut result = String::with_capacity(text.len() + text.len() / 2 + SPACE_MARK.len());
        // A mark is written before the first word, and before each word after a space.
        let mut after_space = true;
        let mut rest = text;
        result.push_str(SPACE_MARK);
        while !rest.is_empty() {
            let (mut chunk, length) = self.next(rest);
            rest = &rest[length..];
            if self.remove_extra_whitespaces && after_space {
                chunk = chunk.trim_start_matches(' ');
            }
            if let Some(last) = chunk.chars().next_back() {
                after_space = last == ' ';
            }
            for character in chunk.chars() {
                match character {
                    ' ' => result.push_str(SPACE_MARK),
                    other => result.push(other),
                }
            }
        }
        if self.remove_extra_whitespaces {
            result.truncate(result.trim_end_matches(SPACE_MARK).len());
        }
        result
    }

    /// The replacement of the beginning of a text, and the number of bytes that it replaces.
    fn next<'t>(&'t self, text: &'t str) -> (&'t str, usize) {
        if let Some(found) = self.charsmap.as_ref().and_then(|map| map.longest(text)) {
            return found;
        }
        let length = text.chars().next().map_or(0, char::len_utf8);
        (&text[..length], length)
    }
}

/// Reads the file.
///
/// # Errors
/// Says what is wrong with the file, or which of its settings are not supported.
pub(super) fn read(bytes: &[u8]) -> Result<(Tokenizer, Normalizer), String> {
    let model = Model::decode(bytes).map_err(|error| {
        format!("this is not a SentencePiece model, or it is cut short: {error}")
    })?;
    let trainer = model.trainer.unwrap_or_default();
    let spec = model.normalizer.unwrap_or_default();
    const UNIGRAM: i32 = 1;
    if trainer.model_type.unwrap_or(UNIGRAM) != UNIGRAM {
        return Err("only unigram models are read".to_owned());
    }
    if trainer.treat_whitespace_as_suffix == Some(true) || spec.escape_whitespaces == Some(false) {
        return Err("spaces that are not a prefix of their word are not served".to_owned());
    }
    let charsmap = match spec.precompiled_charsmap {
        Some(bytes) if !bytes.is_empty() => Some(Charsmap::read(&bytes)?),
        _ => None,
    };
    let normalizer = Normalizer {
        charsmap,
        remove_extra_whitespaces: spec.remove_extra_whitespaces.unwrap_or(true),
    };
    let unknown = model.pieces.iter().position(|piece| piece.kind() == Kind::Unknown);
    let vocabulary = model.pieces.iter().map(entry).collect();
    let unigram = Unigram::from(vocabulary, unknown, trainer.byte_fallback.unwrap_or(false))
        .map_err(|error| error.to_string())?;
    Ok((Tokenizer::new(unigram), normalizer))
}

/// The vocabulary's name for a piece that no text may produce. A normalised text has no spaces, so a name with
/// a space is never found in it.
pub(super) fn unreachable_name(piece: &str) -> String {
    format!(" {piece}")
}

fn entry(piece: &Piece) -> (String, f64) {
    let text = piece.piece();
    let score = f64::from(piece.score());
    match piece.kind() {
        // A byte without a piece is looked up by this name.
        Kind::Normal | Kind::Unset | Kind::Byte => (text.to_owned(), score),
        // SentencePiece never splits such a piece, so its score is higher than that of any parts.
        Kind::UserDefined => (text.to_owned(), 0.0),
        Kind::Unknown | Kind::Control | Kind::Unused => (unreachable_name(text), score),
    }
}

#[cfg(test)]
mod tests;
