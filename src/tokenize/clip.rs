//! CLIP's tokenizer, built from its vocabulary and merges as in transformers. The normaliser, the splitter and
//! the template of a `tokenizer.json` are not read.

use serde_json::Value;
use tokenizers::{
    AddedToken, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer,
    models::bpe::{BPE, Merges, Vocab},
    normalizers::{
        NFC, Replace, Sequence as Normalizers, replace::ReplacePattern, utils::Lowercase,
    },
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence as PreTokenizers,
        split::{Split, SplitPattern},
    },
};

use super::{
    Behind, Class, Declared, TextEnd, TextLayout, TextNormalization, TextTokenizer, Token,
    TokenizerFiles, TokenizerLoadError, TokenizerOptions, check_vocabulary,
};
use crate::checkpoint::{MERGES, TOKENIZER, VOCABULARY, content};

/// The tokens that transformers assumes if the files declare none.
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// The pattern that splits a text before its bytes are merged.
const SPLIT: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// * `unknown`: the token for bytes that the vocabulary lacks
///
/// # Errors
/// Names the file that is missing or cannot be read.
fn read(files: &TokenizerFiles<'_>, unknown: &str) -> Result<Tokenizer, TokenizerLoadError> {
    let (file, (vocab, merges)) = match (files.tokenizer, files.vocab, files.merges) {
        (Some(json), ..) => (TOKENIZER, of_tokenizer(json).map_err(at_fault(TOKENIZER))?),
        (None, Some(vocab), Some(merges)) => {
            let vocab = content::json(vocab).map_err(|error| error.to_string());
            let vocab = vocab
                .and_then(|vocab| self::vocab::<Vocab>(&vocab))
                .map_err(at_fault(VOCABULARY))?;
            (VOCABULARY, (vocab, lines(merges).map_err(at_fault(MERGES))?))
        }
        (None, vocab, _) => {
            let missing = if vocab.is_some() { MERGES } else { VOCABULARY };
            let message = format!("it is missing, and so is {TOKENIZER}");
            return Err(TokenizerLoadError { file: missing, message });
        }
    };
    let failed = |error: tokenizers::Error| at_fault(file)(error.to_string());
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .unk_token(unknown.to_owned())
        .continuing_subword_prefix(String::new())
        .end_of_word_suffix("</w>".to_owned())
        .build()
        .map_err(failed)?;
    let space = ReplacePattern::Regex(r"\s+".to_owned());
    let normalizers: Vec<NormalizerWrapper> =
        vec![NFC.into(), Replace::new(space, " ").map_err(failed)?.into(), Lowercase.into()];
    let split = SplitPattern::Regex(SPLIT.to_owned());
    let split = Split::new(split, SplitDelimiterBehavior::Removed, true).map_err(failed)?;
    let bytes = ByteLevel::default().add_prefix_space(false);
    let pre_tokenizers: Vec<PreTokenizerWrapper> = vec![split.into(), bytes.into()];
    let mut tokenizer = Tokenizer::new(bpe);
    tokenizer.with_normalizer(Some(Normalizers::new(normalizers))).map_err(failed)?;
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(pre_tokenizers)));
    let special = [START, END].into_iter().filter(|token| tokenizer.token_to_id(token).is_some());
    let special: Vec<_> = special.map(|token| AddedToken::from(token, true)).collect();
    tokenizer.add_special_tokens(special).map_err(failed)?;
    Ok(tokenizer)
}

fn at_fault(file: &'static str) -> impl Fn(String) -> TokenizerLoadError {
    move |message| TokenizerLoadError { file, message }
}

