//! Decides which URLs and addresses the server may connect to. It does no name resolution.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::{Url, header::HeaderValue};

use crate::config::{self, Host, Network};

/// Maximum length of a URL: longer than those that servers use, signatures included.
const MAX_URL_BYTES: usize = 8 << 10;

/// Why a URL is not fetched. The text is for the client. It contains no address, so that a client cannot learn
/// how names resolve inside the network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The text is not a URL with a host.
    #[error("the URL is not valid")]
    NotAUrl,
    /// The scheme is neither `https` nor an allowed `http`.
    #[error("only {allowed} URLs are fetched")]
    Scheme {
        /// The allowed schemes.
        allowed: &'static str,
    },
    /// The URL has a user name or a password.
    #[error("URLs with a user name or a password are not fetched")]
    Credentials,
    /// The host is denied, or not among the allowed ones.
    #[error("this server does not fetch from that host")]
    Host,
    /// The host has no address that may be connected to.
    #[error("the host's address is one that this server does not connect to")]
    Address,
}

/// Checks URLs and addresses against the configuration.
#[derive(Debug)]
pub struct Guard {
    allow_http: bool,
    allow_hosts: Option<Vec<Host>>,
    deny_hosts: Vec<Host>,
    allow_networks: Vec<Network>,
    deny_networks: Vec<Network>,
}

impl Guard {
    /// A guard with the rules of a configuration.
    #[must_use]
    pub fn new(config: &config::Fetch) -> Self {
        Self {
            allow_http: config.allow_http,
            allow_hosts: config.allow_hosts.clone().map(|list| list.0),
            deny_hosts: config.deny_hosts.clone().map(|list| list.0).unwrap_or_default(),
            allow_networks: config.allow_networks.0.clone(),
            deny_networks: config.deny_networks.clone().map(|list| list.0).unwrap_or_default(),
        }
    }

    /// Parses and checks a URL from a client.
    ///
    /// # Errors
    /// Any [`Refusal`]. An address is checked here only if it is written in the URL.
    pub fn parse(&self, url: &str) -> Result<Url, Refusal> {
        if url.len() > MAX_URL_BYTES {
            return Err(Refusal::NotAUrl);
        }
        self.check(Url::parse(url).map_err(|_| Refusal::NotAUrl)?)
    }

    /// Parses and checks the target of a redirect.
    ///
    /// # Errors
    /// Any [`Refusal`].
    pub fn join(&self, base: &Url, target: &HeaderValue) -> Result<Url, Refusal> {
        let target = target.to_str().map_err(|_| Refusal::NotAUrl)?;
        if target.len() > MAX_URL_BYTES {
            return Err(Refusal::NotAUrl);
        }
        self.check(base.join(target).map_err(|_| Refusal::NotAUrl)?)
    }

    fn check(&self, url: Url) -> Result<Url, Refusal> {
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http => {}
            _ if self.allow_http => return Err(Refusal::Scheme { allowed: "http and https" }),
            _ => return Err(Refusal::Scheme { allowed: "https" }),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::Credentials);
        }
        // The parser has already normalised every notation of an address (decimal, octal, short).
        let host = url.host_str().ok_or(Refusal::NotAUrl)?;
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        // A list names the address of the connection, in whatever notation the URL has it.
        let canonical = literal.as_ref().map(|address| address.to_canonical().to_string());
        let named = canonical.as_deref().unwrap_or(host);
        let allowed = |hosts: &Vec<Host>| hosts.iter().any(|rule| rule.matches(named));
        if !self.allow_hosts.as_ref().is_none_or(allowed) || allowed(&self.deny_hosts) {
            return Err(Refusal::Host);
        }
        match literal {
            // A name is checked again when it is resolved; an address is not, so it is checked here.
            Ok(address) if !self.allows(address) => Err(Refusal::Address),
            _ => Ok(url),
        }
    }

    /// Whether an address may be connected to.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        // `::ffff:127.0.0.1` connects to 127.0.0.1, so it is checked as such.
        let address = address.to_canonical();
        let within = |network: &Network| match network {
            Network::Public => is_public(address),
            Network::Of(network) => network.contains(&address),
        };
        self.allow_networks.iter().any(within) && !self.deny_networks.iter().any(within)
    }
}

