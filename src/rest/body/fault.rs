//! Converts the messages of the parser to those of the API.

use std::borrow::Cow;

use super::unreadable;
use crate::{config::suggest, error::Error};

/// Maximum length of the part of a parser's message that is sent back. The message may quote the body.
const MAX_QUOTED_CHARS: usize = 200;

/// A parser's message, cut if it is too long.
pub(in crate::rest) fn quoted(message: &str) -> String {
    match message.char_indices().nth(MAX_QUOTED_CHARS) {
        None => message.to_owned(),
        Some((end, _)) => format!("{}...", &message[..end]),
    }
}

/// The error for a path, from the message of serde.
pub(super) fn of(path: &str, message: &str) -> Error {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    // The parser uses `.` for the whole body and `?` for a key that it could not read.
    let path = path.trim_end_matches(['.', '?']);
    // For an error about a key, the path may end at the object that has the key.
    let below = |name: &str| match path.strip_suffix(name) {
        Some(above) if above.is_empty() || above.ends_with('.') => path.to_owned(),
        _ if path.is_empty() => name.to_owned(),
        _ => format!("{path}.{name}"),
    };
    let key = |kind: &str| split_name(message.strip_prefix(kind)?);
    if let Some((name, _)) = key("missing field `") {
        return at(below(name), "is missing".to_owned());
    }
    if let Some((name, _)) = key("duplicate field `") {
        return at(below(name), "is given twice, or under two names".to_owned());
    }
    if let Some((name, known)) = key("unknown field `") {
        return at(quoted(&below(name)), format!("unknown field{}", hint(name, known)));
    }
    if let Some((name, known)) = key("unknown variant `") {
        let message = format!("`{}` is not among its values{}", quoted(name), hint(name, known));
        return at(path.to_owned(), message);
    }
    at(path.to_owned(), quoted(&plain(message)))
}

/// The error for a path where the body is valid JSON, but the parser cannot convert the value to the field's
/// type.
pub(super) fn of_value(path: &str, message: &str) -> Error {
    let message = match unreadable::message_of(message) {
        Some(message) => message,
        None if message.contains("number out of range") => "is a number out of range",
        None => "must be a string, one of its values",
    };
    at(path.trim_end_matches(['.', '?']).to_owned(), message.to_owned())
}

fn at(field: String, message: String) -> Error {
    let fault = Error::new(crate::error::Code::InvalidRequest, message);
    if field.is_empty() { fault } else { fault.with_field(field) }
}

/// A name, and the part after its closing backtick. The name may itself contain backticks.
fn split_name(rest: &str) -> Option<(&str, &str)> {
    ["`, expected ", "`, there are"]
        .into_iter()
        .find_map(|end| rest.rsplit_once(end))
        .or_else(|| rest.split_once('`'))
}

/// The name that was probably meant. If there is none, the list of known names.
fn hint(name: &str, known: &str) -> String {
    let names = || known.split('`').skip(1).step_by(2);
    let near = suggest(name, names());
    if !near.is_empty() || names().next().is_none() {
        return near;
    }
    format!("; known are {}", names().collect::<Vec<_>>().join(", "))
}

/// The name of a type outside of Rust.
fn type_name(expected: &str) -> Cow<'_, str> {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of 0 or more".into(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "an array".into(),
        "a map" => "an object".into(),
        "string or map" | "variant identifier" => "a string".into(),
        _ if expected.starts_with("struct ") => "an object".into(),
        _ if expected.starts_with("enum ") => "a string".into(),
        _ => expected.into(),
    }
}

/// A message of serde or of the parsers in Rust's standard library, in plain words.
fn plain(message: &str) -> String {
    let wrong = ["invalid type: ", "invalid value: "];
    if let Some(rest) = wrong.iter().find_map(|kind| message.strip_prefix(kind))
        && let Some((found, expected)) = rest.rsplit_once(", expected ")
    {
        let found = match found {
            "map" => "an object",
            "sequence" => "an array",
            "unit value" => "null",
            _ => found,
        };
        let found = found
            .strip_prefix("integer ")
            .or_else(|| found.strip_prefix("floating point "))
            .or_else(|| found.strip_prefix("boolean "))
            .map_or_else(|| found.to_owned(), |value| value.trim_matches('`').to_owned());
        let found = found
            .strip_prefix("string ")
            .map_or(found.clone(), |text| format!("the string {text}"));
        return format!("must be {}, not {}", type_name(expected), quoted(&found));
    }
    match message {
        "invalid digit found in string"
        | "cannot parse integer from empty string"
        | "number too large to fit in target type"
        | "number too small to fit in target type" => "must be a whole number, in range".to_owned(),
        "provided string was not `true` or `false`" => "must be true or false".to_owned(),
        "invalid float literal" => "must be a number".to_owned(),
        _ => message.to_owned(),
    }
}
