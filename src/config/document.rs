//! Writes the configuration: the current values with their origins, a commented file, and a table.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{
    Config, Effective,
    codec::Literal,
    options::{OPTIONS, Spec},
};

/// A TOML value; none for an option that is not set.
fn toml_value(literal: Literal) -> Option<String> {
    match literal {
        Literal::Text(text) => Some(toml::Value::String(text).to_string()),
        Literal::Integer(number) => Some(number.to_string()),
        Literal::Boolean(on) => Some(on.to_string()),
        Literal::Unset => None,
    }
}

/// Appends formatted text to a string, which cannot fail.
macro_rules! put {
    ($out:expr, $($arg:tt)*) => {
        writeln!($out, $($arg)*).unwrap_or_default()
    };
}

/// The options of a section.
fn options_of(section: &str) -> impl Iterator<Item = &'static Spec> {
    OPTIONS.iter().filter(move |option| option.section == section)
}

/// The current values as a config file, each followed by its origin. The result can be used as `--config`.
#[must_use]
pub fn effective_toml(effective: &Effective) -> String {
    let mut out = String::new();
    for (section, _) in Config::section_docs() {
        let gap = if out.is_empty() { "" } else { "\n" };
        put!(out, "{gap}[{section}]");
        for option in options_of(section) {
            let line = match toml_value(effective.config.get(option)) {
                Some(value) => format!("{} = {value}", option.key),
                None => format!("# {} is not set", option.key),
            };
            put!(out, "{line:<36}  # from {}", effective.origin(option));
        }
    }
    out
}

/// The current values by section and key, each as `{"value", "origin"}`.
#[must_use]
pub fn effective_json(effective: &Effective) -> Value {
    let sections = Config::section_docs().into_iter().map(|(section, _)| {
        let values: Map<_, _> = options_of(section)
            .map(|option| {
                let value = match effective.config.get(option) {
                    Literal::Text(text) => json!(text),
                    Literal::Integer(number) => json!(number),
                    Literal::Boolean(on) => json!(on),
                    Literal::Unset => Value::Null,
                };
                let origin = effective.origin(option).to_string();
                (option.key.to_owned(), json!({"value": value, "origin": origin}))
            })
            .collect();
        (section.to_owned(), Value::Object(values))
    });
    Value::Object(sections.collect())
}

/// The defaults as a config file with every value commented out: `deploy/config.default.toml`.
#[must_use]
pub fn commented_defaults() -> String {
    let mut out = String::from(
        "# Every option with its default. Take away the `#` before a value to set it here.\n\
         # A flag beats its variable, a variable beats this file.\n\
         # Written by `siglip-server config --defaults`.\n",
    );
    let defaults = Config::default();
    for (section, doc) in Config::section_docs() {
        put!(out, "\n# {doc}\n[{section}]");
        for option in options_of(section) {
            put!(out, "");
            for line in wrap(&option.doc, 98) {
                put!(out, "# {line}");
            }
            put!(out, "# --{} {}, {}", option.flag, option.placeholder, option.env);
            match toml_value(defaults.get(option)) {
                Some(value) => put!(out, "#{} = {value}", option.key),
                None => put!(out, "#{} = (not set)", option.key),
            }
        }
    }
    out
}

/// The reference for readers: `docs/configuration.md`.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(INTRODUCTION);
    let defaults = Config::default();
    for (section, doc) in Config::section_docs() {
        put!(out, "\n## `[{section}]`\n\n{doc}\n");
        put!(out, "| key | flag | variable | default | meaning |\n|---|---|---|---|---|");
        for option in options_of(section) {
            let default = match defaults.get(option) {
                Literal::Text(text) => format!("`{text}`"),
                Literal::Integer(number) => format!("`{number}`"),
                Literal::Boolean(on) => format!("`{on}`"),
                Literal::Unset => "not set".to_owned(),
            };
            let flag = format!("--{} {}", option.flag, option.placeholder).replace('|', "\\|");
            let doc = option.doc.replace('|', "\\|");
            put!(out, "| `{}` | `{flag}` | `{}` | {default} | {doc} |", option.key, option.env);
        }
    }
    out
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Written by `siglip-server config --markdown`; a test fails when it is stale. -->

Every option can be set in three places. The first that sets it wins:

1. a **flag**: `--limits-max-items 64`
2. an **environment variable**: `SIGLIP_LIMITS_MAX_ITEMS=64`
3. a **file**, named by `--config FILE` or `SIGLIP_CONFIG`: `[limits]` and `max_items = 64`

Else it has the default below. No file is read unless one is named.

The names follow one rule. In the file an option is a key in a section. Its flag is the two joined by a dash,
with dashes for underscores; the options that one sets most have a shorter flag. Its variable is
`SIGLIP_` and the flag in capitals, with underscores for dashes. An empty variable counts as not set.

- A *SIZE* is a number of bytes, plain or with a unit: `64MiB`, `512KiB`, `20MB`.
- A *DURATION* has a unit: `500ms`, `30s`, `1m 30s`.
- An option that may be repeated is an array in the file, and one text with `;` between the values elsewhere.
- A *BOOL* is `true` or `false`; the flag alone means `true`: `--fetch`, `--fetch=false`.
- *ADDR:PORT* is numeric, such as `0.0.0.0:8080` or `[::]:8080`; `localhost:8080` is read as `127.0.0.1:8080`.

A name that does not exist, in the file or among the variables that begin with `SIGLIP_`, is an error, and so is a
value that is not one: all of them are listed with their origin, and the exit code is 2. Variables that
Kubernetes adds for a service named `siglip...` are left alone.

`siglip-server config` prints the values in force, each with its origin, as a file that can be used again.
`siglip-server config --format json` does so for programs.
[`deploy/config.default.toml`](../deploy/config.default.toml) is a file to start from.
";

/// Breaks a text into lines of at most `width` characters.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::config::Sources;

    fn load(text: &str) -> Effective {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("writes");
        let file = Some(file.path().to_owned());
        Effective::load(&Sources { file, ..Sources::default() }).expect(text)
    }

    #[test]
    fn what_is_in_force_can_be_used_as_a_file() {
        let flags =
            [("listen", "0.0.0.0:1"), ("model-name", "a \"b\" \\ c"), ("grace-period", "0s")]
                .map(|(name, text)| (name.to_owned(), text.to_owned()));
        let effective = Effective::load(&Sources { flags: flags.into(), ..Sources::default() });
        let effective = effective.expect("loads");
        let text = effective_toml(&effective);
        assert!(
            text.contains("http = \"0.0.0.0:1\"                    # from flag --listen"),
            "{text}"
        );
        assert_eq!(load(&text).config, effective.config);
    }

    #[test]
    fn the_commented_defaults_are_the_defaults() {
        let text = commented_defaults();
        assert_eq!(load(&text).config, Config::default());
        let uncommented: Vec<_> = text
            .lines()
            .map(|line| {
                line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line)
            })
            .filter(|line| !line.ends_with("(not set)"))
            .collect();
        let loaded = load(&uncommented.join("\n"));
        assert_eq!(loaded.config, Config::default());
        let set = OPTIONS.iter().filter(|option| loaded.origin(option) != Default::default());
        assert!(set.count() > 20, "every default was given by the file");
    }

    #[test]
    fn json_says_where_each_value_came_from() {
        let json = effective_json(&Effective::default());
        assert_eq!(json["limits"]["max_items"], json!({"value": 1024, "origin": "default"}));
        assert_eq!(json["listen"]["grpc"]["value"], Value::Null);
    }
}
