//! Turns text into the token ids that a text tower reads.

mod bert;
mod clip;
mod declared;
mod growth;
mod layout;
mod normalization;
mod sentencepiece;

use std::{borrow::Cow, collections::BTreeSet, fmt, sync::Arc};

use self::declared::{Class, Declared, Token};
use self::layout::Behind;
pub use self::{
    layout::{PooledToken, Scheme, TextEnd, TextLayout},
    normalization::{Cleaning, TextNormalization},
};
use crate::{
    checkpoint::{SENTENCEPIECE, SPECIAL_TOKENS, TOKENIZER, TOKENIZER_CONFIG as CONFIG, content},
    config,
};

/// One tokenised text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The ids, truncated with the end token last. If padding is part of the model, they are `[text_length]`,
    /// padded on the right.
    pub ids: Arc<[u32]>,
    /// The number of ids before the padding, the end token included, for `usage`.
    pub used: usize,
    /// Whether the text was longer than the model reads.
    pub truncated: bool,
}

/// Why a text could not be tokenised.
#[derive(Debug, thiserror::Error)]
#[error("the text cannot be tokenised: {reason}")]
pub struct TokenizeError {
    /// The tokenizer's message.
    pub reason: String,
}

/// Why token ids that a client made cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdsError {
    /// There are more ids than the model reads.
    #[error("{found} ids, more than the {limit} that the model reads")]
    TooMany {
        /// Ids of this text.
        found: usize,
        /// Ids that the model reads.
        limit: usize,
    },
    /// The text tower has no row for an id.
    #[error("the id {id} is not of the model's vocabulary, which has {size} tokens")]
    Unknown {
        /// The id.
        id: u32,
        /// Tokens of the vocabulary.
        size: u32,
    },
    /// The text has no end token, whose state would be the text's vector.
    #[error("the ids have no end token, {end}, whose state is the text's vector")]
    NoEnd {
        /// The end token's id, or its description.
        end: String,
    },
}

/// The files that describe a tokenizer, as bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokenizerFiles<'f> {
    /// `tokenizer.json`.
    pub tokenizer: Option<&'f [u8]>,
    /// `spiece.model`: read if the class is SigLIP 1's, as in transformers, or if there is no `tokenizer.json`.
    pub sentencepiece: Option<&'f [u8]>,
    /// `vocab.json`: CLIP's tokens, if there is no `tokenizer.json`.
    pub vocab: Option<&'f [u8]>,
    /// `merges.txt`, which belongs to `vocab.json`.
    pub merges: Option<&'f [u8]>,
    /// `vocab.txt`: BERT's tokens, if there is no `tokenizer.json`.
    pub words: Option<&'f [u8]>,
    /// `tokenizer_config.json`: the class, and the pad and end tokens.
    pub config: Option<&'f [u8]>,
    /// `special_tokens_map.json`, which has these tokens in older exports.
    pub special_tokens_map: Option<&'f [u8]>,
}

/// Settings that are not in a tokenizer's own files.
#[derive(Debug, Clone, Copy)]
pub struct TokenizerOptions {
    /// The ids that the tower reads.
    pub layout: TextLayout,
    /// The normalisation that the operator chooses.
    pub normalization: config::TextNormalization,
    /// The cleaning in open_clip's configuration, if the checkpoint has one.
    pub cleaning: Option<Cleaning>,
}

/// Why a tokenizer could not be loaded; the message names the file.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {message}")]
pub struct TokenizerLoadError {
    file: &'static str,
    message: String,
}

/// A checkpoint's tokenizer with its normalisation, length and pad id.
pub struct TextTokenizer {
    tokenizer: tokenizers::Tokenizer,
    /// SentencePiece's normalisation, if its own file is read.
    sentencepiece: Option<sentencepiece::Normalizer>,
    normalization: TextNormalization,
    text_length: usize,
    /// Ids from here on have no row in the text tower.
    vocab_size: u32,
    /// How a text is padded.
    behind: Behind,
    /// Ids before every text; none for the published checkpoints.
    prefix: Vec<u32>,
    /// Ids after every text: the end token.
    suffix: Vec<u32>,
    /// Ids with a special meaning to the model, which no text may produce.
    control: BTreeSet<u32>,
    unknown: Option<u32>,
}

