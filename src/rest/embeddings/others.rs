//! Options of `/v1/embeddings` in the formats of Jina and Voyage.

use serde::{Deserialize, Deserializer, de};

use super::EncodingFormat;
use crate::error::Error;

/// A format, or an array with one format.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// Reads a format that may be in an array. Several formats are refused: they would mean several embeddings per
/// item, which no client reads.
pub(super) fn one_format<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<EncodingFormat, D::Error> {
    let expected = "must be one format, or an array of one";
    let given = OneOrMany::deserialize(deserializer).map_err(|_| de::Error::custom(expected))?;
    let name = match given {
        OneOrMany::One(name) => name,
        OneOrMany::Many(names) => <[String; 1]>::try_from(names)
            .map(|[name]| name)
            .map_err(|_| de::Error::custom(expected))?,
    };
    EncodingFormat::deserialize(de::value::StringDeserializer::new(name))
}

/// The format for Voyage's two options: the encoding, and the type of the values.
///
/// # Errors
/// Integers in base64, which are not supported.
pub(super) fn format(
    encoding: EncodingFormat,
    kind: EncodingFormat,
) -> Result<EncodingFormat, Error> {
    match (encoding, kind) {
        (_, EncodingFormat::Float) => Ok(encoding),
        (EncodingFormat::Float, _) => Ok(kind),
        _ if encoding == kind => Ok(kind),
        _ => Err(Error::invalid(
            "output_dtype",
            "only `float` is served in base64; leave `encoding_format` away, or ask /v1/multimodalembeddings",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Read {
        #[serde(deserialize_with = "one_format")]
        format: EncodingFormat,
    }

    #[test]
    fn one_format_is_read_alone_or_in_an_array() {
        let read = |json: &str| serde_json::from_str::<Read>(json).map(|read| read.format);
        assert_eq!(read(r#"{"format": "int8"}"#).expect("one"), EncodingFormat::Int8);
        assert_eq!(read(r#"{"format": ["base64"]}"#).expect("one"), EncodingFormat::Base64);
        for json in [
            r#"{"format": []}"#,
            r#"{"format": ["float", "int8"]}"#,
            r#"{"format": 7}"#,
            r#"{"format": "hex"}"#,
        ] {
            assert!(read(json).is_err(), "{json}");
        }
    }

    #[test]
    fn an_encoding_and_a_type_are_one_format() {
        use EncodingFormat::{Base64, Float, Int8};
        for (encoding, kind, expected) in [
            (Base64, Float, Base64),
            (Float, Int8, Int8),
            (Float, Float, Float),
            (Int8, Int8, Int8),
        ] {
            assert_eq!(format(encoding, kind).expect("one format"), expected);
        }
        assert_eq!(format(Base64, Int8).expect_err("two").field(), Some("output_dtype"));
    }
}