/// Whether an address belongs to the public Internet, by IANA's registries of special addresses.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, d] = address.octets();
    let special = match (a, b, c) {
        // This network, private, loopback, link-local (cloud metadata), multicast and reserved.
        (0 | 10 | 127 | 224.., ..) | (169, 254, _) | (192, 168, _) => true,
        (172, b, _) => b & 0xf0 == 16,
        // Carrier-grade NAT.
        (100, b, _) => b & 0xc0 == 64,
        // Benchmarks.
        (198, b, _) if b & 0xfe == 18 => true,
        // Protocol assignments, documentation, the old 6to4 relays.
        (192, 0, 0 | 2) | (198, 51, 100) | (203, 0, 113) | (192, 88, 99) => true,
        // This address is public by the registry, but reaches the host of an Azure machine.
        (168, 63, 129) => d == 16,
        _ => false,
    };
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    // All assigned public addresses are in 2000::/3. Private, link-local, multicast and translated (NAT64)
    // addresses are outside.
    let unicast = segments[0] & 0xe000 == 0x2000;
    let special = match (segments[0], segments[1]) {
        // Protocol assignments: Teredo, benchmarks, ORCHID.
        (0x2001, second) if second < 0x0200 => true,
        // Documentation; 6to4, which wraps an IPv4 address.
        (0x2001, 0x0db8) | (0x2002, _) => true,
        (0x3fff, second) => second < 0x1000,
        _ => false,
    };
    unicast && !special
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Fetch;

    fn guard(change: impl FnOnce(&mut Fetch)) -> Guard {
        let mut config = Fetch::default();
        change(&mut config);
        Guard::new(&config)
    }

    fn allows(guard: &Guard, address: &str) -> bool {
        guard.allows(address.parse().expect(address))
    }

    #[test]
    fn only_public_addresses_are_connected_to() {
        let guard = guard(|_| {});
        for address in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "168.63.129.16",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::808:808",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!allows(&guard, address), "{address}");
        }
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "168.63.129.17",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450:4001::1",
        ] {
            assert!(allows(&guard, address), "{address}");
        }
    }

    #[test]
    fn lists_narrow_and_widen_what_is_allowed() {
        let guard = guard(|config| {
            config.allow_networks = "public,10.1.0.0/16".parse().expect("networks");
            config.deny_networks = Some("10.1.2.0/24,8.8.8.8".parse().expect("networks"));
        });
        assert!(allows(&guard, "10.1.0.1") && allows(&guard, "1.1.1.1"));
        assert!(!allows(&guard, "10.2.0.1") && !allows(&guard, "10.1.2.3"));
        assert!(!allows(&guard, "8.8.8.8") && !allows(&guard, "::ffff:8.8.8.8"));
    }

    #[test]
    fn urls_are_judged_before_anything_is_looked_up() {
        let strict = guard(|config| {
            config.deny_hosts = Some("bad.example,*.bad.example".parse().expect("hosts"));
        });
        let https = Refusal::Scheme { allowed: "https" };
        for (url, refusal) in [
            ("http://example.com/a.png", https.clone()),
            ("ftp://example.com/a.png", https.clone()),
            ("file:///etc/passwd", https.clone()),
            ("data:text/plain,x", https),
            ("https://user@example.com/", Refusal::Credentials),
            ("https://user:secret@example.com/", Refusal::Credentials),
            ("https://:secret@example.com/", Refusal::Credentials),
            ("https://bad.example/", Refusal::Host),
            ("https://BAD.example./", Refusal::Host),
            ("https://a.b.bad.example/", Refusal::Host),
            ("https://127.0.0.1/", Refusal::Address),
            ("https://127.1/", Refusal::Address),
            ("https://2130706433/", Refusal::Address),
            ("https://0x7f000001/", Refusal::Address),
            ("https://0177.0.0.1/", Refusal::Address),
            ("https://127。0。0。1/", Refusal::Address),
            ("https://169.254.169.254/latest/meta-data/", Refusal::Address),
            ("https://[::1]/", Refusal::Address),
            ("https://[::ffff:127.0.0.1]/", Refusal::Address),
            ("https://[::ffff:7f00:1]:8443/", Refusal::Address),
            ("https://[fe80::1]/", Refusal::Address),
            ("https://", Refusal::NotAUrl),
            ("https://exa mple.com/", Refusal::NotAUrl),
            ("https://[::1", Refusal::NotAUrl),
            ("not a url", Refusal::NotAUrl),
        ] {
            assert_eq!(strict.parse(url).expect_err(url), refusal, "{url}");
        }
        let long = format!("https://example.com/{}", "a".repeat(MAX_URL_BYTES));
        assert_eq!(strict.parse(&long), Err(Refusal::NotAUrl));
        assert!(strict.parse("https://example.com:8443/a.png?b=c#d").is_ok());
    }

    #[test]
    fn lists_of_hosts_mean_an_address_however_it_is_written() {
        let guard = guard(|config| {
            config.allow_networks = "127.0.0.0/8,public".parse().expect("networks");
            config.deny_hosts = Some("127.0.0.1,bad.example".parse().expect("hosts"));
        });
        for url in [
            "https://127.0.0.1/",
            "https://127.1/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:7f00:1]/",
            "https://bad.example./",
        ] {
            assert_eq!(guard.parse(url), Err(Refusal::Host), "{url}");
        }
        assert!(guard.parse("https://127.0.0.2/").is_ok());
    }

    #[test]
    fn an_allow_list_is_the_only_way_in() {
        let guard = guard(|config| {
            config.allow_hosts = Some("img.example,*.cdn.example".parse().expect("hosts"));
            config.allow_http = true;
        });
        assert!(guard.parse("http://img.example/a").is_ok());
        assert!(guard.parse("https://a.cdn.example/a").is_ok());
        for url in ["https://cdn.example/", "https://example/", "https://8.8.8.8/"] {
            assert_eq!(guard.parse(url), Err(Refusal::Host), "{url}");
        }
    }

    #[test]
    fn redirects_are_judged_like_urls() {
        let guard = guard(|_| {});
        let base = guard.parse("https://example.com/a/b").expect("a URL");
        let join = |target: &'static str| guard.join(&base, &HeaderValue::from_static(target));
        assert_eq!(join("../c").expect("relative").as_str(), "https://example.com/c");
        assert_eq!(join("//127.0.0.1/"), Err(Refusal::Address));
        assert_eq!(join("http://example.com/"), Err(Refusal::Scheme { allowed: "https" }));
        assert_eq!(join("https://u:p@example.com/"), Err(Refusal::Credentials));
    }
}
