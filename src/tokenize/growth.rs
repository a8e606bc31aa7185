//! Limits how much longer a tokenizer's own normaliser can make a text.
//!
//! The length of a text is checked when it arrives. A checkpoint whose normaliser writes a megabyte for every
//! letter would make gigabytes of it, so such a checkpoint is refused when it is loaded.

use serde_json::Value;

use super::sentencepiece::Charsmap;

/// Maximum number of bytes for one byte of the text, after all replacements. Published tokenizers stay below
/// 13.
const MAX_GROWTH: usize = 64;

/// Checks a normaliser as `tokenizer.json` describes it.
///
/// # Errors
/// Says how it would make a text longer.
pub(super) fn check(normalizer: &Value) -> Result<(), String> {
    match growth(normalizer)? {
        growth if growth <= MAX_GROWTH => Ok(()),
        growth => Err(format!(
            "its normalizer may make a text {growth} times as long, which is more than {MAX_GROWTH} times"
        )),
    }
}

fn growth(normalizer: &Value) -> Result<usize, String> {
    let text = |name: &str| normalizer[name].as_str().unwrap_or_default();
    Ok(match text("type") {
        "Sequence" => {
            let parts = normalizer["normalizers"].as_array().map_or(&[][..], Vec::as_slice);
            let mut product = 1_usize;
            for part in parts {
                product = product.saturating_mul(growth(part)?);
            }
            product
        }
        "Replace" => {
            let content = text("content").len();
            match normalizer["pattern"]["String"].as_str() {
                Some(pattern) if !pattern.is_empty() => content.div_ceil(pattern.len()).max(1),
                // An expression may match the empty text before every letter.
                _ => 1 + content,
            }
        }
        "Prepend" => 1 + text("prepend").len(),
        "Precompiled" => {
            let bytes = base64_simd::STANDARD.decode_to_vec(text("precompiled_charsmap"));
            // Damaged data was refused before.
            if let Ok(bytes) = bytes {
                Charsmap::read(&bytes)?;
            }
            1
        }
        // These are Unicode's normal forms, lower case, and normalisers that only remove.
        _ => 1,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_published_tokenizers_do_is_little() {
        for (normalizer, expected) in [
            (Value::Null, 1),
            (json!({"type": "Lowercase"}), 1),
            (json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}), 3),
            (json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}), 2),
            (json!({"type": "Replace", "pattern": {"Regex": "[!\"#]"}, "content": ""}), 1),
            (
                json!({"type": "Sequence", "normalizers": [
                    {"type": "Prepend", "prepend": "\u{2581}"},
                    {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
                ]}),
                12,
            ),
        ] {
            assert_eq!(growth(&normalizer), Ok(expected), "{normalizer}");
            assert_eq!(check(&normalizer), Ok(()), "{normalizer}");
        }
    }

    #[test]
    fn a_bomb_is_refused_in_one_step_or_in_several() {
        let step = |bytes: usize| json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(bytes)});
        let nested = json!({"type": "Sequence", "normalizers": [step(8), {"type": "Sequence", "normalizers": [step(9)]}]});
        let many = json!({"type": "Sequence", "normalizers": vec![step(2); 100]});
        for bomb in [step(1 << 20), nested, many] {
            let error = check(&bomb).expect_err("a bomb");
            assert!(error.contains("times as long"), "{error}");
        }
    }
}