impl fmt::Debug for TextTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A vocabulary has up to 256,000 entries, too many for a log.
        f.debug_struct("TextTokenizer")
            .field("normalization", &self.normalization)
            .field("text_length", &self.text_length)
            .field("behind", &self.behind)
            .finish_non_exhaustive()
    }
}

impl TextTokenizer {
    /// A tokenizer for texts of `text_length` ids, with the normalisation of its class.
    ///
    /// The pad id is the tokenizer's, because model configurations of this family declare a wrong one.
    ///
    /// # Errors
    /// Names the file that is not valid, or that declares a token outside the vocabulary.
    pub fn from_files(
        files: &TokenizerFiles<'_>,
        options: TokenizerOptions,
    ) -> Result<Self, TokenizerLoadError> {
        let declared = Declared::parse(CONFIG, files.config)?
            .or(Declared::parse(SPECIAL_TOKENS, files.special_tokens_map)?);
        match options.layout.scheme {
            Scheme::Padded => {}
            Scheme::Clip(end) => return Self::of_clip(files, declared, (options, end)),
            Scheme::Bert => return Self::of_bert(files, &declared, options),
        }
        // SigLIP 1 was first published with only a file of SentencePiece.
        let alone = files.tokenizer.is_none() && declared.tokenizer_class.is_none();
        let class = if alone { Class::Siglip } else { declared.class() };
        let declared = declared.with_defaults_of(class);
        let (mut tokenizer, sentencepiece) = read(files, class)?;
        // This type cuts and pads itself, because a file's own settings could do it differently.
        let file_pad = tokenizer.get_padding().map(|padding| padding.pad_id);
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|error| TokenizerLoadError { file: TOKENIZER, message: error.to_string() })?;
        // A literal `</s>` in a user's text is text.
        tokenizer.set_encode_special_tokens(true);
        let id = |token: &Option<Token>| -> Result<Option<u32>, TokenizerLoadError> {
            let Some(token) = token else { return Ok(None) };
            let text = token.text();
            let id = tokenizer.token_to_id(text);
            let id = id.or_else(|| tokenizer.token_to_id(&sentencepiece::unreachable_name(text)));
            id.map(Some).ok_or_else(|| TokenizerLoadError {
                file: CONFIG,
                message: format!("the token `{text}` is not in the tokenizer's vocabulary"),
            })
        };
        let end = id(&declared.eos_token)?;
        let pad = id(&declared.pad_token)?.or(file_pad).ok_or_else(|| TokenizerLoadError {
            file: CONFIG,
            message: "no pad_token is declared, and padding is part of the model".to_owned(),
        })?;
        let control = [Some(pad), end, id(&declared.bos_token)?].into_iter().flatten().collect();
        let unknown = id(&declared.unk_token)?;
        let (prefix, mut suffix) = template(&tokenizer)?;
        // A text of SigLIP 1 always ends with `</s>`, even if the file has no post-processor for it.
        if suffix.is_empty() && (class == Class::Siglip || sentencepiece.is_some()) {
            suffix.extend(end);
        }
        let TextLayout { text_length, vocab_size, .. } = options.layout;
        if prefix.len() + suffix.len() > text_length {
            return Err(TokenizerLoadError {
                file: TOKENIZER,
                message: format!("its special tokens alone exceed a text length of {text_length}"),
            });
        }
        check_vocabulary(&tokenizer, vocab_size)?;
        Ok(Self {
            normalization: TextNormalization::choose(options, class, declared.do_lower_case),
            tokenizer,
            sentencepiece,
            text_length,
            vocab_size: u32::try_from(vocab_size).unwrap_or(u32::MAX),
            behind: Behind::Padding(pad),
            prefix,
            suffix,
            control,
            unknown,
        })
    }

    /// Maximum number of ids of a text, special tokens included: `max_position_embeddings`.
    #[must_use]
    pub fn text_length(&self) -> usize {
        self.text_length
    }

    /// The normalisation of a text before the tokenizer reads it.
    #[must_use]
    pub fn normalization(&self) -> TextNormalization {
        self.normalization
    }

    /// The text as it enters the tokenizer. Texts with the same canonical form have the same embedding, so
    /// caches use it as the key.
    #[must_use]
    pub fn canonical<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.normalization.apply(text)
    }

    /// Accepts ids that a client made with this tokenizer, special tokens included, and pads them if necessary.
    ///
    /// # Errors
    /// [`IdsError`] for ids that the text tower cannot read.
    pub fn accept(&self, given: &[u32]) -> Result<Tokens, IdsError> {
        let (found, limit) = (given.len(), self.text_length);
        if found > limit {
            return Err(IdsError::TooMany { found, limit });
        }
        let size = self.vocab_size;
        if let Some(&id) = given.iter().find(|&&id| id >= size) {
            return Err(IdsError::Unknown { id, size });
        }
        let pad = match self.behind {
            Behind::Padding(pad) => pad,
            Behind::Nothing(end) => {
                let used = end.of(given).ok_or_else(|| IdsError::NoEnd {
                    end: match end {
                        TextEnd::First(id) => id.to_string(),
                        TextEnd::Largest => "the largest id".to_owned(),
                    },
                })?;
                return Ok(Tokens { ids: given[..used].into(), used, truncated: false });
            }
            Behind::Whole { pad } => {
                let padding = given.iter().rev().take_while(|&&id| id == pad).count();
                let used = found - padding;
                if used == 0 {
                    return Err(IdsError::NoEnd { end: "any id but padding".to_owned() });
                }
                return Ok(Tokens { ids: given[..used].into(), used, truncated: false });
            }
        };
        let padding = given.iter().rev().take_while(|&&id| id == pad).count();
        // The end token may also be the padding; then the first one ends the text.
        let end = usize::from(padding > 0 && self.suffix.contains(&pad));
        let mut ids = given.to_vec();
        ids.resize(limit, pad);
        Ok(Tokens { ids: ids.into(), used: found - padding + end, truncated: false })
    }

    /// Decodes ids to text, without special tokens, of which the unknown token is one, and without ids that have no token.
    ///
    /// # Errors
    /// Fails if the tokenizer does.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizeError> {
        let is_special = |id: &u32| self.control.contains(id) || self.unknown == Some(*id);
        let is_word = |id: &u32| !is_special(id) && self.tokenizer.id_to_token(*id).is_some();
        let words: Vec<u32> = ids.iter().copied().filter(is_word).collect();
        let decoded = self.tokenizer.decode(&words, true);
        decoded.map_err(|error| TokenizeError { reason: error.to_string() })
    }

    /// The ids of a text in canonical form. Ids that the text tower cannot read, or that have a special
    /// meaning, are replaced by the unknown token.
    ///
    /// # Errors
    /// Fails if the tokenizer does, which no valid UTF-8 is known to cause.
    pub fn encode(&self, canonical: &str) -> Result<Tokens, TokenizeError> {
        let normalized = match &self.sentencepiece {
            Some(normalizer) => Cow::Owned(normalizer.apply(canonical)),
            None => Cow::Borrowed(canonical),
        };
        let encoding = self
            .tokenizer
            .encode_fast(&*normalized, false)
            .map_err(|error| TokenizeError { reason: error.to_string() })?;
        // A unigram vocabulary has the texts of control tokens as pieces, so turning off their recognition is
        // not enough.
        let readable = |id: &u32| *id < self.vocab_size && !self.control.contains(id);
        let content = encoding
            .get_ids()
            .iter()
            .filter_map(|id| if readable(id) { Some(*id) } else { self.unknown });
        let room = self.text_length - self.prefix.len() - self.suffix.len();
        let mut ids = Vec::with_capacity(self.text_length);
        ids.extend_from_slice(&self.prefix);
        ids.extend(content.clone().take(room));
        let truncated = content.count() > room;
        ids.extend_from_slice(&self.suffix);
        let used = match self.behind {
            Behind::Padding(pad) => {
                let used = ids.len();
                ids.resize(self.text_length, pad);
                used
            }
            Behind::Nothing(end) => {
                let used = end.of(&ids).ok_or_else(|| TokenizeError {
                    reason: "its ids have no end token".to_owned(),
                })?;
                ids.truncate(used);
                used
            }
            Behind::Whole { .. } => ids.len(),
        };
        Ok(Tokens { ids: ids.into(), used, truncated })
    }
}

