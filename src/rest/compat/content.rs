//! One item to embed, in the formats of the compatible APIs.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use utoipa::ToSchema;

use crate::{
    engine::{ImageInput, Input},
    error::Error,
    rest::{long_text::LongText, openapi::EXAMPLE_IMAGE},
};

/// A text, or an object that says what it contains.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub(in crate::rest) enum Item {
    /// A text.
    Text(String),
    /// An object with one text or one image.
    Part(Part),
}

/// An object with one text or one image, in the format of any of the compatible APIs.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(
    json!({"text": "a cat"}),
    json!({"image": EXAMPLE_IMAGE}),
    json!({"type": "image_url", "image_url": {"url": EXAMPLE_IMAGE}}),
    json!({"content": [{"type": "text", "text": "a cat"}]})
))]
pub(in crate::rest) struct Part {
    /// The kind of the part. Not needed, since the field that is set shows it.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// The role in a conversation. It does not change the embedding.
    #[expect(dead_code, reason = "part of a message; the model knows no roles")]
    role: Option<String>,
    /// A text.
    text: Option<String>,
    /// An image: a data URI, base64, or a URL if the server fetches images.
    image: Option<LongText>,
    /// An image: a data URI or base64.
    image_base64: Option<LongText>,
    /// An image: a data URI, base64, or a URL if the server fetches images, either directly or in an object.
    image_url: Option<ImageUrl>,
    /// The parts. Each item is one text or one image, so there must be exactly one part.
    #[schema(value_type = Option<ItemsSchema>, no_recursion)]
    content: Option<Items>,
}

/// An image as a data URI, base64 or URL, either directly or in an object.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub(in crate::rest) enum ImageUrl {
    /// Directly.
    Text(LongText),
    /// In an object.
    Object {
        /// The data URI.
        url: LongText,
    },
}

/// [`ImageUrl::Object`] for parsing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UrlObject {
    url: LongText,
    /// The resolution that a hosted model would use.
    #[serde(rename = "detail")]
    _detail: Option<IgnoredAny>,
}

/// One item, or an array of items.
#[derive(Debug, Default)]
pub(in crate::rest) struct Items(pub(in crate::rest) Vec<Item>);

impl From<Part> for Item {
    fn from(part: Part) -> Self {
        Self::Part(part)
    }
}

impl Item {
    /// Converts the item to an input. Images are not decoded here.
    ///
    /// # Errors
    /// [`crate::error::Code::InvalidRequest`] for an item that is not one text or one image, and the errors of
    /// [`ImageInput::parse`].
    pub(in crate::rest) fn resolve(self) -> Result<Input, Error> {
        match self {
            Self::Text(text) => Ok(Input::plain(text)),
            Self::Part(Part { content: Some(Items(content)), text: None, .. }) => single(content),
            Self::Part(part) => part.resolve(),
        }
    }

    /// The parts of the item's content. The item itself if it has no content.
    pub(in crate::rest) fn into_parts(self) -> Vec<Self> {
        match self {
            Self::Part(Part { content: Some(Items(parts)), text: None, .. }) => parts,
            item => vec![item],
        }
    }

    /// Converts a part of a content. It cannot have parts itself: no API nests contents.
    ///
    /// # Errors
    /// Those of [`Item::resolve`].
    pub(in crate::rest) fn resolve_leaf(self) -> Result<Input, Error> {
        match self {
            Self::Text(text) => Ok(Input::plain(text)),
            Self::Part(part) if part.content.is_none() => part.resolve(),
            Self::Part(_) => Err(mixed()),
        }
    }

    /// The text, if the item is one.
    pub(in crate::rest) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Part(part) => part.text.as_deref(),
        }
    }
}

