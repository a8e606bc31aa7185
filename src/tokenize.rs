//! Text to the token ids that a text tower reads.

mod normalization;

use std::{borrow::Cow, collections::BTreeSet, fmt, sync::Arc};

use serde::Deserialize;

pub use normalization::TextNormalization;

/// One tokenised text, padded to the checkpoint's own length: padding is part of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// `[text_length]`, truncated with the end token last, padded on the right.
    pub ids: Arc<[u32]>,
    /// Ids before the padding, the end token included: what `usage` counts.
    pub used: usize,
    /// Whether the text was longer than the model reads.
    pub truncated: bool,
}

/// Why a text could not be tokenised.
#[derive(Debug, thiserror::Error)]
#[error("the text cannot be tokenised: {reason}")]
pub struct TokenizeError {
    /// What the tokenizer said.
    pub reason: String,
}

/// The files that describe a tokenizer, as bytes.
#[derive(Debug, Clone, Copy)]
pub struct TokenizerFiles<'f> {
    /// `tokenizer.json`.
    pub tokenizer: &'f [u8],
    /// `tokenizer_config.json`: the class, and the pad and end tokens.
    pub config: Option<&'f [u8]>,
    /// `special_tokens_map.json`, where older exports keep those tokens.
    pub special_tokens_map: Option<&'f [u8]>,
}

/// Why a tokenizer could not be loaded; the message names the file.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {message}")]
pub struct TokenizerLoadError {
    file: &'static str,
    message: String,
}

/// A checkpoint's tokenizer with its canonicalisation, length and pad id.
pub struct TextTokenizer {
    tokenizer: tokenizers::Tokenizer,
    normalization: TextNormalization,
    text_length: usize,
    pad: u32,
    /// Ids that stand before every text; none for the published checkpoints.
    prefix: Vec<u32>,
    /// Ids that stand behind every text: the end token.
    suffix: Vec<u32>,
    /// Ids with a meaning to the model, which no user text may produce.
    control: BTreeSet<u32>,
    unknown: Option<u32>,
}

impl fmt::Debug for TextTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A vocabulary has up to 256,000 entries; nobody wants them in a log.
        f.debug_struct("TextTokenizer")
            .field("normalization", &self.normalization)
            .field("text_length", &self.text_length)
            .field("pad", &self.pad)
            .finish_non_exhaustive()
    }
}

/// What is read of `tokenizer_config.json` and `special_tokens_map.json`.
#[derive(Debug, Default, Deserialize)]
struct Declared {
    tokenizer_class: Option<String>,
    do_lower_case: Option<bool>,
    pad_token: Option<Token>,
    eos_token: Option<Token>,
    bos_token: Option<Token>,
    unk_token: Option<Token>,
}

/// A token by its text, alone or in the form of a serialised `AddedToken`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Added { content: String },
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Added { content: text } => text,
        }
    }
}

impl Declared {
    fn parse(file: &'static str, json: Option<&[u8]>) -> Result<Self, TokenizerLoadError> {
        json.map_or_else(
            || Ok(Self::default()),
            |json| {
                serde_json::from_slice(json)
                    .map_err(|error| TokenizerLoadError { file, message: error.to_string() })
            },
        )
    }

    /// The same, with what is absent taken from `other`.
    fn or(self, other: Self) -> Self {
        Self {
            tokenizer_class: self.tokenizer_class.or(other.tokenizer_class),
            do_lower_case: self.do_lower_case.or(other.do_lower_case),
            pad_token: self.pad_token.or(other.pad_token),
            eos_token: self.eos_token.or(other.eos_token),
            bos_token: self.bos_token.or(other.bos_token),
            unk_token: self.unk_token.or(other.unk_token),
        }
    }
}

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";

