//! Reads values of a JSON file by key, with errors that name the key, its value and the accepted values.

use serde_json::{Map, Value};

use super::content::{self, ReadError, shown};

/// A JSON file.
#[derive(Debug)]
pub struct Document(Value);

impl Document {
    /// # Errors
    /// Says what the file is, or at which place it is not JSON.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReadError> {
        let value = content::json(bytes)?;
        if value.is_object() {
            return Ok(Self(value));
        }
        Err(ReadError::new(format!("the file holds {}; an object is read", shown(&value))))
    }

    /// Its outermost object.
    #[must_use]
    pub fn fields(&self) -> Fields<'_> {
        Fields { path: String::new(), map: self.0.as_object() }
    }
}

/// An object of a JSON file. A key that is `null` counts as absent.
#[derive(Debug, Clone, Default)]
pub struct Fields<'d> {
    /// The prefix of a key in messages: empty, or `text_config.`.
    path: String,
    map: Option<&'d Map<String, Value>>,
}

impl<'d> Fields<'d> {
    /// A key's value of any type.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&'d Value> {
        self.map?.get(key).filter(|value| !value.is_null())
    }

    /// The full path of a key, as messages name it.
    #[must_use]
    pub fn path(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    /// A nested object; none if the key is absent.
    ///
    /// # Errors
    /// Fails if the value has another type.
    pub fn object(&self, key: &str) -> Result<Option<Self>, ReadError> {
        let path = format!("{}.", self.path(key));
        let read = |value: &'d Value| Some(Self { path, map: Some(value.as_object()?) });
        self.read(key, "an object", read)
    }

    /// A nested object; an empty one if the key is absent.
    ///
    /// # Errors
    /// As [`Fields::object`].
    pub fn object_or_empty(&self, key: &str) -> Result<Self, ReadError> {
        let path = format!("{}.", self.path(key));
        Ok(self.object(key)?.unwrap_or(Self { path, map: None }))
    }

    /// A text.
    ///
    /// # Errors
    /// As [`Fields::object`].
    pub fn text(&self, key: &str) -> Result<Option<&'d str>, ReadError> {
        self.read(key, "a text", Value::as_str)
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// As [`Fields::object`].
    pub fn flag(&self, key: &str) -> Result<Option<bool>, ReadError> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// A whole number that is not negative.
    ///
    /// # Errors
    /// As [`Fields::object`].
    pub fn count(&self, key: &str) -> Result<Option<usize>, ReadError> {
        self.read(key, "a whole number", count)
    }

    /// A number.
    ///
    /// # Errors
    /// As [`Fields::object`].
    pub fn number(&self, key: &str) -> Result<Option<f64>, ReadError> {
        self.read(key, "a number", Value::as_f64)
    }

    /// A value that `read` accepts.
    ///
    /// * `expected`: the accepted values, for the error
    ///
    /// # Errors
    /// As [`Fields::object`].
    pub fn read<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'d Value) -> Option<T>,
    ) -> Result<Option<T>, ReadError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.unread(key, expected))
    }

    /// The error for a key whose value is not accepted.
    #[must_use]
    pub fn unread(&self, key: &str, expected: &str) -> ReadError {
        let value = self.value(key).map_or_else(|| "missing".to_owned(), shown);
        ReadError::new(format!("`{}` is {value}; {expected} is read", self.path(key)))
    }
}

/// A whole number that is not negative.
#[must_use]
pub fn count(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_read_is_said_with_key_and_value() {
        let json = br#"{"a": "768", "b": {"c": -1, "d": null, "e": [1]}, "f": 1.5, "g": {}}"#;
        let document = Document::parse(json).expect("JSON");
        let fields = document.fields();
        let b = fields.object("b").expect("an object").expect("there");
        for (error, expected) in [
            (fields.count("a").err(), "`a` is \"768\"; a whole number is read"),
            (b.count("c").err(), "`b.c` is -1; a whole number is read"),
            (b.text("e").err(), "`b.e` is [1]; a text is read"),
            (fields.count("f").err(), "`f` is 1.5; a whole number is read"),
            (fields.flag("f").err(), "`f` is 1.5; true or false is read"),
            (fields.object("f").err(), "`f` is 1.5; an object is read"),
            (fields.number("g").err(), "`g` is {}; a number is read"),
            (Some(fields.unread("h", "a text")), "`h` is missing; a text is read"),
            (Document::parse(b"[1]").err(), "the file holds [1]; an object is read"),
        ] {
            assert_eq!(error.map(|error| error.to_string()).as_deref(), Some(expected));
        }
        assert_eq!((b.text("d"), b.text("x")), (Ok(None), Ok(None)));
        assert_eq!(fields.number("f"), Ok(Some(1.5)));
        assert_eq!(fields.object_or_empty("x").expect("none").path("y"), "x.y");
    }
}
