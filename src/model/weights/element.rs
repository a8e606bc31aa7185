//! The element types that tensors are made of.

use half::{bf16, f16};
use safetensors::Dtype;

/// What tensors are made of.
pub(super) trait Element: candle_core::WithDType {
    fn from_f32(value: f32) -> Self;
    fn from_f16(value: f16) -> Self {
        Self::from_f32(value.to_f32())
    }
    fn from_bf16(value: bf16) -> Self {
        Self::from_f32(value.to_f32())
    }

    /// Appends stored values, widened or rounded to this type. Fails on a type that is not read.
    fn extend(values: &mut Vec<Self>, dtype: Dtype, bytes: &[u8]) -> Result<(), ()> {
        match dtype {
            Dtype::F32 => values.extend(
                bytes.as_chunks().0.iter().map(|&bytes| Self::from_f32(f32::from_le_bytes(bytes))),
            ),
            Dtype::F16 => values.extend(
                bytes.as_chunks().0.iter().map(|&bytes| Self::from_f16(f16::from_le_bytes(bytes))),
            ),
            Dtype::BF16 => values.extend(
                bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|&bytes| Self::from_bf16(bf16::from_le_bytes(bytes))),
            ),
            _ => return Err(()),
        }
        Ok(())
    }
}

impl Element for f32 {
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Element for f16 {
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn from_f16(value: f16) -> Self {
        value
    }
}

impl Element for bf16 {
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn from_bf16(value: bf16) -> Self {
        value
    }
}
