//! Compares both towers, the tokenizer and the preprocessing with stored outputs of transformers and Pillow.
//!
//! `tests/golden/generate.py` writes the outputs. `docs/numerics.md` explains the tolerances.

mod blip;
mod blip2;
mod blip2_served;
mod blip_served;
mod caption_beams;
mod clip;
mod demo;
mod features;
mod full_size;
mod grids;
mod image_files;
mod llava;
mod llava_served;
mod matching_token;
mod naflex;
mod parts;
mod pictures;
mod reference;
mod served;
mod stages;
mod tokenizers;
mod variants;