/// The tokenizer, and SentencePiece's normaliser if its own file is read.
fn read(
    files: &TokenizerFiles<'_>,
    class: Class,
) -> Result<(tokenizers::Tokenizer, Option<sentencepiece::Normalizer>), TokenizerLoadError> {
    let at_fault = |file| move |message: String| TokenizerLoadError { file, message };
    let model = files.sentencepiece.filter(|_| class == Class::Siglip || files.tokenizer.is_none());
    if let Some(model) = model {
        let whole = content::check(model).map_err(|error| error.to_string());
        let (tokenizer, normalizer) =
            whole.and_then(|()| sentencepiece::read(model)).map_err(at_fault(SENTENCEPIECE))?;
        return Ok((tokenizer, Some(normalizer)));
    }
    let Some(json) = files.tokenizer else {
        let message = format!("it is missing, and so is {SENTENCEPIECE}");
        return Err(TokenizerLoadError { file: TOKENIZER, message });
    };
    let tokenizer = tokenizers::Tokenizer::from_bytes(json).map_err(|error| {
        // The tokenizer's own message helps only if the file is JSON.
        let described = content::check_json(json).err().map(|found| found.to_string());
        let foreign = || format!("it does not describe a tokenizer that is read here: {error}");
        at_fault(TOKENIZER)(described.unwrap_or_else(foreign))
    })?;
    let normalizer = serde_json::to_value(tokenizer.get_normalizer());
    let normalizer = normalizer.map_err(|error| at_fault(TOKENIZER)(error.to_string()))?;
    growth::check(&normalizer).map_err(at_fault(TOKENIZER))?;
    Ok((tokenizer, None))
}

