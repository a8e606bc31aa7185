//! Embeddings in a request: numbers or base64, parsed directly into one flat matrix.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, SeqAccess, Visitor},
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema, schema},
};

use crate::engine::Matrix;

/// Rows of a request, `[rows, dim]`: each is an array of numbers, or base64 of little-endian f32.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rows(pub(super) Matrix);

impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(RowsVisitor)
    }
}

struct RowsVisitor;

impl<'de> Visitor<'de> for RowsVisitor {
    type Value = Rows;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of embeddings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Rows, A::Error> {
        let mut matrix = Matrix::default();
        while seq.next_element_seed(RowSeed(&mut matrix))?.is_some() {}
        Ok(Rows(matrix))
    }
}

/// Appends one row to the matrix without a separate allocation for the row.
struct RowSeed<'m>(&'m mut Matrix);

impl RowSeed<'_> {
    /// Checks the row that was just appended.
    fn finish<E: de::Error>(self) -> Result<(), E> {
        let matrix = self.0;
        let dim = matrix.data.len() - matrix.rows * matrix.dim;
        if dim == 0 {
            return Err(E::custom("an embedding must not be empty"));
        }
        if matrix.rows > 0 && dim != matrix.dim {
            return Err(E::custom(format_args!(
                "this embedding has {dim} values, the first one has {}",
                matrix.dim
            )));
        }
        matrix.dim = dim;
        matrix.rows += 1;
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for RowSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for RowSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of numbers, or base64 over little-endian f32")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        // The other rows have the length of the first row.
        self.0.data.reserve(self.0.dim);
        while let Some(value) = seq.next_element::<f32>()? {
            // JSON has no infinity, but a number outside of f32's range becomes infinite.
            if !value.is_finite() {
                return Err(de::Error::custom("a value is out of the range of a 32-bit float"));
            }
            self.0.data.push(value);
        }
        self.finish()
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        let bytes = base64_simd::STANDARD
            .decode_to_vec(text.as_bytes())
            .map_err(|_| E::custom("an embedding given as text must be valid base64"))?;
        let (values, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(E::custom(format_args!(
                "{} bytes are not a whole number of 32-bit floats",
                bytes.len()
            )));
        }
        let values = values.iter().map(|&bytes| f32::from_le_bytes(bytes));
        if !values.clone().all(f32::is_finite) {
            return Err(E::custom("a value is not finite"));
        }
        self.0.data.extend(values);
        self.finish()
    }
}

impl PartialSchema for Rows {
    fn schema() -> RefOr<Schema> {
        let numbers = schema::ArrayBuilder::new()
            .items(schema::Object::with_type(schema::Type::Number))
            .build();
        let row = schema::OneOfBuilder::new().item(numbers).item(
            schema::ObjectBuilder::new()
                .schema_type(schema::Type::String)
                .description(Some("Base64 over little-endian 32-bit floats.")),
        );
        schema::ArrayBuilder::new()
            .items(row)
            .description(Some("One row an embedding, all of the model's dimension."))
            .into()
    }
}

impl ToSchema for Rows {}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Rows, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_and_base64_give_the_same_matrix() {
        let numbers = parse("[[1, 2.5], [-3e0, 0]]").expect("numbers");
        assert_eq!(numbers.0.data, [1.0, 2.5, -3.0, 0.0]);
        assert_eq!((numbers.0.rows, numbers.0.dim), (2, 2));
        let encode = |row: [f32; 2]| {
            base64_simd::STANDARD.encode_to_string(row.map(f32::to_le_bytes).as_flattened())
        };
        let text = format!(r#"["{}","{}"]"#, encode([1.0, 2.5]), encode([-3.0, 0.0]));
        assert_eq!(parse(&text).expect("base64"), numbers);
        assert_eq!(parse("[]").expect("empty").0.rows, 0);
    }

    #[test]
    fn what_is_no_matrix_is_refused() {
        for (json, reason) in [
            ("[[1, 2], [3]]", "has 1 values, the first one has 2"),
            ("[[]]", "must not be empty"),
            ("[[1e39]]", "out of the range"),
            ("[[1, \"x\"]]", "invalid type"),
            ("[[null]]", "invalid type"),
            ("[1]", "an array of numbers"),
            ("[\"AAA=\"]", "whole number"),
            ("[\"?\"]", "valid base64"),
            // 0x7f800000, infinity.
            ("[\"AACAfw==\"]", "not finite"),
        ] {
            let error = parse(json).expect_err(json);
            assert!(error.contains(reason), "{json}: {error}");
        }
    }
}
