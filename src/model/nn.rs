//! Blocks that the towers of any family are built from, on any device.

mod bert;
mod encoder;
mod encoder_tower;
mod image_tower;
mod mlp;
mod outputs;
mod padding;
mod patches;
mod self_attention;
mod token_embedding;

pub use outputs::{Stage, Stages};

pub(super) use bert::{BertAttention, BertConfig, BertLayer, BertMlp, CrossAttention, KeyValues};
pub(super) use encoder::{Encoder, EncoderConfig, layer_norm, layer_norm_of};
pub(super) use encoder_tower::{Blocks, EncoderTower};
pub(super) use image_tower::{ImageEmbeddings, ImageHead, ImageTower, check_squares};
pub(super) use mlp::{Mlp, linear};
pub(super) use outputs::row;
pub(super) use padding::PaddingCache;
pub(super) use patches::{Grid, Patches, convolution};
pub(super) use token_embedding::{TokenConfig, TokenEmbeddings};
