//! Reads the config file: TOML with one table per section.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::{
    load::Problem,
    options::{LIST_SEPARATOR, OPTIONS},
};

/// A value of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) section: String,
    pub(super) key: String,
    pub(super) text: String,
    /// The line of the value, counted from 1.
    pub(super) line: usize,
}

/// Reads a file's text. It returns the valid values and all problems.
///
/// * `name`: the file's name, for the problems
pub(super) fn parse(name: &str, text: &str) -> (Vec<Entry>, Vec<Problem>) {
    let line = |span: Range<usize>| {
        let before = text.get(..span.start).unwrap_or(text);
        1 + before.bytes().filter(|byte| *byte == b'\n').count()
    };
    let document = match DeTable::parse(text) {
        Ok(document) => document.into_inner(),
        Err(error) => {
            let place = error.span().map_or(String::new(), |span| format!(":{}", line(span)));
            let problem = Problem::new(format!("{name}{place}"), error.message().to_owned());
            return (Vec::new(), vec![problem]);
        }
    };

    let mut entries = Vec::new();
    let mut problems = Vec::new();
    for (section, table) in document {
        let line_of_section = line(section.span());
        let section = section.into_inner().into_owned();
        let DeValue::Table(table) = table.into_inner() else {
            let message = format!("`{section}` stands outside of a section");
            problems.push(Problem::new(format!("{name}:{line_of_section}"), message));
            continue;
        };
        if !sections().any(|known| known == section) {
            let known = suggest(&section, sections());
            let message = format!("there is no section `{section}`{known}");
            problems.push(Problem::new(format!("{name}:{line_of_section}"), message));
            continue;
        }
        for (key, value) in table {
            let line = line(key.span());
            let key = key.into_inner().into_owned();
            let origin = || format!("{name}:{line}: [{section}] {key}");
            let keys = || OPTIONS.iter().filter(|option| option.section == section);
            let Some(option) = keys().find(|option| option.key == key) else {
                let known = suggest(&key, keys().map(|option| option.key));
                problems.push(Problem::new(origin(), format!("there is no such option{known}")));
                continue;
            };
            let value = value.get_ref();
            let text = if option.list { list(value) } else { scalar(value) };
            match text {
                Some(text) => entries.push(Entry { section: section.clone(), key, text, line }),
                None => {
                    let wanted = if option.list { "texts" } else { "one value" };
                    let message = format!("must be {wanted}, not {}", value.type_str());
                    problems.push(Problem::new(origin(), message));
                }
            }
        }
    }
    // The values are sorted by line, so that problems appear in the order of the file.
    entries.sort_by_key(|entry| entry.line);
    (entries, problems)
}

fn sections() -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().map(|option| option.section)
}

/// A value as text, for the codec of its option.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Some(number.to_string()),
            Err(_) => Some(number.as_str().to_owned()),
        },
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// An array of texts as one text; a single value needs no array.
fn list(value: &DeValue<'_>) -> Option<String> {
    let DeValue::Array(items) = value else { return scalar(value) };
    let texts = items.iter().map(|item| match item.get_ref() {
        DeValue::String(text) => Some(&**text),
        _ => None,
    });
    Some(texts.collect::<Option<Vec<_>>>()?.join(LIST_SEPARATOR))
}

/// `; did you mean ...?` if one of the known names is similar.
pub(crate) fn suggest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    let length = name.chars().count();
    // With more than a third of its letters changed, a name counts as another word.
    let may_differ = |candidate: &str| candidate.len().div_ceil(3);
    known
        // A name in a request may have megabytes, whose comparison would take seconds.
        .filter(|candidate| length.abs_diff(candidate.len()) <= may_differ(candidate))
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= may_differ(candidate))
        .map_or_else(String::new, |(_, candidate)| format!("; did you mean `{candidate}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_with_their_line() {
        let text = "# comment\n[listen]\nhttp = \"[::]:80\"\n\n[limits]\nmax_items = 0x10\n";
        let (entries, problems) = parse("s.toml", text);
        assert!(problems.is_empty(), "{problems:?}");
        let found: Vec<_> = entries
            .iter()
            .map(|entry| (entry.key.as_str(), entry.text.as_str(), entry.line))
            .collect();
        assert_eq!(found, [("http", "[::]:80", 3), ("max_items", "16", 6)]);
    }

    #[test]
    fn a_list_is_an_array_or_one_text() {
        for text in ["[\"demo\", \"b=/x\"]", "\"demo;b=/x\""] {
            let (entries, problems) = parse("s.toml", &format!("[model]\nsource = {text}\n"));
            assert!(problems.is_empty(), "{problems:?}");
            assert_eq!(entries[0].text, "demo;b=/x");
        }
        let (_, problems) = parse("s.toml", "[model]\nsource = [1]\n");
        assert_eq!(problems[0].to_string(), "s.toml:2: [model] source: must be texts, not array");
    }

    #[test]
    fn what_is_not_known_is_named_with_its_line() {
        let text =
            "listen = 3\n[limit]\nmax_items = 1\n[batch]\nmax_wiat = \"1s\"\nmax_wait = [1]\n";
        let (_, problems) = parse("s.toml", text);
        let mut lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        lines.sort();
        assert_eq!(
            lines,
            [
                "s.toml:1: `listen` stands outside of a section",
                "s.toml:2: there is no section `limit`; did you mean `limits`?",
                "s.toml:5: [batch] max_wiat: there is no such option; did you mean `max_wait`?",
                "s.toml:6: [batch] max_wait: must be one value, not array",
            ]
        );
        let (_, problems) = parse("s.toml", "[listen]\nhttp = \n");
        assert!(problems[0].to_string().starts_with("s.toml:2: "), "{problems:?}");
    }
}
