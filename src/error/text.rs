//! Errors and panics as text, for the log.

use std::{any::Any, error::Error};

/// An error and its causes, on one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors show their cause themselves, and an item's error may be that of its batch.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// The message of a panic.
#[must_use]
pub fn of_panic(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message")
}

#[cfg(test)]
mod tests {
    use std::{io, panic};

    use super::*;
    use crate::error::Error;

    #[test]
    fn a_chain_has_every_cause_once() {
        let error = Error::internal(io::Error::other("the disk is gone"));
        let text = chain(&error);
        assert!(text.ends_with(": the disk is gone"), "{text}");
        let outer = io::Error::other(error);
        assert_eq!(chain(&outer), text);
    }

    #[test]
    fn a_panic_has_its_message() {
        let caught = |job: fn()| panic::catch_unwind(job).expect_err("panics");
        assert_eq!(of_panic(&*caught(|| panic!("bad row"))), "bad row");
        assert_eq!(of_panic(&*caught(|| panic!("bad {}", 7))), "bad 7");
        assert_eq!(of_panic(&*caught(|| panic::panic_any(7))), "a panic without a message");
    }
}
