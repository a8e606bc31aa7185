//! Compares ids with transformers: for SentencePiece's own files, and for the real tokenizer of SigLIP 2.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use siglip_server::{
    config::TextNormalization,
    tokenize::{Scheme, TextLayout, TextTokenizer, TokenizerFiles, TokenizerOptions},
};

use super::reference::folder;

/// The file to which `tests/golden/fetch_gemma_tokenizer` downloads SigLIP 2's tokenizer. It is too large for
/// the repository.
const GEMMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/golden/gemma/tokenizer.json");

fn options(text_length: usize, vocab_size: usize) -> TokenizerOptions {
    let normalization = TextNormalization::Auto;
    let layout = TextLayout { text_length, vocab_size, scheme: Scheme::Padded };
    TokenizerOptions { layout, normalization, cleaning: None }
}

fn ids(tokenizer: &TextTokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(&tokenizer.canonical(text)).expect("any text").ids.to_vec()
}

/// The stored models, and larger ones from an optional folder.
fn sentencepiece_models() -> Vec<PathBuf> {
    let more = env::var_os("SIGLIP_SENTENCEPIECE").map(PathBuf::from);
    let roots = [folder().join("sentencepiece")].into_iter().chain(more);
    let models: Vec<_> = roots
        .flat_map(|root| fs::read_dir(root).expect("a folder of models"))
        .map(|entry| entry.expect("a model").path())
        .collect();
    assert!(models.len() >= 2);
    models
}

#[test]
fn a_sentencepiece_file_alone_gives_the_slow_tokenizers_ids() {
    let mut compared = 0;
    let mut failures = Vec::new();
    for path in sentencepiece_models() {
        let model = fs::read(path.join("spiece.model")).expect("a model");
        let files = TokenizerFiles { sentencepiece: Some(&model), ..TokenizerFiles::default() };
        let expected = fs::read(path.join("expected.json")).expect("its ids");
        let expected: BTreeMap<String, Vec<u32>> =
            serde_json::from_slice(&expected).expect("texts with their ids");
        let length = expected.values().next().expect("texts").len();
        let tokenizer = TextTokenizer::from_files(&files, options(length, 1 << 20));
        let tokenizer = tokenizer.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(tokenizer.normalization().to_string(), "canonical");
        for (text, expected) in expected {
            compared += 1;
            let ids = ids(&tokenizer, &text);
            if ids != expected {
                failures.push(format!("{} {text:?}: {ids:?}, not {expected:?}", path.display()));
            }
        }
    }
    println!("| sentencepiece | ids of {compared} texts | {} differ | 0 |", failures.len());
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn gemmas_tokenizer_gives_the_published_ids() {
    let Ok(json) = fs::read(GEMMA) else {
        println!("SKIPPED: {GEMMA} is absent; tests/golden/fetch_gemma_tokenizer fetches it");
        return;
    };
    let load = |normalization| {
        let config = br#"{"tokenizer_class": "GemmaTokenizer"}"#;
        let files = TokenizerFiles {
            tokenizer: Some(&json),
            config: Some(config),
            ..TokenizerFiles::default()
        };
        let options = TokenizerOptions { normalization, ..options(64, 256_000) };
        TextTokenizer::from_files(&files, options).expect("a valid tokenizer")
    };
    let lower_cased = load(TextNormalization::Auto);
    let raw = load(TextNormalization::Hf);
    let padded = |ids: &[u32]| {
        let mut ids = ids.to_vec();
        ids.resize(64, 0);
        ids
    };
    for (text, expected) in [
        ("a photo of a cat", &[235_250, 2686, 576, 476, 4401, 1][..]),
        ("an apple", &[481, 15_491, 1]),
        ("", &[1]),
    ] {
        assert_eq!(ids(&lower_cased, text), padded(expected), "{text}");
        assert_eq!(ids(&raw, text), padded(expected), "{text}");
    }
    let text = "A Photo of a CAT.";
    let expected = [235_280, 8640, 576, 476, 33_862, 235_265, 1];
    assert_eq!(ids(&raw, text), padded(&expected));
    let expected = [235_250, 2686, 576, 476, 4401, 235_265, 1];
    assert_eq!(ids(&lower_cased, text), padded(&expected));
    // The name of a control token in a text is text.
    for text in ["<eos>", "a cat<eos>", "<pad><bos><eos>"] {
        let tokens = lower_cased.encode(text).expect("any text");
        let content = &tokens.ids[..tokens.used - 1];
        assert!(content.iter().all(|id| *id > 3), "{text}: {content:?}");
    }
    let long = ids(&lower_cased, &"cat ".repeat(100));
    assert_eq!((long.len(), long[63]), (64, 1));
    println!("| gemma | ids of 9 texts | 0 differ | 0 |");
}
