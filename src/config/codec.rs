//! Reads option values from text and writes them back. Every source gives text, so a value means the same on
//! the command line, in the environment and in the file.

use std::{fmt::Display, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use super::{List, served};

/// The placeholder of a [`Switch`] in the help. It also marks flags that may be given without a value.
pub(super) const SWITCH: &str = "BOOL";

/// A value as the config file writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Literal {
    /// In quotes.
    Text(String),
    /// Digits.
    Integer(u64),
    /// `true` or `false`.
    Boolean(bool),
    /// An optional value that is not set: no line at all.
    Unset,
}

/// Reads and writes values of type `T`.
pub(super) trait Codec<T> {
    /// Whether a value is a list, whose text has a separator between the items.
    const LIST: bool = false;

    /// # Errors
    /// Says what is wrong with the text. The message is completed with its origin.
    fn parse(text: &str) -> Result<T, String>;
    fn print(value: &T) -> Literal;
}

/// An optional value has the codec of its content.
impl<C: Codec<T>, T> Codec<Option<T>> for C {
    const LIST: bool = C::LIST;

    fn parse(text: &str) -> Result<Option<T>, String> {
        C::parse(text).map(Some)
    }

    fn print(value: &Option<T>) -> Literal {
        value.as_ref().map_or(Literal::Unset, C::print)
    }
}

/// Any text that is not empty.
pub(super) struct Text;

impl Codec<String> for Text {
    fn parse(text: &str) -> Result<String, String> {
        if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
    }

    fn print(value: &String) -> Literal {
        Literal::Text(value.clone())
    }
}

/// The models to serve.
pub(super) struct Models;

impl Codec<String> for Models {
    const LIST: bool = true;

    fn parse(text: &str) -> Result<String, String> {
        served::entries(text).map(|_| text.to_owned())
    }

    fn print(value: &String) -> Literal {
        Literal::Text(value.clone())
    }
}

/// Further names of models.
pub(super) struct Aliases;

impl Codec<String> for Aliases {
    const LIST: bool = true;

    fn parse(text: &str) -> Result<String, String> {
        served::aliases(text).map(|_| text.to_owned())
    }

    fn print(value: &String) -> Literal {
        Literal::Text(value.clone())
    }
}

/// A log filter, checked by the library that will apply it.
pub(super) struct Filter;

impl Codec<String> for Filter {
    fn parse(text: &str) -> Result<String, String> {
        tracing_subscriber::EnvFilter::try_new(text)
            .map(|_| text.to_owned())
            .map_err(|error| format!("`{text}` is not a log filter: {error}"))
    }

    fn print(value: &String) -> Literal {
        Literal::Text(value.clone())
    }
}

/// A socket address.
pub(super) struct Address;

impl Codec<SocketAddr> for Address {
    fn parse(text: &str) -> Result<SocketAddr, String> {
        // People type `localhost`, which is the loopback address on every system.
        let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        numeric.as_deref().unwrap_or(text).parse().map_err(|_| {
            format!("`{text}` is not an address with a port, such as 127.0.0.1:8080 or [::]:8080")
        })
    }

    fn print(value: &SocketAddr) -> Literal {
        Literal::Text(value.to_string())
    }
}

/// One of a few words. The type's error message lists them.
pub(super) struct Choice;

/// Marks the types that [`Choice`] reads.
pub(super) trait Word: FromStr<Err = String> + Display {}
impl Word for super::Device {}
impl Word for super::Agreement {}
impl Word for super::CpuFeatures {}
impl Word for super::Fraction {}

impl<T: Word> Codec<T> for Choice {
    fn parse(text: &str) -> Result<T, String> {
        text.parse()
    }

    fn print(value: &T) -> Literal {
        Literal::Text(value.to_string())
    }
}

/// On or off. A flag without a value means on.
pub(super) struct Switch;

impl Codec<bool> for Switch {
    fn parse(text: &str) -> Result<bool, String> {
        match text {
            "true" | "on" | "yes" | "1" => Ok(true),
            "false" | "off" | "no" | "0" => Ok(false),
            _ => Err(format!("`{text}` is neither `true` nor `false`")),
        }
    }

    fn print(value: &bool) -> Literal {
        Literal::Boolean(*value)
    }
}

/// Several values of a type that is written as text.
pub(super) struct Listed;

impl<T> Codec<List<T>> for Listed
where
    List<T>: FromStr<Err = String> + Display,
{
    const LIST: bool = true;

    fn parse(text: &str) -> Result<List<T>, String> {
        text.parse()
    }

    fn print(value: &List<T>) -> Literal {
        Literal::Text(value.to_string())
    }
}

/// A file that is opened when the server starts.
pub(super) struct File;

impl Codec<PathBuf> for File {
    fn parse(text: &str) -> Result<PathBuf, String> {
        <Text as Codec<String>>::parse(text).map(PathBuf::from)
    }

    fn print(value: &PathBuf) -> Literal {
        Literal::Text(value.display().to_string())
    }
}

