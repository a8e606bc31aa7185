//! SigLIP 1 and 2, at a fixed resolution and with NaFlex's variable one.
//!
//! One file a block, each naming the class of transformers that it mirrors. Both towers are built from the
//! same encoder; they differ in what goes in and in how one vector comes out.

pub(super) mod config;

mod attention;
mod embeddings;
mod encoder;
mod mlp;
mod pooling;
mod positions;
mod taps;
mod text;
mod vision;

pub use taps::{Stage, Stages};
pub use text::Text;
pub use vision::Vision;
