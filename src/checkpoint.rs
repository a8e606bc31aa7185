//! What a checkpoint's files are: their names, which of them belong together, and what a file holds that is
//! not what its name says.
//!
//! The hub code decides by these rules what to download, and the loader what to read, so that a repository
//! gives the same vectors whichever way it was obtained.

pub mod content;
pub mod fields;
pub mod layout;

/// Describes the towers in transformers' format.
pub const CONFIG: &str = "config.json";
/// Describes the towers in open_clip's format.
pub const OPEN_CLIP_CONFIG: &str = "open_clip_config.json";
/// Says how images are prepared.
pub const PREPROCESSOR: &str = "preprocessor_config.json";
/// What transformers 5 writes in place of [`PREPROCESSOR`].
pub const PROCESSOR: &str = "processor_config.json";
/// Where older exports keep the special tokens.
pub const SPECIAL_TOKENS: &str = "special_tokens_map.json";
/// SentencePiece's own file.
pub const SENTENCEPIECE: &str = "spiece.model";
/// The tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// The tokenizer's class and special tokens.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// The tokens of CLIP's tokenizer, where there is no [`TOKENIZER`].
pub const VOCABULARY: &str = "vocab.json";
/// The merges of CLIP's tokenizer, which go with [`VOCABULARY`].
pub const MERGES: &str = "merges.txt";
/// The tokens of BERT's tokenizer, where there is no [`TOKENIZER`].
pub const VOCABULARY_TEXT: &str = "vocab.txt";
/// The weights under transformers' name.
pub const WEIGHTS: &str = "model.safetensors";
/// Names the files of weights that are stored in several.
pub const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
/// The weights under open_clip's name.
pub const OPEN_CLIP_WEIGHTS: &str = "open_clip_model.safetensors";

/// Most bytes of a file beside the weights: the largest tokenizers have some 35 MB.
pub const MAX_SMALL_BYTES: u64 = 256 << 20;

/// Everything that is read beside the weights. Only one of the two configurations must be there. The order is that in
/// which a folder's files are hashed for its revision.
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
