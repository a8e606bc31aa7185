//! Reads `tokenizer_config.json` and `special_tokens_map.json`.

use serde_json::Value;

use super::TokenizerLoadError;
use crate::checkpoint::{
    content::ReadError,
    fields::{Document, Fields},
};

/// The fields that are read from both files.
#[derive(Debug, Default)]
pub(super) struct Declared {
    pub(super) tokenizer_class: Option<String>,
    pub(super) do_lower_case: Option<bool>,
    pub(super) pad_token: Option<Token>,
    pub(super) eos_token: Option<Token>,
    pub(super) bos_token: Option<Token>,
    pub(super) unk_token: Option<Token>,
}

/// A token by its text, alone or in the form of a serialised `AddedToken`.
#[derive(Debug)]
pub(super) struct Token(pub(super) String);

impl Token {
    fn of(fields: &Fields<'_>, key: &str) -> Result<Option<Self>, ReadError> {
        let content = |value: &Value| Some(value.get("content")?.as_str()?.to_owned());
        let text = |value: &Value| value.as_str().map(str::to_owned).or_else(|| content(value));
        let expected = "a text, or an object with the text `content`,";
        Ok(fields.read(key, expected, text)?.map(Self))
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

/// The tokenizer classes with their own rules, as transformers names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// SigLIP 1.
    Siglip,
    /// SigLIP 2, as its fixed-resolution checkpoints declare it.
    Gemma,
    /// SigLIP 2, as its NaFlex checkpoints declare it.
    Siglip2,
    /// CLIP.
    Clip,
    /// Any other class, or none.
    Other,
}

impl Class {
    /// The tokens that transformers assumes if the files declare none: pad, end and unknown.
    fn default_tokens(self) -> Option<[&'static str; 3]> {
        match self {
            Self::Siglip => Some(["</s>", "</s>", "<unk>"]),
            Self::Gemma | Self::Siglip2 => Some(["<pad>", "<eos>", "<unk>"]),
            // CLIP's tokenizer has its own defaults.
            Self::Clip | Self::Other => None,
        }
    }
}

impl Declared {
    pub(super) fn parse(
        file: &'static str,
        json: Option<&[u8]>,
    ) -> Result<Self, TokenizerLoadError> {
        let at_fault = |error: ReadError| TokenizerLoadError { file, message: error.to_string() };
        json.map_or_else(|| Ok(Self::default()), |json| Self::of(json).map_err(at_fault))
    }

    fn of(json: &[u8]) -> Result<Self, ReadError> {
        let document = Document::parse(json)?;
        let fields = document.fields();
        Ok(Self {
            tokenizer_class: fields.text("tokenizer_class")?.map(str::to_owned),
            do_lower_case: fields.flag("do_lower_case")?,
            pad_token: Token::of(&fields, "pad_token")?,
            eos_token: Token::of(&fields, "eos_token")?,
            bos_token: Token::of(&fields, "bos_token")?,
            unk_token: Token::of(&fields, "unk_token")?,
        })
    }

    /// Takes absent values from `other`.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            tokenizer_class: self.tokenizer_class.or(other.tokenizer_class),
            do_lower_case: self.do_lower_case.or(other.do_lower_case),
            pad_token: self.pad_token.or(other.pad_token),
            eos_token: self.eos_token.or(other.eos_token),
            bos_token: self.bos_token.or(other.bos_token),
            unk_token: self.unk_token.or(other.unk_token),
        }
    }

    /// Takes absent values from the defaults of a class.
    pub(super) fn with_defaults_of(self, class: Class) -> Self {
        let Some(tokens) = class.default_tokens() else { return self };
        let [pad_token, eos_token, unk_token] = tokens.map(|it| Some(Token(it.to_owned())));
        self.or(Self { pad_token, eos_token, unk_token, ..Self::default() })
    }

    pub(super) fn class(&self) -> Class {
        let class = self.tokenizer_class.as_deref().unwrap_or_default();
        match class.strip_suffix("Fast").unwrap_or(class) {
            "SiglipTokenizer" => Class::Siglip,
            "GemmaTokenizer" => Class::Gemma,
            "Siglip2Tokenizer" => Class::Siglip2,
            "CLIPTokenizer" => Class::Clip,
            _ => Class::Other,
        }
    }
}
