//! Types of options with several values: hosts, networks and origins.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

use super::options::LIST_SEPARATOR;

/// Several values in one text, separated by `;` or commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

impl<T: fmt::Display> fmt::Display for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, value) in self.0.iter().enumerate() {
            let separator = if index > 0 { LIST_SEPARATOR } else { "" };
            write!(f, "{separator}{value}")?;
        }
        Ok(())
    }
}

impl<T: FromStr<Err = String>> FromStr for List<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split([',', ';']).map(|value| value.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

/// A host name, or all host names below one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The name in lower case, without `*.`.
    name: String,
    /// Whether this means the names below `name` instead of `name` itself.
    below: bool,
}

impl Host {
    /// Whether this matches a host, given in lower case.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        // A name may end with the root's dot, which changes nothing.
        let host = host.strip_suffix('.').unwrap_or(host);
        match host.strip_suffix(self.name.as_str()) {
            Some("") => !self.below,
            Some(rest) => self.below && rest.ends_with('.'),
            None => false,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let label = |label: &str| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        if !name.split('.').all(label) {
            return Err(format!(
                "`{text}` is not a host name such as example.com or *.example.com"
            ));
        }
        Ok(Self { name: name.to_ascii_lowercase(), below })
    }
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Every address that belongs to the public Internet.
    Public,
    /// The addresses of one network.
    Of(IpNet),
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public => f.write_str("public"),
            Self::Of(network) => network.fmt(f),
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "public" {
            return Ok(Self::Public);
        }
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        // Set host bits are a typing error, or a single address was meant.
        network
            .ok()
            .filter(|network| network.addr() == network.network())
            .map(Self::Of)
            .ok_or_else(|| format!("`{text}` is not a network such as 10.1.0.0/16, nor `public`"))
    }
}

/// The origin of a page: scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebOrigin {
    /// Pages of all origins.
    Any,
    /// One origin, as browsers write it in the `Origin` header.
    Of(String),
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Of(origin) => f.write_str(origin),
        }
    }
}

impl FromStr for WebOrigin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        // Origins are compared letter by letter, so a value that browsers never send must not be accepted.
        let usable = |host: &str| {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            !host.is_empty() && host.bytes().all(|byte| plain(byte) || b"-.:[]_".contains(&byte))
        };
        match host {
            Some(host) if usable(host) => Ok(Self::Of(text.to_owned())),
            _ => Err(format!(
                "`{text}` is not an origin such as https://example.com, in lower case and without a \
                 path, nor `*`"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_match_themselves_or_what_is_below_them() {
        let host: Host = "Example.com".parse().expect("a name");
        assert!(host.matches("example.com") && host.matches("example.com."));
        assert!(!host.matches("a.example.com") && !host.matches("anexample.com"));
        let below: Host = "*.example.com".parse().expect("a pattern");
        assert!(below.matches("a.example.com") && below.matches("b.a.example.com"));
        assert!(!below.matches("example.com") && !below.matches("anexample.com"));
        for text in ["", "*", "*.", "a..b", "a b", "https://a.b", "*.*.a", "a/b"] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
    }

    #[test]
    fn lists_are_read_as_they_are_written() {
        for text in ["public", "public;10.0.0.0/8;fd00::/8", "192.0.2.1/32"] {
            assert_eq!(text.parse::<List<Network>>().expect(text).to_string(), text);
        }
        assert_eq!("10.0.0.1".parse::<Network>().expect("one").to_string(), "10.0.0.1/32");
        for text in ["", "10.0.0.1/8", "10.0.0.0/33", "private", "10.0.0.0/8,"] {
            assert!(text.parse::<List<Network>>().is_err(), "{text}");
        }
        for text in ["https://a.example", "http://localhost:3000;https://[::1]:8443", "*"] {
            assert_eq!(text.parse::<List<WebOrigin>>().expect(text).to_string(), text);
        }
        for text in ["a.example", "https://a.example/", "https://A.example", "null", ""] {
            assert!(text.parse::<WebOrigin>().is_err(), "{text}");
        }
        let hosts = "a.example, *.b.example".parse::<List<Host>>().expect("hosts");
        assert_eq!(hosts.to_string(), "a.example;*.b.example");
    }
}
