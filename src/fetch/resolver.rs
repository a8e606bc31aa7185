//! Host names to addresses that may be connected to.
//!
//! The client connects to what its resolver returns and asks nobody else. So a name that means one address
//! when it is checked and another when it is used (DNS rebinding) gains nothing: there is one look-up.

use std::{future::Future, io, net::IpAddr, net::SocketAddr, pin::Pin, sync::Arc};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::guard::{Guard, Refusal};

/// The answer of a [`Lookup`].
pub type Answer = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Looks host names up.
pub trait Lookup: Send + Sync {
    /// Every address of a host.
    fn lookup(&self, host: &str) -> Answer;
}

/// Asks the system: its hosts file and its name servers.
#[derive(Debug, Clone, Copy)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, host: &str) -> Answer {
        let host = host.to_owned();
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// Keeps the addresses that the guard allows, and refuses a host that has none.
pub(super) struct Checked {
    lookup: Arc<dyn Lookup>,
    guard: Arc<Guard>,
}

impl Checked {
    pub(super) fn new(lookup: Arc<dyn Lookup>, guard: Arc<Guard>) -> Self {
        Self { lookup, guard }
    }
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let found = self.lookup.lookup(name.as_str());
        let guard = Arc::clone(&self.guard);
        Box::pin(async move {
            let allowed: Vec<_> =
                found.await?.into_iter().filter(|&address| guard.allows(address)).collect();
            if allowed.is_empty() {
                return Err(Refusal::Address.into());
            }
            // Port 0 stands for the URL's own.
            let addresses = allowed.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}
