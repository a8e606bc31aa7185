//! The choice of kernels for a device.

use std::{fmt, str::FromStr};

/// The kernels for a CUDA device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CudaKernels {
    /// The server's own, if they give what candle's operations give.
    #[default]
    Own,
    /// Candle's operations.
    Candle,
}

impl fmt::Display for CudaKernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "own",
            Self::Candle => "candle",
        })
    }
}

impl FromStr for CudaKernels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "own" => Ok(Self::Own),
            "candle" => Ok(Self::Candle),
            _ => Err(format!("`{text}` names no kernels: own or candle")),
        }
    }
}
