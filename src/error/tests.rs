use super::*;

#[test]
fn slugs_are_unique() {
    let mut slugs: Vec<_> = Code::ALL.iter().map(|code| code.slug()).collect();
    slugs.sort_unstable();
    slugs.dedup();
    assert_eq!(slugs.len(), Code::ALL.len());
}

#[test]
fn client_faults_are_not_retryable_and_have_a_4xx() {
    for code in Code::ALL {
        let spec = code.spec();
        if !spec.retryable && code != Code::Internal {
            assert!(spec.status.is_client_error(), "{code}");
        }
    }
}

#[test]
fn what_quotes_a_long_request_is_cut() {
    let long = || "가".repeat(1 << 20);
    let error = Error::new(Code::ModelNotFound, long()).with_field(long());
    assert!(error.message().len() < MAX_MESSAGE_BYTES + 4 && error.message().ends_with("..."));
    assert!(error.field().is_some_and(|field| field.len() < MAX_FIELD_BYTES + 4));
    assert_eq!(Error::invalid("input[3]", "no text").to_string(), "input[3]: no text");
}

#[test]
fn several_items_fold_into_the_first() {
    let errors = vec![
        Error::new(Code::UndecodableImage, "not a picture").with_field("input[1]"),
        Error::new(Code::TextTooLong, "70 tokens").with_field("input[4]"),
    ];
    let folded = Error::of_items(errors).expect("two errors were given");
    assert_eq!(folded.code(), Code::UndecodableImage);
    assert_eq!(folded.items().len(), 2);
    assert_eq!(folded.to_string(), "input[1]: not a picture");
    let renamed = folded.map_field(|field| field.replace("input", "texts"));
    assert_eq!(renamed.field(), Some("texts[1]"));
    assert_eq!(renamed.items()[1].field(), Some("texts[4]"));
}
