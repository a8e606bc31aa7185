//! The instruction sets that an operator may choose.

use std::{fmt, str::FromStr};

/// The instruction sets that an operator may choose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Choice {
    /// The fastest set of the processor.
    #[default]
    Auto,
    /// Plain Rust, compiled for the oldest processor of the architecture.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512: F, BW, DQ and VL.
    Avx512,
    /// `Avx512` with VNNI, for products of bytes.
    Avx512Vnni,
    /// `Avx512Vnni` with BF16, for products of pairs of bf16.
    Avx512Bf16,
    /// `Avx512Bf16` with tiles of bf16 and of bytes.
    Amx,
    /// The tile instructions in plain Rust, on any x86. It is for tests, is many times slower than any other
    /// set, and has no name for operators.
    AmxTwin,
    /// NEON, of aarch64.
    Neon,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512vnni",
            Self::Avx512Bf16 => "avx512bf16",
            Self::Amx => "amx",
            Self::AmxTwin => "amx-twin",
            Self::Neon => "neon",
        })
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "portable" => Ok(Self::Portable),
            "avx2" => Ok(Self::Avx2),
            "avx512" => Ok(Self::Avx512),
            "avx512vnni" => Ok(Self::Avx512Vnni),
            "avx512bf16" => Ok(Self::Avx512Bf16),
            "amx" => Ok(Self::Amx),
            "neon" => Ok(Self::Neon),
            _ => Err(format!(
                "`{text}` is not a level: auto, portable, avx2, avx512, avx512vnni, avx512bf16, amx or neon"
            )),
        }
    }
}
