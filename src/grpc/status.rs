//! Converts an [`Error`] to a [`Status`] with the code from the table of errors and machine-readable details.
//!
//! Details are sent twice: as plain metadata for people with `grpcurl`, and as the standard
//! `grpc-status-details-bin` for libraries that read `google.rpc.Status`.

use std::sync::Arc;

use prost::Message;
use prost_types::{Any, Duration};
use tonic::{Code as GrpcCode, Status, metadata::MetadataMap};

use crate::error::Error;

pub(super) const CODE: &str = "siglip-code";
const FIELD: &str = "siglip-field";
const RETRY_AFTER: &str = "retry-after-ms";
/// The domain of the reasons in `ErrorInfo`.
const DOMAIN: &str = "siglip.v1";

/// Maximum number of bytes of a message. Messages may quote the request. Common clients refuse metadata above 8
/// KiB and would then show only their own error.
const MAX_MESSAGE_BYTES: usize = 512;
/// Maximum number of bytes of one item's message, for the same reason.
const MAX_ITEM_BYTES: usize = 160;
/// Maximum number of failed items that are listed.
const MAX_ITEMS: usize = 8;

/// The status for a client. It keeps the error as its source, for the log.
pub(super) fn status(error: Error) -> Status {
    let message = error.message().to_owned();
    with_message(error, &message)
}

/// The status with the part at fault in its message, for clients that show only the message.
pub(super) fn status_in_words(error: Error) -> Status {
    let message = error.to_string();
    with_message(error, &message)
}

fn with_message(error: Error, message: &str) -> Status {
    let code = GrpcCode::from_i32(error.code().spec().grpc);
    let message = cut(message, MAX_MESSAGE_BYTES);
    let details = details(&error, message).encode_to_vec().into();
    let mut status = Status::with_details_and_metadata(code, message, details, metadata(&error));
    status.set_source(Arc::new(error));
    status
}

fn metadata(error: &Error) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    let mut insert = |key: &'static str, value: &str| {
        // A field may quote the request. A field that metadata cannot carry is only in the details.
        if let Ok(value) = value.parse() {
            metadata.insert(key, value);
        }
    };
    insert(CODE, error.code().slug());
    if let Some(field) = error.field() {
        insert(FIELD, cut(field, MAX_ITEM_BYTES));
    }
    if let Some(after) = error.retry_after() {
        insert(RETRY_AFTER, &after.as_millis().to_string());
    }
    metadata
}

fn details(error: &Error, message: &str) -> RpcStatus {
    let info = ErrorInfo { reason: error.code().slug().to_owned(), domain: DOMAIN.to_owned() };
    let mut details = vec![any("ErrorInfo", &info)];
    let items = match error.items() {
        [] => std::slice::from_ref(error),
        items => items,
    };
    let field_violations: Vec<_> = items
        .iter()
        .filter(|item| item.field().is_some())
        .take(MAX_ITEMS)
        .map(|item| FieldViolation {
            field: cut(item.field().unwrap_or_default(), MAX_ITEM_BYTES).to_owned(),
            description: cut(item.message(), MAX_ITEM_BYTES).to_owned(),
            reason: item.code().slug().to_owned(),
        })
        .collect();
    if !field_violations.is_empty() {
        details.push(any("BadRequest", &BadRequest { field_violations }));
    }
    // A delay that does not fit is centuries long, so it is left out.
    if let Some(delay) = error.retry_after().and_then(|after| Duration::try_from(after).ok()) {
        details.push(any("RetryInfo", &RetryInfo { retry_delay: Some(delay) }));
    }
    RpcStatus { code: error.code().spec().grpc, message: message.to_owned(), details }
}

fn any(name: &str, message: &impl Message) -> Any {
    Any {
        type_url: format!("type.googleapis.com/google.rpc.{name}"),
        value: message.encode_to_vec(),
    }
}

/// The first `bytes` bytes of `text` at most, without cutting a character.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// The used fields of `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.rpc.ErrorInfo`: the reason is the error's code.
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
}

/// `google.rpc.BadRequest`: one entry for each failed item.
#[derive(Clone, PartialEq, Message)]
struct BadRequest {
    #[prost(message, repeated, tag = "1")]
    field_violations: Vec<FieldViolation>,
}

/// `google.rpc.BadRequest.FieldViolation`.
#[derive(Clone, PartialEq, Message)]
struct FieldViolation {
    #[prost(string, tag = "1")]
    field: String,
    #[prost(string, tag = "2")]
    description: String,
    #[prost(string, tag = "3")]
    reason: String,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn every_code_keeps_its_number_and_its_name() {
        for code in Code::ALL {
            let status = status(Error::new(code, "why"));
            assert_eq!(status.code() as i32, code.spec().grpc, "{code}");
            assert_ne!(status.code(), GrpcCode::Unknown, "{code}");
            assert_eq!(status.metadata().get(CODE).expect("a code"), code.slug());
            assert_eq!(status.message(), "why");
        }
    }

    #[test]
    fn field_and_retry_travel_in_metadata_and_details() {
        let error = Error::new(Code::Overloaded, "full")
            .with_field("input[3]")
            .with_retry_after(std::time::Duration::from_millis(1500));
        let status = status(error);
        assert_eq!(status.metadata().get(FIELD).expect("a field"), "input[3]");
        assert_eq!(status.metadata().get(RETRY_AFTER).expect("a delay"), "1500");
        let details = RpcStatus::decode(status.details()).expect("a google.rpc.Status");
        assert_eq!(details.code, 8);
        let kinds: Vec<_> =
            details.details.iter().filter_map(|any| any.type_url.rsplit('.').next()).collect();
        assert_eq!(kinds, ["ErrorInfo", "BadRequest", "RetryInfo"]);
        let retry = RetryInfo::decode(&*details.details[2].value).expect("a RetryInfo");
        assert_eq!(retry.retry_delay, Some(Duration { seconds: 1, nanos: 500_000_000 }));
    }

    #[test]
    fn many_failures_and_long_messages_stay_within_what_clients_take() {
        let items = (0..1000)
            .map(|index| {
                Error::new(Code::UndecodableImage, "가".repeat(5000))
                    .with_field(format!("input[{index}]"))
            })
            .collect();
        let status = status(Error::of_items(items).expect("errors were given"));
        let mut headers = http::HeaderMap::new();
        status.add_header(&mut headers).expect("valid metadata");
        let bytes: usize =
            headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        assert!(bytes < 6 << 10, "{bytes}");
        let details = RpcStatus::decode(status.details()).expect("a google.rpc.Status");
        let bad = BadRequest::decode(&*details.details[1].value).expect("a BadRequest");
        assert_eq!(bad.field_violations.len(), MAX_ITEMS);
        assert_eq!(bad.field_violations[7].field, "input[7]");
    }

    #[test]
    fn a_cause_is_for_the_log_only() {
        let status = status(Error::internal("secret path"));
        assert!(!status.message().contains("secret"));
        assert!(!String::from_utf8_lossy(status.details()).contains("secret"));
    }
}
