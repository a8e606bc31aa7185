//! The documentation of the configuration agrees with the code.

use std::{collections::BTreeSet, fs, path::PathBuf};

use siglip_server::config::{document, options::OPTIONS};

fn check(name: &str, expected: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, expected).expect("the file is written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{name} is stale: run `UPDATE_DOCS=1 cargo test --test it config_docs`"
    );
}

#[test]
fn the_commented_defaults_are_fresh() {
    check("deploy/config.default.toml", &document::commented_defaults());
}

#[test]
fn the_reference_is_fresh() {
    check("docs/configuration.md", &document::markdown());
}

/// Every option that errors and the page about errors name in backticks exists.
#[test]
fn options_that_errors_name_are_there() {
    let known: BTreeSet<_> = OPTIONS.iter().map(|option| option.path()).collect();
    // `model.` begins keys of a checkpoint's files as well.
    let sections = OPTIONS.iter().map(|option| option.section).filter(|name| *name != "model");
    let sections: BTreeSet<_> = sections.collect();
    let mut folders = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut named = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap_or_default();
            // Between quotes or backticks.
            for word in text.split(['"', '`']) {
                let is_option = word.split_once('.').is_some_and(|(section, key)| {
                    sections.contains(section)
                        && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
                });
                if is_option && ![".rs", ".js"].iter().any(|end| word.ends_with(end)) {
                    assert!(known.contains(word), "{}: there is no `{word}`", path.display());
                    named += 1;
                }
            }
        }
    }
    assert!(named > 20, "{named}");
}
