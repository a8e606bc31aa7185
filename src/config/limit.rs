//! A limit as error messages show it: its value in a readable unit, and the option that sets it.

use std::fmt;

use super::{
    Limits,
    codec::{Literal, print_bytes},
};

/// The value of a limit, and the option that sets it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    value: u64,
    is_bytes: bool,
    option: &'static str,
}

impl Limit {
    /// A limit on bytes.
    ///
    /// * `option`: its name in the config file, such as `limits.max_text_bytes`
    pub(crate) fn bytes(value: impl TryInto<u64>, option: &'static str) -> Self {
        Self { value: value.try_into().unwrap_or(u64::MAX), is_bytes: true, option }
    }

    /// A limit on a number of things.
    ///
    /// * `option`: its name in the config file, such as `limits.max_items`
    pub(crate) fn count(value: impl TryInto<u64>, option: &'static str) -> Self {
        Self { value: value.try_into().unwrap_or(u64::MAX), is_bytes: false, option }
    }

    /// Whether `count` is above the limit.
    pub(crate) fn is_below(self, count: usize) -> bool {
        u64::try_from(count).is_ok_and(|count| count > self.value)
    }
}

impl Limits {
    /// The limit on texts and images of a request.
    pub(crate) fn items(&self) -> Limit {
        Limit::count(self.max_items, "limits.max_items")
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match print_bytes(self.value) {
            _ if !self.is_bytes => write!(f, "{}", self.value)?,
            Literal::Text(size) => f.write_str(&size)?,
            _ => write!(f, "{} bytes", self.value)?,
        }
        write!(f, " (`{}`)", self.option)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_people_read_them() {
        let option = "limits.max_image_bytes";
        for (limit, expected) in [
            (Limit::bytes(20_u64 << 20, option), "20MiB (`limits.max_image_bytes`)"),
            (Limit::bytes(3000_usize, option), "3000 bytes (`limits.max_image_bytes`)"),
            (Limit::count(1024_usize, option), "1024 (`limits.max_image_bytes`)"),
        ] {
            assert_eq!(limit.to_string(), expected);
        }
        let two = Limit::count(2_usize, option);
        assert_eq!([1, 2, 3].map(|count| two.is_below(count)), [false, false, true]);
    }
}