/// The vocabulary and the merges of a `tokenizer.json`.
fn of_tokenizer(json: &[u8]) -> Result<(Vocab, Merges), String> {
    let document = content::json(json).map_err(|error| error.to_string())?;
    let model = document.get("model").unwrap_or(&Value::Null);
    match model.get("type").and_then(Value::as_str) {
        Some("BPE") | None => {}
        Some(other) => {
            return Err(format!("`model.type` is \"{other}\"; `BPE` is read for a CLIP model"));
        }
    }
    let pair = |merge: &Value| match merge {
        Value::String(line) => merge_of(line),
        Value::Array(pair) => match &pair[..] {
            [left, right] => Some((left.as_str()?.to_owned(), right.as_str()?.to_owned())),
            _ => None,
        },
        _ => None,
    };
    let merges = model.get("merges").and_then(Value::as_array);
    let merges = merges.map(|merges| merges.iter().map(pair).collect::<Option<Merges>>());
    let merges = merges.flatten().ok_or("`model.merges` is not a list of pairs of tokens")?;
    let vocab = vocab::<Vocab>(model.get("vocab").unwrap_or(&Value::Null));
    Ok((vocab.map_err(|message| format!("`model.vocab`: {message}"))?, merges))
}

pub(super) fn vocab<V: FromIterator<(String, u32)>>(value: &Value) -> Result<V, String> {
    let id = |id: &Value| u32::try_from(id.as_u64()?).ok();
    let entries = value.as_object().map(|entries| {
        let entry = |(token, value): (&String, &Value)| Some((token.clone(), id(value)?));
        entries.iter().map(entry).collect::<Option<V>>()
    });
    entries.flatten().ok_or_else(|| "it is not an object of tokens with their ids".to_owned())
}

/// The merges of a `merges.txt`, one pair per line.
fn lines(bytes: &[u8]) -> Result<Merges, String> {
    content::check(bytes).map_err(|error| error.to_string())?;
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    let mut merges = Merges::new();
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || (number == 0 && line.starts_with("#version")) {
            continue;
        }
        let merge = merge_of(line);
        merges.push(merge.ok_or_else(|| format!("line {} is not a pair of tokens", number + 1))?);
    }
    Ok(merges)
}

fn merge_of(line: &str) -> Option<(String, String)> {
    let (left, right) = line.split_once(' ')?;
    (!right.contains(' ')).then(|| (left.to_owned(), right.to_owned()))
}

impl TextTokenizer {
    /// CLIP's tokenizer. Every text has a start and an end token, which its content cannot produce.
    pub(super) fn of_clip(
        files: &TokenizerFiles<'_>,
        declared: Declared,
        (options, end): (TokenizerOptions, TextEnd),
    ) -> Result<Self, TokenizerLoadError> {
        let text = |token: &Option<Token>, default: &str| -> String {
            token.as_ref().map_or(default, Token::text).to_owned()
        };
        let unknown = text(&declared.unk_token, END);
        let mut tokenizer = read(files, &unknown)?;
        tokenizer.set_encode_special_tokens(true);
        let id = |token: String| {
            tokenizer.token_to_id(&token).ok_or_else(|| TokenizerLoadError {
                file: TOKENIZER,
                message: format!("the token `{token}` is not in the tokenizer's vocabulary"),
            })
        };
        let start = id(text(&declared.bos_token, START))?;
        let own_end = id(text(&declared.eos_token, END))?;
        let unknown = id(unknown)?;
        let TextLayout { text_length, vocab_size, .. } = options.layout;
        if text_length < 2 {
            return Err(TokenizerLoadError {
                file: TOKENIZER,
                message: format!("its special tokens alone exceed a text length of {text_length}"),
            });
        }
        check_vocabulary(&tokenizer, vocab_size)?;
        let lower_case = declared.do_lower_case;
        Ok(Self {
            normalization: TextNormalization::choose(options, Class::Clip, lower_case),
            tokenizer,
            sentencepiece: None,
            text_length,
            vocab_size: u32::try_from(vocab_size).unwrap_or(u32::MAX),
            behind: Behind::Nothing(end),
            prefix: vec![start],
            suffix: vec![own_end],
            control: [start, own_end].into(),
            unknown: Some(unknown),
        })
    }
}