/// A file's permissions, in octal digits as `chmod` takes them.
pub(super) struct Octal;

impl Codec<u32> for Octal {
    fn parse(text: &str) -> Result<u32, String> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let mode = u32::from_str_radix(digits, 8).ok().filter(|&mode| mode <= 0o777);
        mode.ok_or_else(|| format!("`{text}` is not a mode in octal digits, such as 0600 or 0660"))
    }

    fn print(value: &u32) -> Literal {
        Literal::Text(format!("{value:04o}"))
    }
}

/// A duration with its unit.
pub(super) struct Time;

impl Codec<Duration> for Time {
    fn parse(text: &str) -> Result<Duration, String> {
        if text == "0" {
            return Ok(Duration::ZERO);
        }
        humantime::parse_duration(text).map_err(|_| {
            format!("`{text}` is not a duration with a unit, such as 500ms, 30s or 2m")
        })
    }

    fn print(value: &Duration) -> Literal {
        Literal::Text(humantime::format_duration(*value).to_string())
    }
}

/// Parses digits, with optional `_` between them.
fn integer<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let digits = text.replace('_', "");
    let value: u64 = digits.parse().map_err(|_| format!("`{text}` is not a whole number"))?;
    T::try_from(value).map_err(|_| format!("`{text}` is too large"))
}

/// Parses a number of bytes, with an optional unit.
fn bytes<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let wrong = || format!("`{text}` is not a size, such as 64MiB, 512KiB, 20MB or 65536");
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    let number: u64 = integer(number.trim()).map_err(|_| wrong())?;
    let value = number.checked_mul(factor).ok_or_else(|| format!("`{text}` is too large"))?;
    T::try_from(value).map_err(|_| format!("`{text}` is too large"))
}

/// Writes a number of bytes with the largest unit that divides it, so that the value stays exact.
pub(super) fn print_bytes(value: u64) -> Literal {
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(factor, _)| value > 0 && value.is_multiple_of(*factor)) {
        Some((factor, unit)) => Literal::Text(format!("{}{unit}", value / factor)),
        None => Literal::Integer(value),
    }
}

fn positive<T: PartialEq + From<u8>>(value: T) -> Result<T, String> {
    if value == T::from(0) { Err("must be at least 1".to_owned()) } else { Ok(value) }
}

macro_rules! number_codecs {
    ($($(#[doc = $doc:literal])* $codec:ident: $parse:expr, $print:expr;)*) => {$(
        $(#[doc = $doc])*
        pub(super) struct $codec;
        number_codecs!(@impl $codec, usize, $parse, $print);
        number_codecs!(@impl $codec, u64, $parse, $print);
    )*};
    (@impl $codec:ident, $type:ty, $parse:expr, $print:expr) => {
        impl Codec<$type> for $codec {
            fn parse(text: &str) -> Result<$type, String> {
                let parse: fn(&str) -> Result<$type, String> = $parse;
                parse(text)
            }

            fn print(value: &$type) -> Literal {
                let print: fn(u64) -> Literal = $print;
                print(*value as u64)
            }
        }
    };
}

number_codecs! {
    /// A number of things, at least one.
    Count: |text| integer(text).and_then(positive), Literal::Integer;
    /// A number of things; 0 has a special meaning.
    CountOrZero: integer, Literal::Integer;
    /// A number of bytes, at least one.
    Size: |text| bytes(text).and_then(positive), print_bytes;
    /// A number of bytes; 0 has a special meaning.
    SizeOrZero: bytes, print_bytes;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        for (text, value) in [
            ("65536", 65536_u64),
            ("64KiB", 65536),
            ("64 kib", 65536),
            ("20MB", 20_000_000),
            ("1_000B", 1000),
            ("2GiB", 2 << 30),
        ] {
            assert_eq!(<Size as Codec<u64>>::parse(text), Ok(value), "{text}");
        }
        for text in ["", "0", "0MiB", "-1", "1.5GiB", "64M", "MiB", "99999999999GiB", "1e6"] {
            assert!(<Size as Codec<u64>>::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_written_without_loss() {
        for (value, text) in [
            (64 << 20, Literal::Text("64MiB".to_owned())),
            (3 << 30, Literal::Text("3GiB".to_owned())),
            (20_000_001, Literal::Integer(20_000_001)),
            (0, Literal::Integer(0)),
        ] {
            assert_eq!(print_bytes(value), text);
        }
    }

    #[test]
    fn durations_need_a_unit_unless_zero() {
        assert_eq!(Time::parse("0"), Ok(Duration::ZERO));
        assert_eq!(Time::parse("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(Time::print(&Duration::from_millis(1500)), Literal::Text("1s 500ms".to_owned()));
        assert!(<Time as Codec<Duration>>::parse("30").is_err());
    }

    #[test]
    fn localhost_is_the_loopback() {
        assert_eq!(Address::parse("localhost:80"), Ok(SocketAddr::from(([127, 0, 0, 1], 80))));
        assert!(<Address as Codec<SocketAddr>>::parse("8080").is_err());
    }
}
