//! `input`: one string, or an array of strings and of objects that name their kind.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema, schema},
};

use super::Modality;
use crate::{
    engine::{ImageInput, Input},
    error::Error,
    rest::{body::check_readable, compat::content::ImageUrl, long_text::LongText},
};

/// The items of a request, in order.
#[derive(Debug, Default)]
pub(in crate::rest) struct Inputs(pub(in crate::rest) Vec<Item>);

/// One item as it was sent.
#[derive(Debug)]
pub(in crate::rest) enum Item {
    /// A string. The request's modality says whether it is a text or an image.
    Plain(LongText),
    /// `{"text": ...}`.
    Text(LongText),
    /// `{"image": ...}`: a data URI or base64.
    Image(LongText),
    /// A string that cannot be a text: it has half of a surrogate pair, or bytes that are not UTF-8.
    Unreadable(Error),
    /// A file of a form, or a raw body.
    Encoded(Bytes),
}

impl Inputs {
    /// Converts each item to an input. Images are not decoded here.
    ///
    /// # Errors
    /// One error that lists every invalid item.
    pub(in crate::rest) fn resolve(self, modality: Modality) -> Result<Vec<Input>, Error> {
        let mut errors = Vec::new();
        let mut inputs = Vec::with_capacity(self.0.len());
        for (index, item) in self.0.into_iter().enumerate() {
            match item.resolve(modality) {
                Ok(input) => inputs.push(input),
                Err(error) => errors.push(error.with_field(format!("input[{index}]"))),
            }
        }
        Error::of_items(errors).map_or(Ok(inputs), Err)
    }

    /// The same, but an invalid item becomes an input that fails.
    pub(in crate::rest) fn resolve_each(self, modality: Modality) -> Vec<Input> {
        self.0
            .into_iter()
            .map(|item| item.resolve(modality).unwrap_or_else(Input::Unreadable))
            .collect()
    }
}

impl Item {
    fn resolve(self, modality: Modality) -> Result<Input, Error> {
        Ok(match (self, modality) {
            (Self::Text(text), _) => Input::Text(text.into_string()),
            // An image's bytes or URL are not a text.
            (Self::Plain(text), Modality::Text) => match Input::plain(text.into_string()) {
                Input::Unreadable(error) => return Err(error),
                input => input,
            },
            (Self::Image(text), _) | (Self::Plain(text), Modality::Image) => {
                Input::Image(ImageInput::parse(text.0)?)
            }
            (Self::Encoded(bytes), _) => Input::Image(ImageInput::Encoded(bytes)),
            (Self::Unreadable(error), _) => return Err(error),
        })
    }
}

/// The error for token ids. It helps more than the message that a number is no string.
const NO_TOKEN_IDS: &str = "an array of numbers is no item: send texts as strings (token ids are not accepted), an \
     image's bytes in base64 as `{\"image\": ...}`";

// Written by hand, not as an untagged enum: an error deep in an array keeps its own message and path.
impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InputsVisitor;

        impl<'de> Visitor<'de> for InputsVisitor {
            type Value = Inputs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, or an array of strings and objects")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Inputs, E> {
                ItemVisitor.visit_borrowed_str(text).map(|item| Inputs(vec![item]))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Inputs, E> {
                ItemVisitor.visit_str(text).map(|item| Inputs(vec![item]))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Inputs, A::Error> {
                ItemVisitor.visit_map(map).map(|item| Inputs(vec![item]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Inputs, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Inputs(items))
            }
        }

        deserializer.deserialize_any(InputsVisitor)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, {\"text\": ...} or {\"image\": ...}")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Item, E> {
        Ok(checked(LongText::borrowed(text), Item::Plain))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Item, E> {
        Ok(checked(LongText(text.into()), Item::Plain))
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Item, E> {
        Err(E::custom(NO_TOKEN_IDS))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Item, A::Error> {
        Err(de::Error::custom(NO_TOKEN_IDS))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item, A::Error> {
        let mut item = None;
        let mut kind = None;
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            let found = match &*key {
                "text" => checked(map.next_value()?, Item::Text),
                "image" | "image_base64" | "bytes" | "url" => {
                    checked(map.next_value()?, Item::Image)
                }
                "image_url" => {
                    let (ImageUrl::Text(url) | ImageUrl::Object { url }) = map.next_value()?;
                    checked(url, Item::Image)
                }
                "type" => {
                    kind = Some(map.next_value::<String>()?);
                    continue;
                }
                "role" | "content" => {
                    return Err(de::Error::custom(
                        "a message stands in `messages`, not in `input`",
                    ));
                }
                other => return Err(de::Error::unknown_field(other, &KEYS)),
            };
            // An item with two contents would be two items.
            if item.replace(found).is_some() {
                return Err(de::Error::custom(NEITHER));
            }
        }
        match (item, kind) {
            (Some(item), _) => Ok(item),
            (None, Some(kind)) if !KEYS.contains(&kind.as_str()) => Err(de::Error::custom(
                format_args!("only texts and images are embedded here, not `{kind}`"),
            )),
            (None, _) => Err(de::Error::custom(NEITHER)),
        }
    }
}

const NEITHER: &str = "an item has either `text` or `image`";

/// Keys of an item, including those of other APIs.
const KEYS: [&str; 7] = ["text", "image", "image_url", "image_base64", "url", "bytes", "type"];

fn checked(text: LongText, item: impl FnOnce(LongText) -> Item) -> Item {
    match check_readable(&text.0) {
        Ok(()) => item(text),
        Err(error) => Item::Unreadable(error),
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor)
    }
}

/// The schema of an item that names its kind.
fn tagged(key: &str, description: &str) -> schema::Object {
    let text = schema::ObjectBuilder::new()
        .schema_type(schema::Type::String)
        .description(Some(description));
    schema::ObjectBuilder::new().property(key, text).required(key).build()
}

impl PartialSchema for Inputs {
    fn schema() -> RefOr<Schema> {
        let text = || {
            schema::ObjectBuilder::new()
                .schema_type(schema::Type::String)
                .description(Some("What `modality` says: a text, or an image."))
        };
        let item = schema::OneOfBuilder::new().item(text()).item(tagged("text", "A text.")).item(
            tagged("image", "An image: a data URI, base64, or a URL where the server fetches."),
        );
        schema::OneOfBuilder::new()
            .item(text())
            .item(schema::ArrayBuilder::new().items(item).min_items(Some(1)))
            .description(Some("One string, or an array of items of either kind."))
            .into()
    }
}

impl ToSchema for Inputs {}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::rest::long_text::sharing;

    /// An image in base64 is copied only once, when the body is assembled.
    #[test]
    fn a_picture_stays_where_the_body_holds_it() {
        let payload = "A".repeat(1 << 20);
        for json in [
            format!(r#"[{{"image": "data:image/png;base64,{payload}"}}, "{payload}"]"#),
            format!(r#"{{"image": "{payload}"}}"#),
            format!(r#""{payload}""#),
        ] {
            let body = Bytes::from(json);
            let inputs = sharing(&body, || serde_json::from_slice::<Inputs>(&body));
            for input in inputs.expect("items").resolve(Modality::Image).expect("pictures") {
                let Input::Image(ImageInput::Base64 { text, start }) = input else {
                    panic!("{input:?}");
                };
                assert_eq!(text.len() - start, payload.len());
                assert!(body.as_ptr_range().contains(&text.as_ptr()));
            }
        }
    }
}
