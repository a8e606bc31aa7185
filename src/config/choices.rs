//! The types of options with a few named values.

use std::{fmt, str::FromStr};

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

/// Where images are decoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DecodeIsolation {
    /// In separate processes, with limits on memory and time. On systems other than Linux this means `Thread`.
    #[default]
    Process,
    /// On the server's own threads.
    Thread,
}

impl fmt::Display for DecodeIsolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process => "process",
            Self::Thread => "thread",
        })
    }
}

impl FromStr for DecodeIsolation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "process" => Ok(Self::Process),
            "thread" => Ok(Self::Thread),
            _ => Err(format!("`{text}` is neither process nor thread")),
        }
    }
}

/// The element type of the resident weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DType {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats with 10 bits of mantissa.
    F16,
    /// 16-bit floats with 7 bits of mantissa.
    Bf16,
    /// 8-bit integers: an encoder layer's weights with a scale for each output, and its inputs with a scale for
    /// each row.
    Int8,
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        })
    }
}

impl FromStr for DType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            "int8" => Ok(Self::Int8),
            _ => Err(format!("`{text}` is not an element type: f32, f16, bf16 or int8")),
        }
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

/// The precision of products of f32, in PyTorch's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatmulPrecision {
    /// In f32.
    Highest,
    /// In three products of bf16 if that is faster; each f32 is the sum of two bf16.
    High,
}

impl fmt::Display for MatmulPrecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Highest => "highest",
            Self::High => "high",
        })
    }
}

impl FromStr for MatmulPrecision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "highest" => Ok(Self::Highest),
            "high" => Ok(Self::High),
            _ => Err(format!("`{text}` is not a precision: highest or high")),
        }
    }
}

/// When a model's towers are loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LoadTime {
    /// Before the server is ready.
    #[default]
    Eager,
    /// When the first request needs them.
    Lazy,
}

impl fmt::Display for LoadTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eager => "eager",
            Self::Lazy => "lazy",
        })
    }
}

impl FromStr for LoadTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "eager" => Ok(Self::Eager),
            "lazy" => Ok(Self::Lazy),
            _ => Err(format!("`{text}` is neither eager nor lazy")),
        }
    }
}

/// The instruction set of the towers.
pub use siglip_kernels::Choice as CpuFeatures;

/// The normalisation of a text before the tokenizer reads it. References disagree about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TextNormalization {
    /// As the checkpoint was trained, according to its files.
    #[default]
    Auto,
    /// As transformers does for the checkpoint's tokenizer class.
    Hf,
    /// Only lower-casing.
    BigVision,
    /// As open_clip's cleaning.
    OpenClip,
    /// Only the tokenizer's own normaliser.
    None,
}

impl fmt::Display for TextNormalization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Hf => "hf",
            Self::BigVision => "bigvision",
            Self::OpenClip => "openclip",
            Self::None => "none",
        })
    }
}

impl FromStr for TextNormalization {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "hf" => Ok(Self::Hf),
            "bigvision" => Ok(Self::BigVision),
            "openclip" => Ok(Self::OpenClip),
            "none" => Ok(Self::None),
            _ => Err(format!(
                "`{text}` is not a text normalization: auto, hf, bigvision, openclip or none"
            )),
        }
    }
}

/// The token before a text that BLIP's matching head reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MatchingToken {
    /// The tokenizer's own `[CLS]`, as in transformers.
    #[default]
    Cls,
    /// `[ENC]`, as the models were trained.
    Enc,
}

impl fmt::Display for MatchingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cls => "cls",
            Self::Enc => "enc",
        })
    }
}

impl FromStr for MatchingToken {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "cls" => Ok(Self::Cls),
            "enc" => Ok(Self::Enc),
            _ => Err(format!("`{text}` is neither cls nor enc")),
        }
    }
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object per line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Human => "human",
            Self::Json => "json",
        })
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{text}` is not a log format: human or json")),
        }
    }
}

/// How traces are sent to a collector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TraceProtocol {
    /// OTLP over gRPC.
    #[default]
    Grpc,
    /// OTLP over HTTP, in protobuf.
    Http,
}

impl fmt::Display for TraceProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
        })
    }
}

impl FromStr for TraceProtocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "grpc" => Ok(Self::Grpc),
            "http" | "http/protobuf" => Ok(Self::Http),
            _ => Err(format!("`{text}` is not a protocol of traces: grpc or http")),
        }
    }
}

/// A share, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share(f64);

impl Share {
    /// Everything.
    pub const ALL: Self = Self(1.0);

    /// The share as a number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
        share.map(Self).ok_or_else(|| format!("`{text}` is not a number from 0 to 1, such as 0.1"))
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
