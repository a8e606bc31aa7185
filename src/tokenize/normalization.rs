//! What is done to a text before the tokenizer reads it.

use std::{borrow::Cow, fmt};

use unicode_normalization::UnicodeNormalization;

use super::{TokenizerOptions, declared::Class};
use crate::config;

/// SentencePiece's mark for a space, which a text must not contain.
const SPACE_MARK: char = '\u{2581}';

/// The normalisation of a text before the tokenizer reads it. `docs/numerics.md` says what each reference does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextNormalization {
    /// Only the tokenizer's own normaliser.
    None,
    /// Lower-casing: SigLIP 2, as it was trained.
    LowerCase,
    /// SigLIP 1: ASCII punctuation deleted, white space collapsed and stripped.
    Canonical {
        /// Whether to lower-case first, as for the published checkpoints.
        lower_case: bool,
    },
    /// open_clip's cleaning.
    OpenClip(Cleaning),
}

/// The kinds of cleaning that open_clip calls `clean`. Each first repairs the text's characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleaning {
    /// White space collapsed and stripped.
    Whitespace,
    /// `Whitespace` and lower-casing.
    Lower,
    /// `Lower` with `_` as a space and all other ASCII punctuation deleted.
    Canonicalize,
}

impl TextNormalization {
    /// The normalisation for a checkpoint's tokenizer and the operator's choice.
    pub(super) fn choose(
        options: TokenizerOptions,
        class: Class,
        do_lower_case: Option<bool>,
    ) -> Self {
        use config::TextNormalization as Asked;
        let canonical = Self::Canonical { lower_case: do_lower_case.unwrap_or(true) };
        match (options.normalization, class, options.cleaning) {
            (Asked::None, ..) => Self::None,
            (Asked::BigVision, ..) => Self::LowerCase,
            (Asked::OpenClip, Class::Clip, None) => Self::OpenClip(Cleaning::Lower),
            (Asked::OpenClip, _, None) => Self::OpenClip(Cleaning::Canonicalize),
            (Asked::OpenClip | Asked::Auto, _, Some(cleaning)) => Self::OpenClip(cleaning),
            (Asked::Auto | Asked::Hf, Class::Siglip, _) => canonical,
            (Asked::Auto | Asked::Hf, Class::Siglip2, _) => Self::LowerCase,
            (Asked::Auto, Class::Gemma, None) => Self::LowerCase,
            (Asked::Auto | Asked::Hf, Class::Gemma | Class::Clip | Class::Other, _) => Self::None,
        }
    }

    /// The text as it enters the tokenizer.
    #[must_use]
    pub fn apply(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::None => Cow::Borrowed(text),
            Self::LowerCase => lower_case(text),
            Self::Canonical { lower_case: true } => Cow::Owned(canonical(&lower_case(text))),
            Self::Canonical { lower_case: false } => Cow::Owned(canonical(text)),
            Self::OpenClip(cleaning) => Cow::Owned(cleaning.apply(text)),
        }
    }
}

impl fmt::Display for TextNormalization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::LowerCase => "lower_case",
            Self::Canonical { lower_case: true } => "canonical",
            Self::Canonical { lower_case: false } => "canonical_cased",
            Self::OpenClip(Cleaning::Whitespace) => "openclip_whitespace",
            Self::OpenClip(Cleaning::Lower) => "openclip_lower",
            Self::OpenClip(Cleaning::Canonicalize) => "openclip_canonicalize",
        })
    }
}

impl Cleaning {
    fn apply(self, text: &str) -> String {
        let repaired = repair(text);
        let kept =
            |character: &char| self != Self::Canonicalize || !character.is_ascii_punctuation();
        let as_space = |character| {
            if self == Self::Canonicalize && character == '_' { ' ' } else { character }
        };
        let text: String = repaired.chars().map(as_space).filter(kept).collect();
        let text = if self == Self::Whitespace { Cow::Borrowed(&*text) } else { lower_case(&text) };
        text.split(is_python_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

/// Does what open_clip uses ftfy and `html.unescape` for, except ftfy's guesses at wrongly decoded text.
fn repair(text: &str) -> String {
    let mut text = Cow::Borrowed(text);
    // ftfy resolves entities if a text has no tags, and open_clip resolves them twice more.
    for _ in 0..if text.contains('<') { 2 } else { 3 } {
        text = Cow::Owned(htmlize::unescape(&*text).into_owned());
    }
    let mut repaired = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            // These are ligatures, and full-width and half-width characters.
            '\u{132}'
            | '\u{133}'
            | '\u{149}'
            | '\u{1c4}'..='\u{1cc}'
            | '\u{1f1}'..='\u{1f3}'
            | '\u{fb00}'..='\u{fb06}'
            | '\u{ff01}'..='\u{ffef}'
            | '\u{3000}' => {
                repaired.extend(std::iter::once(character).nfkc());
            }
            character => repaired.push(character),
        }
    }
    let straight = |character: char| match character {
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => '\'',
        '\u{201c}'..='\u{201f}' => '"',
        character => character,
    };
    repaired.chars().map(straight).filter(|&character| !is_stray_control(character)).nfc().collect()
}

/// Control characters that ftfy removes.
fn is_stray_control(character: char) -> bool {
    matches!(
        character,
        '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{206a}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffc}'
    )
}

fn lower_case(text: &str) -> Cow<'_, str> {
    // Most labels are already in lower case.
    if text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.to_lowercase())
    }
}

fn canonical(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    // Punctuation is removed first, so that the spaces around a single dash collapse into one.
    for character in text.chars().filter(|character| !character.is_ascii_punctuation()) {
        if !is_space(character) {
            result.push(character);
        } else if !result.is_empty() && !result.ends_with(' ') {
            result.push(' ');
        }
    }
    result.truncate(result.trim_end().len());
    result
}

fn is_space(character: char) -> bool {
    is_python_space(character) || character == SPACE_MARK
}

/// Whether Python's `\s` matches: it has four separators more than Unicode's `White_Space`.
fn is_python_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}')
}

#[cfg(test)]
mod tests;
