//! `messages`: the input of vLLM's clients, as one or several conversations.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use utoipa::ToSchema;

use crate::{
    engine::Input,
    error::Error,
    rest::compat::content::{Item, Part, mixed},
};

/// The conversations of a request, in order. Each has one embedding.
#[derive(Debug)]
pub(super) struct Conversations {
    conversations: Vec<Vec<Item>>,
    /// Whether each conversation is in its own array.
    is_nested: bool,
}

impl Conversations {
    /// Converts each conversation to an input. Images are not decoded here.
    ///
    /// # Errors
    /// One error that lists every conversation that is not one text or one image.
    pub(super) fn resolve(self) -> Result<Vec<Input>, Error> {
        let mut errors = Vec::new();
        let mut inputs = Vec::with_capacity(self.conversations.len());
        for input in self.each() {
            match input {
                Ok(input) => inputs.push(input),
                Err(error) => errors.push(error),
            }
        }
        Error::of_items(errors).map_or(Ok(inputs), Err)
    }

    /// The same, but an invalid conversation becomes an input that fails.
    pub(super) fn resolve_each(self) -> Vec<Input> {
        self.each().map(|input| input.unwrap_or_else(Input::Unreadable)).collect()
    }

    fn each(self) -> impl Iterator<Item = Result<Input, Error>> {
        let Self { conversations, is_nested } = self;
        conversations.into_iter().enumerate().map(move |(index, conversation)| {
            let field =
                if is_nested { format!("messages[{index}]") } else { "messages".to_owned() };
            single(conversation, is_nested).map_err(|error| error.with_field(field))
        })
    }
}

/// The one message of a conversation.
fn single(mut conversation: Vec<Item>, is_nested: bool) -> Result<Input, Error> {
    match (conversation.pop(), conversation.is_empty()) {
        (Some(message), true) => together(message),
        _ if is_nested => Err(Error::invalid("messages", ONE)),
        _ => Err(Error::invalid("messages", ONE_OF_SEVERAL)),
    }
}

/// Converts a message: one image, or texts, which are joined as the lines of one text.
fn together(message: Item) -> Result<Input, Error> {
    let parts = message.into_parts();
    let mut image = None;
    let mut lines = Vec::new();
    for part in parts {
        match part.resolve_leaf()? {
            Input::Text(line) => lines.push(line),
            Input::Unreadable(error) => return Err(error),
            input if image.is_none() => image = Some(input),
            _ => return Err(mixed()),
        }
    }
    match image {
        None if lines.is_empty() => Err(Error::invalid("messages", "the message is empty")),
        None => Ok(Input::Text(lines.join("\n"))),
        // Clients of models that read both send an empty text with an image.
        Some(image) if lines.iter().all(String::is_empty) => Ok(image),
        Some(_) => Err(mixed()),
    }
}

const ONE: &str = "a conversation has one message: it is one embedding, of one text or one image";
const ONE_OF_SEVERAL: &str = "a conversation has one message: it is one embedding, of one text or one image. For an \
     embedding of each message give each in an array of its own: [[{...}], [{...}]]";

// Written by hand, not as an untagged enum: an error deep in an array keeps its own message and path.
impl<'de> Deserialize<'de> for Conversations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ConversationsVisitor;

        impl<'de> Visitor<'de> for ConversationsVisitor {
            type Value = Conversations;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of messages, or of arrays of messages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Conversations, A::Error> {
                let mut flat = Vec::new();
                let mut nested = Vec::new();
                while let Some(element) = seq.next_element()? {
                    match element {
                        Element::Message(message) => flat.push(message),
                        Element::Conversation(messages) => nested.push(messages),
                    }
                    if !flat.is_empty() && !nested.is_empty() {
                        return Err(de::Error::custom(
                            "must be all messages or all arrays of messages",
                        ));
                    }
                }
                let is_nested = !nested.is_empty();
                let conversations = if is_nested { nested } else { vec![flat] };
                Ok(Conversations { conversations, is_nested })
            }
        }

        deserializer.deserialize_seq(ConversationsVisitor)
    }
}

