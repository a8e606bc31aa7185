//! BERT's tokenizer, built from its vocabulary as in transformers. The normaliser, the splitter and the
//! template of a `tokenizer.json` are not read.

use serde_json::Value;
use tokenizers::{
    Tokenizer,
    decoders::wordpiece::WordPiece as Decoder,
    models::{bpe::Vocab as Vocabulary, wordpiece::WordPiece},
    normalizers::bert::BertNormalizer,
    pre_tokenizers::bert::BertPreTokenizer,
};

use super::{
    Behind, Class, Declared, TextLayout, TextNormalization, TextTokenizer, Token, TokenizerFiles,
    TokenizerLoadError, TokenizerOptions, check_vocabulary, clip::vocab,
};
use crate::checkpoint::{TOKENIZER, VOCABULARY_TEXT, content};

/// The tokens that transformers assumes if the files declare none.
const START: &str = "[CLS]";
const END: &str = "[SEP]";
const PAD: &str = "[PAD]";
const UNKNOWN: &str = "[UNK]";
const MASK: &str = "[MASK]";

impl TextTokenizer {
    /// BERT's tokenizer. Every text has a start and an end token, which its content cannot produce.
    pub(super) fn of_bert(
        files: &TokenizerFiles<'_>,
        declared: &Declared,
        options: TokenizerOptions,
    ) -> Result<Self, TokenizerLoadError> {
        let at_fault = |file| move |message: String| TokenizerLoadError { file, message };
        let (file, words) = match (files.tokenizer, files.words) {
            (Some(json), _) => (TOKENIZER, of_tokenizer(json).map_err(at_fault(TOKENIZER))?),
            (None, Some(text)) => {
                (VOCABULARY_TEXT, lines(text).map_err(at_fault(VOCABULARY_TEXT))?)
            }
            (None, None) => {
                let message = format!("it is missing, and so is {VOCABULARY_TEXT}");
                return Err(TokenizerLoadError { file: TOKENIZER, message });
            }
        };
        let text = |token: &Option<Token>, default: &str| -> String {
            token.as_ref().map_or(default, Token::text).to_owned()
        };
        let unknown = text(&declared.unk_token, UNKNOWN);
        let id = |token: &str| {
            words.get(token).copied().ok_or_else(|| TokenizerLoadError {
                file,
                message: format!("the token `{token}` is not in the tokenizer's vocabulary"),
            })
        };
        let (start, end, unknown_id) = (id(START)?, id(END)?, id(&unknown)?);
        let pad = id(&text(&declared.pad_token, PAD))?;
        let control = [Some(start), Some(end), Some(pad), id(MASK).ok()];
        let model = WordPiece::builder()
            .vocab(words)
            .unk_token(unknown)
            .continuing_subword_prefix("##".to_owned())
            .max_input_chars_per_word(100)
            .build()
            .map_err(|error| at_fault(file)(error.to_string()))?;
        let mut tokenizer = Tokenizer::new(model);
        let lower_case = declared.do_lower_case.unwrap_or(true);
        tokenizer
            .with_normalizer(Some(BertNormalizer::new(true, true, None, lower_case)))
            .map_err(|error| at_fault(file)(error.to_string()))?;
        tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
        tokenizer.with_decoder(Some(Decoder::new("##".to_owned(), true)));
        tokenizer.set_encode_special_tokens(true);
        let TextLayout { text_length, vocab_size, .. } = options.layout;
        if text_length < 2 {
            let message = format!("its special tokens alone exceed a text length of {text_length}");
            return Err(TokenizerLoadError { file, message });
        }
        check_vocabulary(&tokenizer, vocab_size)?;
        Ok(Self {
            normalization: TextNormalization::choose(options, Class::Other, Some(lower_case)),
            tokenizer,
            sentencepiece: None,
            text_length,
            vocab_size: u32::try_from(vocab_size).unwrap_or(u32::MAX),
            behind: Behind::Whole { pad },
            prefix: vec![start],
            suffix: vec![end],
            control: control.into_iter().flatten().collect(),
            unknown: Some(unknown_id),
        })
    }
}

/// The vocabulary of a `tokenizer.json`.
fn of_tokenizer(json: &[u8]) -> Result<Vocabulary, String> {
    let document = content::json(json).map_err(|error| error.to_string())?;
    let model = document.get("model").unwrap_or(&Value::Null);
    match model.get("type").and_then(Value::as_str) {
        Some("WordPiece") | None => {}
        Some(other) => {
            return Err(format!(
                "`model.type` is \"{other}\"; `WordPiece` is read for a BLIP model"
            ));
        }
    }
    vocab(model.get("vocab").unwrap_or(&Value::Null))
        .map_err(|message| format!("`model.vocab`: {message}"))
}

/// The vocabulary of a `vocab.txt`: one token per line, whose number is the id.
fn lines(bytes: &[u8]) -> Result<Vocabulary, String> {
    content::check(bytes).map_err(|error| error.to_string())?;
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    let id =
        |(id, token): (usize, &str)| Some((token.trim_end().to_owned(), u32::try_from(id).ok()?));
    text.lines().enumerate().map(id).collect::<Option<_>>().ok_or("it is too long".to_owned())
}
