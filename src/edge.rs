//! What both APIs read from the headers of a request in the same way: its id and its priority.

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use crate::{batch::Priority, error::Error};

/// The header with the request id, in requests and responses.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const PRIORITY: &str = "x-priority";

/// Long enough for a UUID, a trace id or a path-like id of a proxy, and short enough for log lines.
const MAX_ID_BYTES: usize = 128;

/// The client's request id if it is valid, otherwise a new one. The id is always printable ASCII.
///
/// An id is written to logs, headers and problem documents, so it must be short and printable. A new id is a UUID
/// of version 7, which sorts by time, so that the order of ids in a log is the order of the requests.
#[must_use]
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_valid = |id: &&HeaderValue| {
        (1..=MAX_ID_BYTES).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    headers.get(REQUEST_ID).filter(is_valid).cloned().unwrap_or_else(|| {
        HeaderValue::try_from(Uuid::now_v7().to_string())
            .unwrap_or_else(|_| HeaderValue::from_static("unknown"))
    })
}

/// The priority that the client chose.
///
/// # Errors
/// [`crate::error::Code::InvalidRequest`] at the header's name.
pub fn priority(headers: &HeaderMap) -> Result<Priority, Error> {
    match headers.get(PRIORITY).map(HeaderValue::as_bytes) {
        None => Ok(Priority::default()),
        Some(b"interactive") => Ok(Priority::Interactive),
        Some(b"bulk") => Ok(Priority::Bulk),
        Some(_) => Err(Error::invalid(PRIORITY, "must be `interactive` or `bulk`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let value = HeaderValue::from_str(value).expect("a header value");
        HeaderMap::from_iter([(HeaderName::from_static(name), value)])
    }

    #[test]
    fn an_invalid_request_id_is_replaced() {
        assert_eq!(request_id(&headers("x-request-id", "abc-1")), "abc-1");
        for invalid in ["", "a b", &"x".repeat(129)] {
            let id = request_id(&headers("x-request-id", invalid));
            assert_eq!(id.len(), 36, "{invalid:?} gave {id:?}");
        }
    }

    #[test]
    fn an_unknown_priority_is_refused_by_name() {
        assert_eq!(priority(&HeaderMap::new()).expect("the default"), Priority::Interactive);
        assert_eq!(priority(&headers(PRIORITY, "bulk")).expect("known"), Priority::Bulk);
        let error = priority(&headers(PRIORITY, "urgent")).expect_err("unknown");
        assert_eq!(error.field(), Some(PRIORITY));
    }
}
