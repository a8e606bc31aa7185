//! Reads a call's metadata: its deadline, its priority, its id.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue};

use crate::{
    batch::Priority,
    edge,
    engine::{Context, Shares},
    error::Error,
    fetch::Client,
    telemetry::Trace,
};

const TIMEOUT: &str = "grpc-timeout";

/// Facts about a call that the edge has read. The method gets them in the request's extensions.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) received: Instant,
    pub(super) deadline: Instant,
    pub(super) priority: Priority,
    /// Its trace, if calls are traced.
    pub(super) trace: Option<Trace>,
    /// The name of its API key, if keys are required.
    pub(super) key: Option<Arc<str>>,
    /// See [`Context::work`].
    pub(super) work: Shares,
    /// See [`Context::response`].
    pub(super) response: Shares,
}

impl Call {
    /// Reads a call's metadata. `max_timeout` applies if the client sets no deadline, or a later one.
    ///
    /// # Errors
    /// `invalid_request` at the metadata's key.
    pub(super) fn read(headers: &HeaderMap, max_timeout: Duration) -> Result<Self, Error> {
        let received = Instant::now();
        let timeout = match headers.get(TIMEOUT) {
            None => max_timeout,
            Some(value) => parse_timeout(value)
                .ok_or_else(|| {
                    Error::invalid(TIMEOUT, "must be 1 to 8 digits and a unit: H, M, S, m, u or n")
                })?
                .min(max_timeout),
        };
        Ok(Self {
            received,
            deadline: received + timeout,
            priority: edge::priority(headers)?,
            trace: None,
            key: None,
            work: Shares::default(),
            response: Shares::default(),
        })
    }

    /// The context for the engine.
    pub(super) fn context(&self) -> Context {
        let context = Context {
            work: self.work.clone(),
            response: self.response.clone(),
            ..Context::new(self.priority, self.deadline)
        };
        if let Some(trace) = &self.trace {
            context.timings.follow(trace.clone());
        }
        if let Some(key) = &self.key {
            let _ = context.client.set(Client::Key(Arc::clone(key)));
        }
        context
    }
}

/// A `grpc-timeout`: at most 8 digits and a unit.
fn parse_timeout(value: &HeaderValue) -> Option<Duration> {
    let (digits, unit) = value.to_str().ok()?.split_at_checked(value.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount = digits.parse::<u64>().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(
            http::HeaderName::from_static(name),
            HeaderValue::from_str(value).expect("a header value"),
        )])
    }

    fn timeout(value: &str) -> Result<Duration, Error> {
        Call::read(&headers(TIMEOUT, value), MINUTE).map(|call| call.deadline - call.received)
    }

    #[test]
    fn the_shorter_of_both_deadlines_holds() {
        let call = Call::read(&HeaderMap::new(), MINUTE).expect("empty metadata");
        assert_eq!(call.deadline - call.received, MINUTE);
        for (value, expected) in [
            ("250m", Duration::from_millis(250)),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("3S", Duration::from_secs(3)),
            ("1M", MINUTE),
            ("99999999H", MINUTE),
            ("7u", Duration::from_micros(7)),
        ] {
            assert_eq!(timeout(value).expect(value), expected, "{value}");
        }
    }

    #[test]
    fn a_malformed_timeout_or_priority_is_refused_by_name() {
        for value in ["", "S", "5", "5s", "123456789S", "-1S", "+1S", "1 S"] {
            assert_eq!(timeout(value).expect_err(value).field(), Some(TIMEOUT), "{value}");
        }
        let error =
            Call::read(&headers("x-priority", "urgent"), MINUTE).expect_err("no such priority");
        assert_eq!(error.field(), Some("x-priority"));
        let call = Call::read(&headers("x-priority", "bulk"), MINUTE).expect("a priority");
        assert_eq!(call.priority, Priority::Bulk);
    }
}
