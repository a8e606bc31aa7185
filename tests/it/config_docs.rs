//! What is written about the configuration is what the code says.

use std::{fs, path::PathBuf};

use siglip_server::config::document;

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
