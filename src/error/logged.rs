//! The part of an error that may be logged.

use std::borrow::Cow;

use super::Error;

impl Error {
    /// The part of a refusal that may be logged: the field at fault, and the message if it is the same for
    /// every request. A formatted message may quote texts, labels or signed URLs, which must not be logged.
    #[must_use]
    pub fn without_quotations(&self) -> String {
        let message = match &self.message {
            Cow::Borrowed(fixed) => fixed,
            Cow::Owned(_) => self.code.spec().title,
        };
        match &self.field {
            Some(Cow::Borrowed(field)) => format!("{field}: {message}"),
            Some(Cow::Owned(field)) if is_a_path(field) => format!("{field}: {message}"),
            _ => message.to_owned(),
        }
    }
}

/// Whether a field is a path of names and indices such as `input[3].image`, short enough to be one of the API.
fn is_a_path(field: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.[]-".contains(&byte);
    field.len() <= 64 && field.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_same_for_every_request_is_logged() {
        let fixed = Error::invalid("input", "must not be empty");
        assert_eq!(fixed.without_quotations(), "input: must not be empty");
        let quoting =
            Error::invalid(format!("input[{}].image", 3), format!("`{}` is none", "secret"));
        assert_eq!(quoting.without_quotations(), "input[3].image: Invalid request");
        let key = Error::invalid("a b".to_owned(), "unknown field");
        assert_eq!(key.without_quotations(), "unknown field");
    }
}