impl Part {
    fn resolve(self) -> Result<Input, Error> {
        let url = self.image_url.map(|url| match url {
            ImageUrl::Text(url) | ImageUrl::Object { url } => url,
        });
        let mut given = [self.image, self.image_base64, url].into_iter().flatten();
        match (self.text, given.next(), given.next()) {
            (Some(text), None, None) => Ok(Input::Text(text)),
            (None, Some(image), None) => ImageInput::parse(image.0).map(Input::Image),
            (None, None, None) => Err(unsupported(self.kind.as_deref())),
            _ => Err(mixed()),
        }
    }
}

/// The one part of a content.
fn single(mut content: Vec<Item>) -> Result<Input, Error> {
    match (content.pop(), content.is_empty()) {
        (Some(part), true) => part.resolve_leaf(),
        (None, _) => Err(unsupported(None)),
        _ => Err(mixed()),
    }
}

fn unsupported(kind: Option<&str>) -> Error {
    let message = match kind {
        Some(kind) if !matches!(kind, "text" | "image" | "image_url" | "image_base64") => {
            "only texts and images are embedded here".to_owned()
        }
        _ => "an item holds a text or an image".to_owned(),
    };
    Error::new(crate::error::Code::InvalidRequest, message)
}

/// The error for several parts in one item.
pub(in crate::rest) fn mixed() -> Error {
    let message = "an item is one text or one image: this model has no vector for several together";
    Error::new(crate::error::Code::InvalidRequest, message)
}

/// Converts all items. The error names every invalid item.
///
/// # Errors
/// All errors combined into one.
pub(in crate::rest) fn resolve_all(
    field: &'static str,
    items: impl IntoIterator<Item = Item>,
) -> Result<Vec<Input>, Error> {
    collect(field, items.into_iter().map(Item::resolve))
}

/// Reads images from strings. The error names every string that is not an image.
///
/// # Errors
/// All errors combined into one.
pub(in crate::rest) fn pictures(
    field: &'static str,
    images: Vec<LongText>,
) -> Result<Vec<Input>, Error> {
    collect(field, images.into_iter().map(|image| ImageInput::parse(image.0).map(Input::Image)))
}

fn collect(
    field: &'static str,
    inputs: impl Iterator<Item = Result<Input, Error>>,
) -> Result<Vec<Input>, Error> {
    let mut errors = Vec::new();
    let mut found = Vec::new();
    for (index, input) in inputs.enumerate() {
        match input {
            Ok(input) => found.push(input),
            Err(error) => errors.push(error.with_field(format!("{field}[{index}]"))),
        }
    }
    Error::of_items(errors).map_or(Ok(found), Err)
}

