//! The types of options with a few named values.

use std::{fmt, str::FromStr};

use super::codec::Word;

/// Defines an enum whose values are one word each: `Variant = "word"`, and behind `|` what is read as the same.
///
/// The text behind the name completes the error about any other word.
macro_rules! words {
    (
        $(#[$about:meta])*
        $name:ident, $fault:literal {
            $( $(#[$meta:meta])* $variant:ident = $word:literal $(| $other:literal)*, )*
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $( $(#[$meta])* $variant, )*
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $( Self::$variant => $word, )*
                })
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $( $word $(| $other)* => Ok(Self::$variant), )*
                    _ => Err(format!(concat!("`{}` ", $fault), text)),
                }
            }
        }

        impl Word for $name {}
    };
}

/// Where the towers run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Device {
    /// The host's processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU, by its index.
    Cuda(usize),
    /// Apple's GPU.
    Metal,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let index = text.strip_prefix("cuda:").and_then(|index| index.parse().ok());
        match (text, index) {
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            ("metal", _) => Ok(Self::Metal),
            (_, Some(index)) => Ok(Self::Cuda(index)),
            _ => Err(format!("`{text}` is not a device: cpu, cuda, cuda:N or metal")),
        }
    }
}

words! {
    /// Where images are decoded.
    #[derive(Default)]
    DecodeIsolation, "is neither process nor thread" {
        /// In separate processes, with limits on memory and time. On systems other than Linux this means `Thread`.
        #[default]
        Process = "process",
        /// On the server's own threads.
        Thread = "thread",
    }
}

words! {
    /// The element type of the resident weights.
    #[derive(Default)]
    DType, "is not an element type: f32, f16, bf16 or int8" {
        /// 32-bit floats.
        #[default]
        F32 = "f32",
        /// 16-bit floats with 10 bits of mantissa.
        F16 = "f16",
        /// 16-bit floats with 7 bits of mantissa.
        Bf16 = "bf16",
        /// 8-bit integers: an encoder layer's weights with a scale for each output, and its inputs with a scale for
        /// each row.
        Int8 = "int8",
    }
}

/// A cosine that embeddings must reach: 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement(f32);

impl Agreement {
    /// Turns the check off.
    pub const UNCHECKED: Self = Self(0.0);

    /// The default minimum for a type, which a correct checkpoint reaches easily and a broken one does not.
    #[must_use]
    pub fn usual(dtype: DType) -> Self {
        Self(match dtype {
            DType::F32 => return Self::UNCHECKED,
            DType::F16 | DType::Bf16 => 0.999,
            DType::Int8 => 0.99,
        })
    }

    /// The cosine.
    #[must_use]
    pub fn cosine(self) -> f32 {
        self.0
    }
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Agreement {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let cosine = text.parse().ok().filter(|cosine| (0.0..=1.0).contains(cosine));
        cosine
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a cosine from 0 to 1, such as 0.999"))
    }
}

words! {
    /// The precision of products of f32, in PyTorch's terms.
    MatmulPrecision, "is not a precision: highest or high" {
        /// In f32.
        Highest = "highest",
        /// In three products of bf16 if that is faster; each f32 is the sum of two bf16.
        High = "high",
    }
}

words! {
    /// The kernels for a CUDA device.
    #[derive(Default)]
    CudaKernels, "names no kernels: own or candle" {
        /// The server's own, if they give what candle's operations give.
        #[default]
        Own = "own",
        /// Candle's operations.
        Candle = "candle",
    }
}

words! {
    /// When a model's towers are loaded.
    #[derive(Default)]
    LoadTime, "is neither eager nor lazy" {
        /// Before the server is ready.
        #[default]
        Eager = "eager",
        /// When the first request needs them.
        Lazy = "lazy",
    }
}

/// The instruction set of the towers.
pub use siglip_kernels::Choice as CpuFeatures;

words! {
    /// The normalisation of a text before the tokenizer reads it. References disagree about it.
    #[derive(Default)]
    TextNormalization, "is not a text normalization: auto, hf, bigvision, openclip or none" {
        /// As the checkpoint was trained, according to its files.
        #[default]
        Auto = "auto",
        /// As transformers does for the checkpoint's tokenizer class.
        Hf = "hf",
        /// Only lower-casing.
        BigVision = "bigvision",
        /// As open_clip's cleaning.
        OpenClip = "openclip",
        /// Only the tokenizer's own normaliser.
        None = "none",
    }
}

words! {
    /// The token before a text that BLIP's matching head reads.
    #[derive(Default)]
    MatchingToken, "is neither cls nor enc" {
        /// The tokenizer's own `[CLS]`, as in transformers.
        #[default]
        Cls = "cls",
        /// `[ENC]`, as the models were trained.
        Enc = "enc",
    }
}

words! {
    /// How a log line is written.
    #[derive(Default)]
    LogFormat, "is not a log format: human or json" {
        /// For people.
        #[default]
        Human = "human",
        /// One JSON object per line.
        Json = "json",
    }
}

words! {
    /// How traces are sent to a collector.
    #[derive(Default)]
    TraceProtocol, "is not a protocol of traces: grpc or http" {
        /// OTLP over gRPC.
        #[default]
        Grpc = "grpc",
        /// OTLP over HTTP, in protobuf.
        Http = "http" | "http/protobuf",
    }
}

/// A part of a whole, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fraction(f64);

impl Fraction {
    /// The whole.
    pub const WHOLE: Self = Self(1.0);

    /// The fraction as a number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Fraction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fraction = text.parse().ok().filter(|fraction| (0.0..=1.0).contains(fraction));
        fraction
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a number from 0 to 1, such as 0.1"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for text in ["cpu", "cuda:0", "cuda:7", "metal"] {
            assert_eq!(text.parse::<Device>().expect(text).to_string(), text);
        }
        assert_eq!("cuda".parse::<Device>(), Ok(Device::Cuda(0)));
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            assert!(text.parse::<Device>().is_err(), "{text}");
        }
    }
}
