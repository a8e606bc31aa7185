use http::{HeaderName, HeaderValue};

use super::*;

const TWO: &str = r#"
[search]
key = "search-0123456789"

[bulk]
key = "bulk-0123456789abc"
max_concurrent = 2
"#;

fn keys(text: &str) -> (Keys, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    let keys = Keys::load(file.path().to_owned(), Arc::new(Metrics::new())).expect("usable");
    (keys, file)
}

fn headers(name: &'static str, value: &str) -> HeaderMap {
    let value = HeaderValue::from_str(value).expect("a value");
    HeaderMap::from_iter([(HeaderName::from_static(name), value)])
}

#[test]
fn a_key_is_taken_from_each_header() {
    let (keys, _file) = keys(TWO);
    for (name, value) in [
        ("authorization", "Bearer search-0123456789"),
        ("authorization", "bearer  search-0123456789"),
        ("x-api-key", "search-0123456789"),
        ("api-key", "search-0123456789"),
    ] {
        assert_eq!(keys.admit(&headers(name, value)).expect(value).name(), "search");
    }
    for (name, value) in [
        ("authorization", "Bearer search-012345678"),
        ("authorization", "Bearer search-01234567890"),
        ("authorization", "Bearer "),
        ("authorization", "Bearer"),
        ("authorization", "search-0123456789"),
        ("authorization", "Basic search-0123456789"),
        ("x-api-key", "SEARCH-0123456789"),
        ("x-api-key", ""),
        ("cookie", "search-0123456789"),
    ] {
        let error = keys.admit(&headers(name, value)).expect_err(value);
        assert_eq!(error.code(), Code::Unauthorized, "{name}: {value}");
    }
    assert_eq!(keys.metrics.key_requests.with_label_values(&["search"]).get(), 4);
}

#[test]
fn a_quota_bounds_one_key_alone() {
    let (keys, _file) = keys(TWO);
    let bulk = headers("x-api-key", "bulk-0123456789abc");
    let first = keys.admit(&bulk).expect("one");
    let _second = keys.admit(&bulk).expect("two");
    let error = keys.admit(&bulk).expect_err("three");
    assert_eq!(error.code(), Code::Overloaded);
    assert!(error.retry_after().is_some());
    keys.admit(&headers("x-api-key", "search-0123456789")).expect("another key");
    drop(first);
    keys.admit(&bulk).expect("one again");
}

#[test]
fn no_secret_is_kept_or_shown() {
    let (keys, file) = keys(TWO);
    assert!(!format!("{keys:?}").contains("0123456789"));
    for broken in [
        "[a]\nkey = secret-0123456789",
        "[a]\nkey = 123",
        "[a]\nkey = \"secret-0123456789\"\nsecret-0123456789 = 1",
        "key = \"secret-0123456789\"",
        "[a]\nkey = \"short secret\"",
        "[a]\nkey = \"secret-0123456789\"\n[b]\nkey = \"secret-0123456789\"",
        "[a]\nkey = \"secret-0123456789\"\nmax_concurrent = 0",
        "[\"a b\"]\nkey = \"secret-0123456789\"",
        "",
    ] {
        std::fs::write(file.path(), broken).expect("written");
        let error = file::read(file.path()).expect_err(broken);
        let text = format!("{error} {error:?}");
        assert!(!text.contains("secret"), "{broken}: {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_changes_the_keys_and_a_broken_one_does_not() {
    let (keys, file) = keys(TWO);
    let keys = Arc::new(keys);
    let old = headers("x-api-key", "search-0123456789");
    let new = headers("x-api-key", "search-9876543210");
    let held = keys.admit(&headers("x-api-key", "bulk-0123456789abc")).expect("a key");

    std::fs::write(file.path(), TWO.replace("search-0123456789", "search-9876543210"))
        .expect("written");
    assert_eq!(keys.reread().await, Ok(true));
    assert_eq!(keys.reread().await, Ok(false));
    assert!(keys.admit(&old).is_err());
    drop(keys.admit(&new).expect("the new key"));
    assert_eq!(held.usage.0.load(Ordering::Relaxed), 1);
    let bulk = keys.admit(&headers("x-api-key", "bulk-0123456789abc")).expect("a key");
    assert_eq!(bulk.usage.0.load(Ordering::Relaxed), 2, "counted on over the change");

    std::fs::write(file.path(), "nonsense").expect("written");
    assert!(keys.reread().await.is_err());
    keys.admit(&new).expect("still in force");
}
