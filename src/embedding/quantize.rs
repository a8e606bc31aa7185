//! Stores rows in fewer bytes: half floats, 8-bit integers, bits.

use half::f16;

use super::Embedding;

/// The type of one stored value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// Signed 8-bit integers.
    I8,
    /// Unsigned 8-bit integers.
    U8,
}

impl Element {
    /// Bytes of one value.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::I8 | Self::U8 => 1,
        }
    }
}

/// How a row is stored. All encodings but `F32` lose precision.
///
/// The integers are for rows of length 1, whose values are in `[-1, 1]`. Their scale is the same for all values
/// of all rows, so that dot products and distances of stored rows keep their order. They agree within one level
/// with sentence-transformers' `quantize_embeddings` for the ranges -1 to 1, which truncates where this rounds;
/// here 0 stays 0. Bits are packed as in that function and in Cohere's API.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// 32-bit floats, unchanged.
    #[default]
    F32,
    /// The nearest 16-bit floats.
    F16,
    /// `round(127 * value)`, in `[-127, 127]`.
    Int8,
    /// `round(127 * value) + 128`, in `[1, 255]`: 0 becomes 128.
    Uint8,
    /// [`Encoding::Ubinary`] minus 128, as signed integers.
    Binary,
    /// One bit per value, which is 1 if the value is more than 0. Eight bits form a byte, the first one in the
    /// highest bit. The last byte is filled up with zeros.
    Ubinary,
}

impl Encoding {
    /// The type of a stored value.
    #[must_use]
    pub const fn element(self) -> Element {
        match self {
            Self::F32 => Element::F32,
            Self::F16 => Element::F16,
            Self::Int8 | Self::Binary => Element::I8,
            Self::Uint8 | Self::Ubinary => Element::U8,
        }
    }

    /// The number of stored values for a row of `dim` values.
    #[must_use]
    pub const fn stored_len(self, dim: usize) -> usize {
        match self {
            Self::Binary | Self::Ubinary => dim.div_ceil(8),
            _ => dim,
        }
    }

    /// Whether rows must have length 1.
    #[must_use]
    pub const fn needs_normalized(self) -> bool {
        matches!(self, Self::Int8 | Self::Uint8)
    }

    /// Appends a row's stored values, little-endian.
    pub fn write(self, row: &[f32], out: &mut Vec<u8>) {
        out.reserve(self.stored_len(row.len()) * self.element().bytes());
        match self {
            Self::F32 => out.extend(row.iter().flat_map(|value| value.to_le_bytes())),
            Self::F16 => {
                out.extend(row.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()));
            }
            Self::Int8 => out.extend(row.iter().map(|&value| level(value).cast_unsigned())),
            // Adding 128 flips the sign bit.
            Self::Uint8 => out.extend(row.iter().map(|&value| level(value).cast_unsigned() ^ 0x80)),
            Self::Binary => out.extend(bits(row).map(|byte| byte ^ 0x80)),
            Self::Ubinary => out.extend(bits(row)),
        }
    }
}

/// The nearest of the levels -127 to 127, halves away from zero.
fn level(value: f32) -> i8 {
    // The cast saturates, so no value wraps around.
    (value.clamp(-1.0, 1.0) * 127.0).round() as i8
}

fn bits(row: &[f32]) -> impl Iterator<Item = u8> {
    row.chunks(8).map(|values| {
        let bit = |(index, &value): (usize, &f32)| u8::from(value > 0.0) << (7 - index);
        values.iter().enumerate().map(bit).sum()
    })
}

impl Embedding {
    /// The row's stored values, little-endian.
    #[must_use]
    pub fn encoded(&self, encoding: Encoding) -> Vec<u8> {
        let mut bytes = Vec::new();
        encoding.write(self.as_slice(), &mut bytes);
        bytes
    }

    /// The row as signed integers: [`Encoding::Int8`] or [`Encoding::Binary`].
    #[must_use]
    pub fn to_i8(&self, encoding: Encoding) -> Vec<i8> {
        self.encoded(encoding).into_iter().map(u8::cast_signed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(row: &[f32], encoding: Encoding) -> Vec<u8> {
        Embedding::new(row).encoded(encoding)
    }

    #[test]
    fn integers_are_levels_of_one_scale() {
        let row = [0.0, 1.0, -1.0, 0.5, -0.5, 0.003, 2.0, -2.0];
        let int8 = Embedding::new(&row[..]).to_i8(Encoding::Int8);
        assert_eq!(int8, [0, 127, -127, 64, -64, 0, 127, -127]);
        assert_eq!(encoded(&row, Encoding::Uint8), [128, 255, 1, 192, 64, 128, 255, 1]);
    }

    /// `quantize_embeddings` computes `trunc((value + 1) * 127.5 - 128)` for the ranges -1 to 1.
    #[test]
    fn integers_stay_within_a_level_of_sentence_transformers() {
        for step in -1000..=1000 {
            let value = step as f32 / 1000.0;
            let theirs = ((value + 1.0) * 127.5 - 128.0) as i8;
            assert!((i16::from(level(value)) - i16::from(theirs)).abs() <= 1, "{value}");
        }
    }

    /// The expected values come from numpy: `np.packbits(row > 0)`, and `.astype(int) - 128` of it.
    #[test]
    fn bits_are_packed_as_numpy_packs_them() {
        let row = [0.1, -0.1, 0.0, 2.0, -3.0, 0.1, 0.1, -0.1, 0.5, 0.5];
        assert_eq!(encoded(&row, Encoding::Ubinary), [0b1001_0110, 0b1100_0000]);
        assert_eq!(Embedding::new(&row[..]).to_i8(Encoding::Binary), [22, 64]);
        assert_eq!(Encoding::Binary.stored_len(10), 2);
    }

    #[test]
    fn floats_are_little_endian_and_halves_the_nearest() {
        assert_eq!(encoded(&[1.0, -2.0], Encoding::F32), [0, 0, 128, 63, 0, 0, 0, 192]);
        assert_eq!(encoded(&[1.0, 0.1], Encoding::F16), [0, 0x3c, 0x66, 0x2e]);
    }

    #[test]
    fn eight_bits_keep_the_direction() {
        let wave = |phase: f32| {
            Embedding::new((0..768).map(|i| (i as f32 * phase).sin()).collect::<Vec<_>>())
        };
        let row = wave(0.37).normalized();
        let int8 = row.to_i8(Encoding::Int8);
        let dot: f32 = row.as_slice().iter().zip(&int8).map(|(a, &b)| a * f32::from(b)).sum();
        let norm = int8.iter().map(|&b| f32::from(b).powi(2)).sum::<f32>().sqrt();
        assert!(dot / norm > 0.997, "{}", dot / norm);
    }
}