/// A tokenizer with more pieces than the text tower has rows belongs to another checkpoint. A few placeholders
/// at the end are allowed: mT5's file has a hundred of them.
fn check_vocabulary(
    tokenizer: &tokenizers::Tokenizer,
    rows: usize,
) -> Result<(), TokenizerLoadError> {
    let pieces = tokenizer.get_vocab_size(false);
    if pieces.saturating_sub(rows) <= pieces / 100 {
        return Ok(());
    }
    Err(TokenizerLoadError {
        file: TOKENIZER,
        message: format!("it has {pieces} pieces, but the text tower's vocab_size is {rows}"),
    })
}

/// The ids that the tokenizer's post-processor puts before and after a text.
fn template(tokenizer: &tokenizers::Tokenizer) -> Result<(Vec<u32>, Vec<u32>), TokenizerLoadError> {
    // Any text of ordinary pieces works: its ids are found again between the special ones.
    const PROBE: &str = "a";
    let ids = |special| {
        tokenizer
            .encode_fast(PROBE, special)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| TokenizerLoadError { file: TOKENIZER, message: error.to_string() })
    };
    let (bare, framed) = (ids(false)?, ids(true)?);
    let start = framed.windows(bare.len().max(1)).position(|window| window == bare);
    match start {
        Some(start) => Ok((framed[..start].to_vec(), framed[start + bare.len()..].to_vec())),
        None => Err(TokenizerLoadError {
            file: TOKENIZER,
            message: "its post-processor changes the text's own ids".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests;
