//! What is done to a text before the tokenizer reads it.

use std::borrow::Cow;

/// SentencePiece's own mark for a space; user text may not smuggle it in.
const SPACE_MARK: char = '\u{2581}';

/// What is done to a text before the tokenizer reads it. References disagree; a checkpoint's tokenizer
/// class decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextNormalization {
    /// Nothing beyond the tokenizer's own normaliser.
    None,
    /// Lower-case: SigLIP 2, as it was trained.
    LowerCase,
    /// SigLIP 1: ASCII punctuation deleted, white space collapsed and stripped.
    Canonical {
        /// Lower-case first; the published checkpoints do.
        lower_case: bool,
    },
}

impl TextNormalization {
    /// The normalisation for a `tokenizer_class`, as transformers names it.
    #[must_use]
    pub fn of_class(class: &str, do_lower_case: Option<bool>) -> Self {
        match class.strip_suffix("Fast").unwrap_or(class) {
            "SiglipTokenizer" => Self::Canonical { lower_case: do_lower_case.unwrap_or(true) },
            "Siglip2Tokenizer" | "GemmaTokenizer" => Self::LowerCase,
            _ => Self::None,
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
        }
    }
}

fn lower_case(text: &str) -> Cow<'_, str> {
    // Labels mostly are lower-case already.
    if text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.to_lowercase())
    }
}

fn canonical(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    // Punctuation goes first: the spaces around a lone dash collapse into one.
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

/// What Python's `\s` matches, which has four separators more than Unicode's `White_Space`.
fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}') || character == SPACE_MARK
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: TextNormalization = TextNormalization::Canonical { lower_case: true };

    #[test]
    fn the_class_decides() {
        assert_eq!(TextNormalization::of_class("SiglipTokenizerFast", None), V1);
        assert_eq!(
            TextNormalization::of_class("SiglipTokenizer", Some(false)),
            TextNormalization::Canonical { lower_case: false }
        );
        for class in ["GemmaTokenizer", "GemmaTokenizerFast", "Siglip2Tokenizer"] {
            assert_eq!(TextNormalization::of_class(class, None), TextNormalization::LowerCase);
        }
        for class in ["", "PreTrainedTokenizerFast", "TokenizersBackend"] {
            assert_eq!(TextNormalization::of_class(class, None), TextNormalization::None);
        }
    }

    #[test]
    fn the_first_siglip_drops_case_punctuation_and_spare_space() {
        for (text, canonical) in [
            ("  A Photo\tof\u{a0}a CAT. ", "a photo of a cat"),
            ("well-known, isn't_it?", "wellknown isntit"),
            ("cats - dogs", "cats dogs"),
            ("\u{1f}ÜBER\u{1c}\u{2581}über", "über über"),
            ("고양이 사진!", "고양이 사진"),
            ("!?.", ""),
            ("ΣΑΣ", "σας"),
        ] {
            assert_eq!(V1.apply(text), canonical);
        }
    }

    #[test]
    fn the_second_siglip_lowers_only() {
        assert_eq!(TextNormalization::LowerCase.apply("A  Cat."), "a  cat.");
        assert!(matches!(TextNormalization::LowerCase.apply("a cat."), Cow::Borrowed(_)));
        assert!(matches!(TextNormalization::None.apply("A CAT."), Cow::Borrowed("A CAT.")));
    }
}
