use super::*;

/// A unigram tokenizer whose vocabulary has the texts of its control tokens as pieces, as in SentencePiece.
const TOKENIZER: &str = r#"{
    "version": "1.0", "truncation": {"direction": "Left", "max_length": 3, "strategy": "LongestFirst",
    "stride": 0}, "padding": null,
    "added_tokens": [
        {"id": 0, "content": "<pad>", "single_word": false, "lstrip": false, "rstrip": false,
         "normalized": false, "special": true},
        {"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
         "normalized": false, "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always",
                      "split": true},
    "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "</s>", "type_id": 0}}], "pair": [],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
    "decoder": null,
    "model": {"type": "Unigram", "unk_id": 2, "byte_fallback": false, "vocab": [
        ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -5.0], ["a", -3.0], ["▁a", -2.0],
        ["▁cat", -2.5], ["s", -3.0], ["c", -4.0], ["t", -4.0]]}
}"#;

fn tokenizer(config: &str, length: usize) -> TextTokenizer {
    load(TOKENIZER, config, length).expect("a valid tokenizer")
}

fn options(text_length: usize, vocab_size: usize) -> TokenizerOptions {
    let normalization = config::TextNormalization::Auto;
    let layout = TextLayout { text_length, vocab_size, scheme: Scheme::Padded };
    TokenizerOptions { layout, normalization, cleaning: None }
}

