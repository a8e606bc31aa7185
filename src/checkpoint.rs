//! The files of a checkpoint: their names, which of them belong together, and what a file really is if it is
//! not what its name says.
//!
//! The hub client and the loader use the same rules, so that a repository gives the same vectors however it was
//! obtained.

pub mod content;
pub mod fields;
pub mod layout;

/// The configuration of the towers in transformers' format.
pub const CONFIG: &str = "config.json";
/// The configuration of the towers in open_clip's format.
pub const OPEN_CLIP_CONFIG: &str = "open_clip_config.json";
/// The configuration of the image processor.
pub const PREPROCESSOR: &str = "preprocessor_config.json";
/// The file that transformers 5 writes instead of [`PREPROCESSOR`].
pub const PROCESSOR: &str = "processor_config.json";
/// The special tokens of older exports.
pub const SPECIAL_TOKENS: &str = "special_tokens_map.json";
/// SentencePiece's own file.
pub const SENTENCEPIECE: &str = "spiece.model";
/// The tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// The tokenizer's class and special tokens.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// The tokens of CLIP's tokenizer, if there is no [`TOKENIZER`].
pub const VOCABULARY: &str = "vocab.json";
/// The merges of CLIP's tokenizer, which belong to [`VOCABULARY`].
pub const MERGES: &str = "merges.txt";
/// The tokens of BERT's tokenizer, if there is no [`TOKENIZER`].
pub const VOCABULARY_TEXT: &str = "vocab.txt";
/// The weights under transformers' name.
pub const WEIGHTS: &str = "model.safetensors";
/// The index that names the files of weights in several parts.
pub const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
/// The weights under open_clip's name.
pub const OPEN_CLIP_WEIGHTS: &str = "open_clip_model.safetensors";

/// Maximum number of bytes of a file other than the weights. The largest tokenizers have about 35 MB.
pub const MAX_SMALL_BYTES: u64 = 256 << 20;

/// All files that are read in addition to the weights. Only one of the two configurations is required. A
/// folder's files are hashed in this order for its revision.
pub const SMALL_FILES: [&str; 11] = [
    CONFIG,
    OPEN_CLIP_CONFIG,
    PREPROCESSOR,
    PROCESSOR,
    TOKENIZER,
    SENTENCEPIECE,
    TOKENIZER_CONFIG,
    SPECIAL_TOKENS,
    VOCABULARY,
    MERGES,
    VOCABULARY_TEXT,
];
