//! Checked-in files that are generated from the code are up to date.
//!
//! `UPDATE_DOCS=1 cargo test --test it documents` writes the files again.

use std::{fs, path::PathBuf};

use siglip_server::{hub, rest};

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Compares a file with the expected content, or writes it with `UPDATE_DOCS`.
fn check(name: &str, expected: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(file(name), expected).expect("the file is written");
    }
    let found = fs::read_to_string(file(name)).unwrap_or_default();
    assert!(
        found == expected,
        "{name} is stale: run `UPDATE_DOCS=1 cargo test --test it documents`"
    );
}

#[test]
fn openapi_yaml_is_fresh() {
    check("openapi.yaml", &rest::openapi_yaml().expect("the document is written"));
}

#[test]
fn the_table_of_errors_is_fresh() {
    let text = fs::read_to_string(file("docs/api.md")).expect("docs/api.md is there");
    let (begin, end) = ("<!-- errors: generated -->\n", "<!-- errors: end -->");
    let (head, rest_of_text) = text.split_once(begin).expect("the table's beginning is marked");
    let (_, tail) = rest_of_text.split_once(end).expect("the table's end is marked");
    check("docs/api.md", &format!("{head}{begin}{}{end}{tail}", rest::error_table()));
}

#[test]
fn the_page_on_errors_is_fresh() {
    check("docs/errors.md", &rest::error_page());
}

#[test]
fn the_table_of_the_hubs_variables_is_fresh() {
    let text = fs::read_to_string(file("docs/operations.md")).expect("docs/operations.md is there");
    let (begin, end) = ("<!-- hub variables: generated -->\n", "<!-- hub variables: end -->");
    let (head, rest) = text.split_once(begin).expect("the table's beginning is marked");
    let (_, tail) = rest.split_once(end).expect("the table's end is marked");
    check("docs/operations.md", &format!("{head}{begin}{}{end}{tail}", hub::variable_table()));
}

/// Every operation describes its response, and every error response names a schema that exists.
#[test]
fn every_operation_is_described() {
    let document = serde_json::to_value(rest::openapi()).expect("JSON");
    let schemas = &document["components"]["schemas"];
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let name = format!("{method} {path}");
            assert!(operation["summary"].is_string(), "{name} has no summary");
            assert!(operation["tags"][0].is_string(), "{name} has no tag");
            for (status, response) in operation["responses"].as_object().expect("responses") {
                if !status.starts_with('2') {
                    let mut bodies = response["content"].as_object().expect("a body").values();
                    let schema = &bodies.next().expect("a body")["schema"]["$ref"];
                    let known = schema.as_str().and_then(|name| name.rsplit('/').next());
                    assert!(known.is_some_and(|name| schemas[name].is_object()), "{name} {status}");
                }
            }
        }
    }
}
