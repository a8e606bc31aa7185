//! The arithmetic of a tower, with the implementation chosen when the checkpoint is loaded.
//!
//! Everything above calls [`Linear`], [`LayerNorm`], [`attention`] and [`Activation`] and knows no device.
//! On the CPU they run on f32 slices with no copies in between; elsewhere they are candle's operations.

mod activation;
mod attention;
mod elementwise;
mod layer_norm;
mod linear;
mod view;

pub(super) use activation::Activation;
pub(super) use attention::attention;
pub(super) use layer_norm::LayerNorm;
pub(super) use linear::Linear;

#[cfg(test)]
mod tests;