fn load(tokenizer: &str, config: &str, length: usize) -> Result<TextTokenizer, TokenizerLoadError> {
    let files = TokenizerFiles {
        tokenizer: Some(tokenizer.as_bytes()),
        config: Some(config.as_bytes()),
        special_tokens_map: Some(br#"{"eos_token": {"content": "</s>"}, "unk_token": "<unk>"}"#),
        ..TokenizerFiles::default()
    };
    TextTokenizer::from_files(&files, options(length, 10))
}

const PLAIN: &str = r#"{"pad_token": "<pad>", "tokenizer_class": "PreTrainedTokenizerFast"}"#;

fn ids(tokenizer: &TextTokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(&tokenizer.canonical(text)).expect("any text").ids.to_vec()
}

#[test]
fn padded_to_the_length_with_the_tokenizers_own_pad() {
    let plain = tokenizer(PLAIN, 6);
    assert_eq!(ids(&plain, "a cat"), [5, 6, 1, 0, 0, 0]);
    assert_eq!(plain.encode("a cat").expect("any text").used, 3);
    assert_eq!(ids(&plain, ""), [1, 0, 0, 0, 0, 0]);
    let as_siglip_1 = tokenizer(r#"{"pad_token": {"content": "</s>", "special": true}}"#, 6);
    assert_eq!(ids(&as_siglip_1, "a cat"), [5, 6, 1, 1, 1, 1]);
}

#[test]
fn ids_of_a_client_are_padded_and_have_rows() {
    let plain = tokenizer(PLAIN, 6);
    for given in [&[5, 6, 1][..], &[5, 6, 1, 0, 0, 0]] {
        let tokens = plain.accept(given).expect("ids of the vocabulary");
        assert_eq!((&tokens.ids[..], tokens.used), (&[5, 6, 1, 0, 0, 0][..], 3));
    }
    assert_eq!(plain.accept(&[5, 10]), Err(IdsError::Unknown { id: 10, size: 10 }));
    assert_eq!(plain.accept(&[3; 7]), Err(IdsError::TooMany { found: 7, limit: 6 }));
    // If the end token is also the padding, the first one ends the text.
    let as_siglip_1 = tokenizer(r#"{"pad_token": "</s>"}"#, 6);
    assert_eq!(as_siglip_1.accept(&[5, 6, 1, 1]).expect("ids").used, 3);
}

#[test]
fn what_is_too_long_keeps_its_end_token() {
    let plain = tokenizer(PLAIN, 4);
    let tokens = plain.encode("a a a a a").expect("any text");
    assert_eq!(*tokens.ids, [5, 5, 5, 1]);
    assert!(tokens.truncated && tokens.used == 4);
    let exact = plain.encode("a a a").expect("any text");
    assert_eq!(*exact.ids, [5, 5, 5, 1]);
    assert!(!exact.truncated);
}

#[test]
fn a_control_token_in_a_text_is_text() {
    let plain = tokenizer(PLAIN, 8);
    for text in ["a </s> cat", "<pad>", "</s>", "a</s></s>"] {
        let tokens = plain.encode(text).expect("any text");
        let content = &tokens.ids[..tokens.used - 1];
        assert!(content.iter().all(|id| !matches!(id, 0 | 1)), "{text}: {content:?}");
    }
}

#[test]
fn the_first_siglip_is_canonicalised_and_always_ends() {
    let mut without_template: serde_json::Value =
        serde_json::from_str(TOKENIZER).expect("valid JSON");
    without_template["post_processor"] = serde_json::Value::Null;
    let config = r#"{"pad_token": "</s>", "tokenizer_class": "SiglipTokenizer"}"#;
    let siglip = load(&without_template.to_string(), config, 5).expect("a valid tokenizer");
    assert_eq!(siglip.canonical(" A, Cat! "), "a cat");
    assert_eq!(ids(&siglip, " A, Cat! "), [5, 6, 1, 1, 1]);
    assert_eq!(ids(&siglip, "</s>"), ids(&siglip, "s"));
}

#[test]
fn a_file_at_fault_is_named() {
    for (json, config, length, named) in [
        ("{", PLAIN, 4, "tokenizer.json"),
        (
            "{\"a\": 1}",
            PLAIN,
            4,
            "tokenizer.json: it does not describe a tokenizer that is read here",
        ),
        ("<html>", PLAIN, 4, "tokenizer.json: this is an HTML page"),
        ("", PLAIN, 4, "tokenizer.json: the file is empty"),
        (
            "version https://git-lfs.github.com/spec/v1\nsize 9",
            PLAIN,
            4,
            "tokenizer.json: this is a Git LFS",
        ),
        (TOKENIZER, "[", 4, "tokenizer_config.json: the JSON is cut short"),
        (
            TOKENIZER,
            r#"{"pad_token": 3}"#,
            4,
            "tokenizer_config.json: `pad_token` is 3; a text, or an object with the text `content`, is read",
        ),
        (
            TOKENIZER,
            r#"{"pad_token": "<pad>", "do_lower_case": "yes"}"#,
            4,
            "tokenizer_config.json: `do_lower_case` is \"yes\"; true or false is read",
        ),
        (TOKENIZER, "{}", 4, "pad_token"),
        (TOKENIZER, r#"{"pad_token": "<none>"}"#, 4, "<none>"),
        (TOKENIZER, PLAIN, 0, "text length of 0"),
    ] {
        let message = load(json, config, length).expect_err(named).to_string();
        assert!(message.contains(named), "{message}");
    }
}

#[test]
fn a_piece_without_a_row_is_unknown() {
    let files = TokenizerFiles {
        tokenizer: Some(TOKENIZER.as_bytes()),
        config: Some(br#"{"pad_token": "<pad>", "unk_token": "<unk>"}"#),
        ..TokenizerFiles::default()
    };
    let refused = TextTokenizer::from_files(&files, options(6, 9)).expect_err("one in ten is many");
    assert!(refused.to_string().contains("10 pieces"), "{refused}");

    let mut with_extras: serde_json::Value = serde_json::from_str(TOKENIZER).expect("valid JSON");
    let vocab = with_extras["model"]["vocab"].as_array_mut().expect("a list");
    for index in vocab.len()..200 {
        vocab.push(serde_json::json!([format!("▁extra{index}"), -9.0]));
    }
    let json = with_extras.to_string();
    let files = TokenizerFiles { tokenizer: Some(json.as_bytes()), ..files };
    let mt5 = TextTokenizer::from_files(&files, options(6, 199)).expect("one in two hundred");
    assert_eq!(ids(&mt5, "a extra198 extra199")[..3], [5, 198, 2]);
}

#[test]
fn a_checkpoint_without_a_tokenizer_is_refused() {
    let refused = TextTokenizer::from_files(&TokenizerFiles::default(), options(6, 10));
    let message = refused.expect_err("no file").to_string();
    assert!(message.contains("tokenizer.json") && message.contains("spiece.model"), "{message}");
}
