//! The arithmetic of a tower, with the implementation chosen when the checkpoint is loaded.
//!
//! Everything above calls [`Linear`], [`LayerNorm`], [`Attention`] and [`Activation`] and knows no device.
//! On the CPU they run the package `siglip_kernels` on f32 slices with no copies in between;
//! elsewhere they are candle's operations.

mod activation;
mod attention;
mod copies;
#[cfg(feature = "flash-attn")]
mod flash;
mod layer_norm;
mod linear;
mod view;

pub(super) use activation::Activation;
pub(super) use attention::{Attention, Mask};
pub(super) use copies::{Copies, Download};
pub(super) use layer_norm::LayerNorm;
pub(super) use linear::Linear;

#[cfg(test)]
mod tests;
