use super::*;

#[derive(Debug, PartialEq, Deserialize)]
struct Sample {
    items: Vec<Item>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Item {
    size: u8,
}

fn fault(json: &str) -> Error {
    parse::<Sample>(&Bytes::copy_from_slice(json.as_bytes())).expect_err(json)
}

#[test]
fn a_fault_is_named_by_its_path() {
    let error = fault(r#"{"items": [{"size": 1}, {"size": "large"}]}"#);
    assert_eq!(error.field(), Some("items[1].size"));
    assert!(error.message().contains("must be a whole number"), "{error}");
    assert_eq!(fault(r#"{"items": [{}]}"#).field(), Some("items[0].size"));
    assert_eq!(fault("{}").field(), Some("items"));
    assert_eq!(fault("[]").field(), None);
}

#[test]
fn what_is_not_json_is_said_so() {
    assert_eq!(fault("").message(), "the body is empty");
    for json in ["{", r#"{"items": [}"#, r#"{"items": []} x"#] {
        let error = fault(json);
        assert!(error.message().starts_with("the body is not JSON"), "{error}");
        assert_eq!(error.field(), None);
    }
}

#[test]
fn a_long_body_is_not_quoted_back() {
    let error = fault(&format!(r#"{{"items": "{}"}}"#, "é".repeat(100_000)));
    assert!(error.message().len() < 500, "{}", error.message().len());
    assert_eq!(error.field(), Some("items"));
}

#[test]
fn options_are_words_numbers_or_booleans() {
    assert_eq!(option::<usize>("n", "12").expect("a number"), Some(12));
    assert_eq!(option::<bool>("b", "true").expect("a boolean"), Some(true));
    assert_eq!(option::<bool>("b", "null").expect("null is absent"), None);
    assert_eq!(option::<String>("s", "float").expect("a word").as_deref(), Some("float"));
    assert_eq!(option::<usize>("n", "twelve").expect_err("a word").field(), Some("n"));
}

#[test]
fn one_string_or_several_are_read_and_nothing_else() {
    let read = |json| serde_json::from_str::<Strings>(json).map(|strings| strings.0);
    assert_eq!(read(r#""a\nb""#).expect("one"), ["a\nb"]);
    assert_eq!(read(r#"["a", "b"]"#).expect("two"), ["a", "b"]);
    for json in ["1", "[1]", "null", "{}", r#"[["a"]]"#] {
        let error = read(json).expect_err(json).to_string();
        assert!(error.contains("string"), "{error}");
    }
}
