//! Refuses requests whose `Host` names another site.
//!
//! A web page can make its own name resolve to 127.0.0.1 (DNS rebinding). For a browser on this machine, the
//! server is then part of that page's site, so the page may read its responses. Such requests have the page's
//! name in `Host`. A `Host` with an IP address is safe, because it cannot be rebound.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use crate::{
    config::Host,
    error::{Code, Error},
    rest::{AppState, problem::Failure},
};

/// Marks a request that came over a Unix socket. No browser can reach it, so any host is allowed.
#[derive(Debug, Clone, Copy)]
pub struct OverUnixSocket;

/// Which host names requests may use.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    /// `None` if every name is allowed.
    named: Option<Vec<Host>>,
}

impl Hosts {
    /// The names of a listener.
    ///
    /// * `loopback`: whether it listens on a loopback address. Then only the names of this machine and those in
    ///   `allowed` are allowed
    /// * `allowed`: the names in the configuration. Without a list, a listener on another address allows every
    ///   name
    #[must_use]
    pub fn of(loopback: bool, allowed: Option<&[Host]>) -> Self {
        let listed = allowed.map(<[Host]>::to_vec);
        Self { named: listed.or_else(|| loopback.then(Vec::new)) }
    }

    /// Whether requests for `host` are allowed. It may have a port.
    fn take(&self, host: &str) -> bool {
        let Some(named) = &self.named else { return true };
        let Ok(authority) = host.parse::<Authority>() else { return false };
        // The part before an at sign is not a host name, and no client sends one.
        if host.contains('@') {
            return false;
        }
        let host = authority.host().to_ascii_lowercase();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let name = host.strip_suffix('.').unwrap_or(&host);
        address.is_ok()
            || name == "localhost"
            || name.ends_with(".localhost")
            || named.iter().any(|allowed| allowed.matches(name))
    }

    /// Checks a request by its head.
    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Error> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let refused = || {
            Error::new(
                Code::HostNotAllowed,
                "this server does not answer under that host name; `listen.allowed_hosts` lists further ones",
            )
        };
        // HTTP/2 has the host in the target, and an HTTP/1.0 client may send none.
        let in_target = uri.authority().map(Authority::as_str);
        let in_header =
            hosts.next().map(|host| host.to_str().map_err(|_| refused())).transpose()?;
        let all = in_target.into_iter().chain(in_header).all(|host| self.take(host));
        if all && hosts.next().is_none() { Ok(()) } else { Err(refused()) }
    }
}

/// Refuses a request for a host name that is not allowed.
pub(in crate::rest) async fn check_host(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    let anywhere = request.extensions().get::<OverUnixSocket>().is_some();
    match state.0.access.hosts.check(request.uri(), request.headers()) {
        Err(error) if !anywhere => Failure(error).into_response(),
        _ => next.run(request).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_listener_takes_names_of_this_machine_and_addresses() {
        let hosts = Hosts::of(true, None);
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "localhost.",
            "siglip.localhost:8080",
            "127.0.0.1:8080",
            "[::1]:8080",
            "192.0.2.7",
        ] {
            assert!(hosts.take(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil.example@127.0.0.1",
            "notlocalhost",
            "",
            "a b",
        ] {
            assert!(!hosts.take(host), "{host}");
        }
    }

    #[test]
    fn a_list_adds_names_and_closes_an_open_listener() {
        let list =
            ["siglip.example".parse().expect("a name"), "*.b.example".parse().expect("names")];
        for loopback in [false, true] {
            let hosts = Hosts::of(loopback, Some(&list));
            for host in
                ["siglip.example:443", "Siglip.Example.", "a.b.example", "localhost", "10.0.0.1"]
            {
                assert!(hosts.take(host), "{host}");
            }
            assert!(!hosts.take("evil.example") && !hosts.take("b.example"));
        }
        assert!(Hosts::of(false, None).take("evil.example"));
    }

    #[test]
    fn target_and_header_are_both_judged() {
        let hosts = Hosts::of(true, None);
        let judged = |uri: &str, names: &[&str]| {
            let mut headers = HeaderMap::new();
            for name in names {
                headers.append(header::HOST, name.parse().expect("a value"));
            }
            hosts.check(&uri.parse().expect("a target"), &headers).is_ok()
        };
        assert!(judged("/info", &[]) && judged("/info", &["localhost"]));
        assert!(!judged("/info", &["evil.example"]));
        assert!(!judged("/info", &["localhost", "localhost"]));
        assert!(!judged("http://evil.example/info", &["localhost"]));
        assert!(!judged("http://localhost/info", &["evil.example"]));
        assert!(judged("http://localhost/info", &[]));
    }
}
