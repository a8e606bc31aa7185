//! Resolves host names to addresses that the server may connect to.
//!
//! The HTTP client connects only to addresses that this resolver returns. There is a single look-up, so a name
//! that resolves to another address after the check (DNS rebinding) gains nothing.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    pin::Pin,
    sync::Arc,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::oneshot;

use super::{
    guard::{Guard, Refusal},
    site,
    slots::{Client, Slots, Who},
};

/// The result of a [`Lookup`].
pub type Answer = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Looks host names up.
pub trait Lookup: Send + Sync {
    /// Every address of a host.
    fn lookup(&self, host: &str) -> Answer;
}

/// Asks the system: its hosts file and its name servers.
///
/// The system's look-up cannot be cancelled, and it takes many seconds when no name server responds. So each look-up
/// runs on its own thread and counts against the maximum until it ends, even after its fetch timed out. On the threads
/// that the process shares for blocking work, a few hundred such look-ups would stop everything else.
#[derive(Debug, Clone)]
pub struct SystemLookup {
    places: Slots,
}

impl SystemLookup {
    /// Look-ups of which at most `concurrent` run at once. Further ones wait.
    #[must_use]
    pub fn new(concurrent: usize) -> Self {
        Self { places: Slots::new(concurrent) }
    }
}

impl Lookup for SystemLookup {
    fn lookup(&self, host: &str) -> Answer {
        let (host, places) = (host.to_owned(), self.places.clone());
        Box::pin(async move {
            // The client of a look-up is not known here.
            let who = Who { client: Client::unique(), site: site(&host).into() };
            let place = places.take(who).await;
            let (sender, found) = oneshot::channel();
            let thread = std::thread::Builder::new().name("lookup".to_owned());
            thread.spawn(move || {
                let found = (host.as_str(), 0).to_socket_addrs();
                let found = found.map(|all| all.map(|address| address.ip()).collect());
                // The receiver is gone if the fetch was cancelled.
                let _ = sender.send(found);
                drop(place);
            })?;
            found.await.map_err(io::Error::other)?
        })
    }
}

/// Keeps only the addresses that the guard allows, and refuses a host that has none.
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
            // Port 0 stands for the URL's port.
            let addresses = allowed.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}
