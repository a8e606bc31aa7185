//! The arithmetic of the towers on a processor: slices in, slices out, no tensors.
//!
//! Each kernel is written once over the trait `Simd` and compiled for every set of instructions; a [`Level`] names
//! one that the processor has. [`Level`] `portable` is plain Rust, and the twin that the others are tested against.
//!
//! This is a package of its own for two reasons. It is compiled with optimisation in every profile, so that tests
//! of whole towers stay fast; and all code that is `unsafe` for speed is in it, so that the server's own package
//! need allow none.

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