/// One element of `messages`.
enum Element {
    Message(Item),
    Conversation(Vec<Item>),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ElementVisitor;

        impl<'de> Visitor<'de> for ElementVisitor {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a message, or an array of messages")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Element, E> {
                Ok(Element::Message(Item::Text(text.to_owned())))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Element, A::Error> {
                let message = Part::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Element::Message(Item::Part(message)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Element, A::Error> {
                let mut messages = Vec::new();
                while let Some(message) = seq.next_element()? {
                    messages.push(message);
                }
                Ok(Element::Conversation(messages))
            }
        }

        deserializer.deserialize_any(ElementVisitor)
    }
}

/// The messages of one or several conversations, for the OpenAPI document.
#[derive(ToSchema)]
#[schema(as = Messages)]
#[serde(untagged)]
#[expect(dead_code, reason = "only describes `Conversations`, which is read by hand")]
pub(super) enum ConversationsSchema {
    /// One conversation: one embedding.
    One(Vec<Item>),
    /// Several conversations: one embedding each.
    Many(Vec<Vec<Item>>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ImageInput;

    fn read(json: &str) -> Result<Vec<Input>, Error> {
        serde_json::from_str::<Conversations>(json).expect(json).resolve()
    }

    #[test]
    fn each_conversation_is_one_input() {
        let several = r#"[[{"content": "a"}], [{"content": [{"image": "+/8="}]}], ["b"]]"#;
        let several = read(several).expect("three");
        let [Input::Text(a), Input::Image(ImageInput::Base64 { .. }), Input::Text(b)] =
            &several[..]
        else {
            panic!("{several:?}");
        };
        assert_eq!((&**a, &**b), ("a", "b"));
        assert_eq!(read(r#"[{"role": "user", "content": "a"}]"#).expect("one").len(), 1);
    }

    #[test]
    fn the_texts_of_a_message_are_one_text() {
        for (content, expected) in [
            (r#"[{"text": "a"}, {"type": "text", "text": "b"}]"#, "a\nb"),
            (r#"["a", {"text": "b"}, "c"]"#, "a\nb\nc"),
            (r#"[{"text": ""}, {"text": "b"}]"#, "\nb"),
        ] {
            let found = read(&format!(r#"[{{"content": {content}}}]"#)).expect(content);
            assert!(matches!(&found[..], [Input::Text(text)] if text == expected), "{found:?}");
        }
    }

    #[test]
    fn an_image_may_stand_beside_no_words() {
        let found = read(r#"[{"content": [{"text": ""}, {"image": "+/8="}]}]"#).expect("an image");
        assert!(matches!(&found[..], [Input::Image(_)]), "{found:?}");
    }

    #[test]
    fn what_is_no_single_text_or_image_is_named() {
        for (json, field) in [
            ("[]", "messages"),
            (r#"[{"content": "a"}, {"content": "b"}]"#, "messages"),
            (r#"[{"content": [{"text": "a"}, {"image": "+/8="}]}]"#, "messages"),
            (r#"[{"content": [{"image": "+/8="}, {"image": "+/8="}]}]"#, "messages"),
            (r#"[["a"], []]"#, "messages[1]"),
            (r#"[["a"], ["b", "c"]]"#, "messages[1]"),
            (r#"[["a"], [{"content": []}]]"#, "messages[1]"),
            (r#"[["a"], [{"type": "input_audio"}]]"#, "messages[1]"),
        ] {
            assert_eq!(read(json).expect_err(json).field(), Some(field), "{json}");
        }
        for json in [r#"["a", ["b"]]"#, r#"[["b"], "a"]"#, r#"["a", 7]"#, r#"{"content": "a"}"#] {
            assert!(serde_json::from_str::<Conversations>(json).is_err(), "{json}");
        }
    }
}
