//! The arithmetic of the towers on a processor. Functions take slices and return slices; there are no tensors.
//!
//! Each kernel is written once over the trait `Simd` and compiled for every instruction set. A [`Level`] is a
//! set that the processor has. The level `portable` is plain Rust, and the reference in the tests of the
//! others.
//!
//! This is a separate package for two reasons. It is compiled with optimisation in every profile, so that tests
//! of whole towers are fast. And it holds all code that is `unsafe` for speed.

#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod epilogue;
mod level;
mod math;
mod operand;
mod packed;
mod product;
mod quantized;
pub mod resize;
mod rows;
mod simd;
mod tiles;

pub use attention::{Rows, Shape, attention};
pub use epilogue::{Activation, Epilogue, Residual};
pub use level::{Choice, Lacking, Level};
pub use packed::{Columns, Element, Packed, Packer};
pub use product::product;
pub use quantized::{Quantized, QuantizedColumns, Quantizer, quantized_product};
pub use rows::{activate, layer_norm, softmax_row};

#[cfg(test)]
mod tests;