impl TextTokenizer {
    /// A tokenizer for texts of `text_length` ids, with the canonicalisation that its class asks for.
    ///
    /// The pad id is the tokenizer's own: model configs of this family declare a wrong one.
    ///
    /// # Errors
    /// Names the file that is not valid, or that declares a token outside of the vocabulary.
    pub fn from_files(
        files: &TokenizerFiles<'_>,
        text_length: usize,
    ) -> Result<Self, TokenizerLoadError> {
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(files.tokenizer)
            .map_err(|error| TokenizerLoadError { file: TOKENIZER, message: error.to_string() })?;
        let declared = Declared::parse(CONFIG, files.config)?
            .or(Declared::parse("special_tokens_map.json", files.special_tokens_map)?);
        // Length and padding are ours to do: a file's own settings would cut or pad differently.
        let file_pad = tokenizer.get_padding().map(|padding| padding.pad_id);
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|error| TokenizerLoadError { file: TOKENIZER, message: error.to_string() })?;
        // A literal `</s>` in a user's text is text.
        tokenizer.set_encode_special_tokens(true);
        let id = |token: &Option<Token>| -> Result<Option<u32>, TokenizerLoadError> {
            let Some(token) = token else { return Ok(None) };
            let id = tokenizer.token_to_id(token.text());
            id.map(Some).ok_or_else(|| TokenizerLoadError {
                file: CONFIG,
                message: format!("the token `{}` is not in {TOKENIZER}", token.text()),
            })
        };
        let end = id(&declared.eos_token)?;
        let pad = id(&declared.pad_token)?.or(file_pad).ok_or_else(|| TokenizerLoadError {
            file: CONFIG,
            message: "no pad_token is declared, and padding is part of the model".to_owned(),
        })?;
        let control = [Some(pad), end, id(&declared.bos_token)?].into_iter().flatten().collect();
        let unknown = id(&declared.unk_token)?;
        let normalization = TextNormalization::of_class(
            declared.tokenizer_class.as_deref().unwrap_or_default(),
            declared.do_lower_case,
        );
        let (prefix, mut suffix) = template(&tokenizer)?;
        // SigLIP 1 always ends with `</s>`, whether or not the file has a post-processor for it.
        if suffix.is_empty() && matches!(normalization, TextNormalization::Canonical { .. }) {
            suffix.extend(end);
        }
        if prefix.len() + suffix.len() > text_length {
            return Err(TokenizerLoadError {
                file: TOKENIZER,
                message: format!("its special tokens alone exceed a text length of {text_length}"),
            });
        }
        Ok(Self { tokenizer, normalization, text_length, pad, prefix, suffix, control, unknown })
    }

    /// Ids of every text, padding included: `max_position_embeddings`.
    #[must_use]
    pub fn text_length(&self) -> usize {
        self.text_length
    }

    /// What is done to a text before the tokenizer reads it.
    #[must_use]
    pub fn normalization(&self) -> TextNormalization {
        self.normalization
    }

    /// The text as it enters the tokenizer. Texts with the same canonical form have the same embedding,
    /// so this is what a cache is keyed by.
    #[must_use]
    pub fn canonical<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.normalization.apply(text)
    }

    /// Ids of a text in canonical form.
    ///
    /// # Errors
    /// Fails if the tokenizer does, which no valid UTF-8 is known to cause.
    pub fn encode(&self, canonical: &str) -> Result<Tokens, TokenizeError> {
        let encoding = self
            .tokenizer
            .encode_fast(canonical, false)
            .map_err(|error| TokenizeError { reason: error.to_string() })?;
        // A unigram vocabulary holds the control tokens' texts as pieces, so switching off their
        // recognition is not enough.
        let content = encoding
            .get_ids()
            .iter()
            .copied()
            .filter_map(|id| if self.control.contains(&id) { self.unknown } else { Some(id) });
        let room = self.text_length - self.prefix.len() - self.suffix.len();
        let mut ids = Vec::with_capacity(self.text_length);
        ids.extend_from_slice(&self.prefix);
        ids.extend(content.clone().take(room));
        let truncated = content.count() > room;
        ids.extend_from_slice(&self.suffix);
        let used = ids.len();
        ids.resize(self.text_length, self.pad);
        Ok(Tokens { ids: ids.into(), used, truncated })
    }
}

/// The ids that the tokenizer's post-processor puts before and behind a text.
fn template(tokenizer: &tokenizers::Tokenizer) -> Result<(Vec<u32>, Vec<u32>), TokenizerLoadError> {
    // Any text of ordinary pieces will do; it is found again inside of its own framed form.
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