// Written by hand, not as untagged enums: an error deep in an array keeps its own message and path, and no
// value is buffered.
impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an object with a text or an image")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Item, E> {
        Ok(Item::Text(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Item, E> {
        Ok(Item::Text(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Item, A::Error> {
        Part::deserialize(MapAccessDeserializer::new(map)).map(Item::Part)
    }
}

impl<'de> Deserialize<'de> for ImageUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ImageUrlVisitor)
    }
}

struct ImageUrlVisitor;

impl<'de> Visitor<'de> for ImageUrlVisitor {
    type Value = ImageUrl;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or {\"url\": ...}")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<ImageUrl, E> {
        Ok(ImageUrl::Text(LongText::borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ImageUrl, E> {
        Ok(ImageUrl::Text(LongText(text.into())))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ImageUrl, A::Error> {
        let object = UrlObject::deserialize(MapAccessDeserializer::new(map))?;
        Ok(ImageUrl::Object { url: object.url })
    }
}

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemsVisitor)
    }
}

struct ItemsVisitor;

impl<'de> Visitor<'de> for ItemsVisitor {
    type Value = Items;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, an object with a text or an image, or an array of them")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Items, E> {
        ItemVisitor.visit_str(text).map(|item| Items(vec![item]))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Items, A::Error> {
        // An object with several parts in its content gives several items here.
        match ItemVisitor.visit_map(map)? {
            Item::Part(Part { content: Some(items), text: None, .. }) => Ok(items),
            item => Ok(Items(vec![item])),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Items(items))
    }
}

/// One item, or an array of items, for the OpenAPI document.
#[derive(ToSchema)]
#[schema(as = Items)]
#[serde(untagged)]
#[expect(dead_code, reason = "only describes `Items`, which is read by hand")]
pub(in crate::rest) enum ItemsSchema {
    /// One.
    One(Item),
    /// Several.
    Many(Vec<Item>),
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{error::Code, rest::long_text::sharing};

    fn items(json: &str) -> Result<Vec<Input>, Error> {
        let items: Items = serde_json::from_str(json).expect(json);
        resolve_all("documents", items.0)
    }

    #[test]
    fn every_way_to_write_an_item_is_read() {
        for json in [
            r#""+/8=""#,
            r#"["+/8="]"#,
            r#"{"text": "+/8="}"#,
            r#"[{"type": "text", "text": "+/8="}]"#,
            r#"[{"content": [{"type": "text", "text": "+/8="}]}]"#,
            r#"[{"role": "user", "content": "+/8="}]"#,
        ] {
            let read = items(json).expect(json);
            assert!(matches!(&read[..], [Input::Text(text)] if text == "+/8="), "{json}");
        }
        for json in [
            r#"{"image": "+/8="}"#,
            r#"[{"type": "image_base64", "image_base64": "data:image/png;base64,+/8="}]"#,
            r#"[{"type": "image_url", "image_url": {"url": "+/8=", "detail": "low"}}]"#,
            r#"{"content": [{"type": "image_url", "image_url": "+/8="}]}"#,
        ] {
            let read = items(json).expect(json);
            assert!(matches!(&read[..], [Input::Image(_)]), "{json}");
        }
        let url = items(r#"{"image_url": {"url": "https://example.com/a.png"}}"#).expect("a URL");
        assert!(matches!(&url[..], [Input::Image(ImageInput::Url(_))]));
        assert_eq!(items(r#"{"content": [{"text": "a"}, {"image": "b"}]}"#).expect("two").len(), 2);
    }

    /// An image in base64 is copied only once, when the body is assembled.
    #[test]
    fn a_picture_stays_where_the_body_holds_it() {
        let payload = "A".repeat(1 << 16);
        for json in [
            format!(r#"{{"image": "{payload}"}}"#),
            format!(r#"[{{"type": "image_base64", "image_base64": "{payload}"}}]"#),
            format!(r#"{{"content": [{{"image_url": {{"url": "{payload}"}}}}]}}"#),
            format!(r#"[{{"content": {{"image_url": "{payload}"}}}}]"#),
        ] {
            let body = Bytes::from(json);
            let items: Items = sharing(&body, || serde_json::from_slice(&body)).expect("items");
            let inputs = resolve_all("documents", items.0).expect("a picture");
            let [Input::Image(ImageInput::Base64 { text, .. })] = &inputs[..] else {
                panic!("{inputs:?}");
            };
            assert!(body.as_ptr_range().contains(&text.as_ptr()));
        }
    }

    #[test]
    fn what_is_not_one_text_or_one_picture_is_named() {
        for (json, code) in [
            (r#"["a", {"type": "video_url"}]"#, Code::InvalidRequest),
            (r#"["a", {"text": "a", "image": "b"}]"#, Code::InvalidRequest),
            (r#"["a", {"content": []}]"#, Code::InvalidRequest),
            (r#"["a", {"content": [{"text": "a"}, {"image": "b"}]}]"#, Code::InvalidRequest),
            (r#"["a", {"content": [{"content": [{"text": "a"}]}]}]"#, Code::InvalidRequest),
            (r#"["a", {"image_url": "file:///a.png"}]"#, Code::FetchForbidden),
        ] {
            let error = items(json).expect_err(json);
            assert_eq!((error.code(), error.field()), (code, Some("documents[1]")), "{json}");
        }
    }
}
