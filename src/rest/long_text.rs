//! Long strings of a JSON body, as slices of the body instead of copies.

use std::{cell::RefCell, fmt};

use bytes::Bytes;
use bytestring::ByteString;
use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema, schema},
};

thread_local! {
    /// The body that this thread is parsing. serde passes the characters of a string to a type, but not the
    /// buffer that holds them, which a slice must share.
    static BODY: RefCell<Option<Bytes>> = const { RefCell::new(None) };
}

/// Runs `parse` so that each [`LongText`] in it is a slice of `body`.
pub(super) fn sharing<T>(body: &Bytes, parse: impl FnOnce() -> T) -> T {
    /// Releases the body, even after a panic.
    struct Release(Option<Bytes>);
    impl Drop for Release {
        fn drop(&mut self) {
            BODY.set(self.0.take());
        }
    }
    let _release = Release(BODY.replace(Some(body.clone())));
    parse()
}

/// A string that shares the body's memory if it has no escapes in the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LongText(pub(super) ByteString);

impl LongText {
    /// A slice of the body if `text` is part of it, otherwise a copy.
    pub(super) fn borrowed(text: &str) -> Self {
        let shared = BODY.with_borrow(|body| {
            let body = body.as_ref()?;
            let within = body.as_ptr_range();
            let range = text.as_bytes().as_ptr_range();
            let inside = within.start <= range.start && range.end <= within.end;
            inside.then(|| body.slice_ref(text.as_bytes()))
        });
        let shared = shared.and_then(|bytes| ByteString::try_from(bytes).ok());
        Self(shared.unwrap_or_else(|| text.into()))
    }

    /// A separate string, for texts that are stored: a slice would keep the whole body in memory.
    pub(super) fn into_string(self) -> String {
        self.0.to_string()
    }
}

impl<'de> Deserialize<'de> for LongText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = LongText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<LongText, E> {
                Ok(LongText::borrowed(text))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<LongText, E> {
                Ok(LongText(text.into()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<LongText, E> {
                Ok(LongText(text.into()))
            }
        }

        deserializer.deserialize_str(TextVisitor)
    }
}

impl PartialSchema for LongText {
    fn schema() -> RefOr<Schema> {
        schema::Object::with_type(schema::Type::String).into()
    }
}

impl ToSchema for LongText {}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &Bytes) -> Vec<LongText> {
        sharing(body, || serde_json::from_slice(body)).expect("strings")
    }

    #[test]
    fn a_payload_is_a_slice_of_the_body() {
        let payload = "A".repeat(1 << 20);
        let body = Bytes::from(format!(r#"["{payload}", "a\/b"]"#));
        let texts = parse(&body);
        let within = body.as_ptr_range();
        assert!(within.contains(&texts[0].0.as_ptr()) && texts[0].0.len() == payload.len());
        assert!(!within.contains(&texts[1].0.as_ptr()));
        assert_eq!(&*texts[1].0, "a/b");
    }

    #[test]
    fn nothing_is_shared_past_the_parse() {
        let body = Bytes::from_static(br#"["a"]"#);
        parse(&body);
        BODY.with_borrow(|body| assert!(body.is_none()));
        let texts: Vec<LongText> = serde_json::from_slice(&body).expect("strings");
        assert!(!body.as_ptr_range().contains(&texts[0].0.as_ptr()));
    }
}
