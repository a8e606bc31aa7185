//! The checkpoint inside the binary, so that the server runs with no download.

/// What `--model` calls it.
pub(super) const NAME: &str = "demo";

/// Its small files.
pub(super) const FILES: [(&str, &[u8]); 4] = [
    ("config.json", include_bytes!("../../models/demo/config.json")),
    ("preprocessor_config.json", include_bytes!("../../models/demo/preprocessor_config.json")),
    ("tokenizer.json", include_bytes!("../../models/demo/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../models/demo/tokenizer_config.json")),
];

/// Its weights, in f16. Read in place from the binary's own pages.
pub(super) const WEIGHTS: &[u8] = include_bytes!("../../models/demo/model.safetensors");
